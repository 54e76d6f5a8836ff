"""What is declared with kubectl is brought to the server, kept there, and taken away."""

from __future__ import annotations

import pytest

from lab.server import until
from netspace.messages import NewNetwork, NewPool, OperatorRelease
from tests.kubernetes.apiserver import path_of
from tests.kubernetes.controllers import (
    CLUSTER,
    World,
    namespace,
    node,
    pod_event,
    scheduled,
    workload,
)


@pytest.fixture
def world(controlled: World) -> World:
    """Shared: each test has networks of its own."""
    return controlled


def test_what_is_declared_is_there_and_says_so(world: World) -> None:
    world.apply(
        world.network("red", vlan=910, ipv4="10.1.0.0/24", exclude=["10.1.0.9", "10.1.0.10"]),
        world.pool("red-a", "red", size=16, namespaces=["team"]),
    )
    world.wait_ready("network", "red")
    world.wait_ready("pool", "red-a")
    pool = world.ask(lambda client: client.pool(CLUSTER, "red-a"))
    assert (pool.owner, pool.size, pool.namespaces) == ("kubernetes", "16", ["team"])
    # Asked for all there is, kubectl forgets what it knew before the definitions came.
    assert "nsnet" in world.apiserver.kubectl("api-resources", "--api-group=ipam.netspace.io")
    shown = world.apiserver.kubectl("get", "nspool", "red-a")
    assert shown.split("\n")[0].split() == [
        "NAME", "KIND", "NETWORK", "SIZE", "USED", "FREE", "READY", "AGE",
    ]  # fmt: skip
    assert "red-a" in world.apiserver.kubectl("get", "netspace")


def test_a_pods_address_shows_in_the_pools_status(world: World) -> None:
    world.apply(
        world.network("teal", ipv4="10.2.0.0/24"),
        world.pool("teal-a", "teal", size=4, namespaces=["*"]),
    )
    world.wait_ready("pool", "teal-a")
    world.pod("teal-a", "web-0")
    until(lambda: world.status("pool", "teal-a").get("used") == 1, "one is used")
    assert world.status("pool", "teal-a")["free"] == "3"


def test_what_is_changed_is_changed_there(world: World) -> None:
    world.apply(
        world.network("blue", ipv4="10.3.0.0/24"),
        world.pool("blue-a", "blue", size=8, namespaces=["team"]),
    )
    world.wait_ready("pool", "blue-a")
    world.apply(
        world.network("blue", ipv4="10.3.0.0/24", gateway4="10.3.0.1", mtu=1400),
        world.pool("blue-a", "blue", size=20, namespaces=["*"], cooldown=5),
    )
    world.wait_ready("network", "blue")
    world.wait_ready("pool", "blue-a")
    network = world.ask(lambda client: client.network(CLUSTER, "blue"))
    pool = world.ask(lambda client: client.pool(CLUSTER, "blue-a"))
    assert (network.gateway4, network.mtu) == ("10.3.0.1", 1400)
    assert (pool.size, pool.namespaces, pool.cooldown) == ("20", ["*"], 5)
    world.apply(world.pool("blue-a", "blue", size=5, namespaces=["*"], cooldown=5))
    world.wait_ready("pool", "blue-a")
    assert world.ask(lambda client: client.pool(CLUSTER, "blue-a")).size == "5"


def test_ranges_become_those_that_are_declared(world: World) -> None:
    world.apply(
        world.network("lime", ipv4="10.4.0.0/24"),
        world.pool("lime-a", "lime", ranges=["10.4.0.16/28"], namespaces=["team"]),
    )
    world.wait_ready("pool", "lime-a")
    ranges = ["10.4.0.24-10.4.0.39"]
    world.apply(world.pool("lime-a", "lime", ranges=ranges, namespaces=["team"]))
    world.wait_ready("pool", "lime-a")
    assert world.ask(lambda client: client.pool(CLUSTER, "lime-a")).ranges == ranges


def test_what_the_server_refuses_is_said_and_tried_again(world: World) -> None:
    world.apply(
        world.network("gold", ipv4="10.5.0.0/29"),
        world.pool("gold-a", "gold", size=100, namespaces=["team"]),
    )
    message = world.wait_refused("pool", "gold-a", "NoSpace")
    assert "6 free addresses, not 100" in message
    world.apply(world.pool("gold-a", "gold", size=5, namespaces=["team"]))
    world.wait_ready("pool", "gold-a")


def test_a_pool_whose_network_comes_later_is_made_then(world: World) -> None:
    world.apply(world.pool("late-a", "late", size=5, namespaces=["team"]))
    assert "no network late" in world.wait_refused("pool", "late-a", "NotFound")
    world.apply(world.network("late", ipv4="10.6.0.0/24"))
    world.wait_ready("pool", "late-a")


def test_what_never_changes_is_said(world: World) -> None:
    world.apply(world.network("grey", ipv4="10.7.0.0/24"))
    world.wait_ready("network", "grey")
    world.apply(world.network("grey", ipv4="10.77.0.0/24"))
    message = world.wait_refused("network", "grey", "Invalid")
    assert "10.7.0.0/24 -> 10.77.0.0/24" in message
    world.apply(world.network("grey", ipv4="10.7.0.0/24"))
    world.wait_ready("network", "grey")


def test_a_nested_pool_has_its_parents_namespaces_wider_and_narrower(world: World) -> None:
    def declare(*namespaces: str) -> None:
        outer = world.pool("outer", "nest", size=32, namespaces=list(namespaces))
        world.apply(outer, world.pool("inner", "nest", "application", parent="outer", size=4))

    def listed() -> set[tuple[str, ...]]:
        return world.namespaces_of("outer", "inner")

    world.apply(world.network("nest", ipv4="10.8.0.0/24"))
    declare("a", "b")
    world.wait_ready("pool", "outer", "inner")
    declare("a", "b", "c")
    until(lambda: listed() == {("a", "b", "c")}, "both are wider")
    declare("b")
    until(lambda: listed() == {("b",)}, "both are narrower")
    world.wait_ready("pool", "outer", "inner")


def test_what_is_peoples_is_left_alone_until_it_is_handed_over(world: World) -> None:
    network = NewNetwork(name="ours", ipv4="10.9.0.0/24")
    pool = NewPool(name="ours-a", kind="netspace", network="ours", size="8", namespaces=["team"])
    world.ask(lambda client: client.create_network(CLUSTER, network))
    world.ask(lambda client: client.create_pool(CLUSTER, pool))
    world.apply(world.pool("ours-a", "ours", size=9, namespaces=["team"]))
    message = world.wait_refused("pool", "ours-a", "Owned")
    assert "netspacectl pool hand-over ours-a --to kubernetes" in message
    assert world.ask(lambda client: client.pool(CLUSTER, "ours-a")).size == "8"
    world.ask(lambda client: client.hand_over_pool(CLUSTER, "ours-a", "kubernetes"))
    world.wait_ready("pool", "ours-a")
    assert world.ask(lambda client: client.pool(CLUSTER, "ours-a")).size == "9"


def test_deleting_an_object_deletes_what_it_stands_for(world: World) -> None:
    world.apply(
        world.network("gone", ipv4="10.10.0.0/24"),
        world.pool("gone-a", "gone", size=8, namespaces=["team"]),
    )
    world.wait_ready("pool", "gone-a")
    world.apiserver.kubectl("delete", "network/gone", "pool/gone-a", "--timeout=20s")
    networks = world.ask(lambda client: client.networks(CLUSTER))
    assert "gone" not in {each.name for each in networks}


def test_a_pool_in_use_waits_and_says_for_whom(world: World) -> None:
    world.apply(
        world.network("busy", ipv4="10.11.0.0/24"),
        world.pool("busy-a", "busy", size=8, namespaces=["*"]),
    )
    world.wait_ready("pool", "busy-a")
    got = world.pod("busy-a", "holder")
    world.apiserver.kubectl("delete", "pool/busy-a", "--wait=false")
    until(lambda: world.condition("pool", "busy-a").get("reason") == "InUse", "in use")
    assert "team/holder" in world.condition("pool", "busy-a")["message"]
    assert got.ipv4 is not None
    word = OperatorRelease(network="busy", address=got.ipv4, generation=got.generation)
    world.ask(lambda client: client.operator_release(CLUSTER, word))
    until(lambda: not world.found("pool", "busy-a"), "it is gone")


def test_an_application_pool_follows_its_workloads(world: World) -> None:
    world.apply(namespace("shop"), namespace("strangers"))
    world.apply(
        world.network("apps", ipv4="10.12.0.0/24"),
        world.pool("db", "apps", "application", namespaces=["shop"], surplus=1, cooldown=0),
        workload("StatefulSet", "db", "shop", 3, "db"),
        workload("Deployment", "db-reader", "shop", 2, "db"),
        workload("Deployment", "thief", "strangers", 50, "db"),
    )

    def size() -> str:
        return str(world.status("pool", "db").get("size"))

    until(lambda: size() == "6", f"three, two and one to spare: {size()}")
    world.apiserver.kubectl("-n", "shop", "scale", "statefulset/db", "--replicas=1")
    until(lambda: size() == "4", "smaller")
    world.apiserver.kubectl("-n", "shop", "scale", "statefulset/db", "--replicas=5")
    until(lambda: size() == "8", "greater")
    world.apiserver.kubectl("-n", "shop", "delete", "deployment/db-reader")
    until(lambda: size() == "6", "without the deployment")


def test_namespaces_choose_by_their_annotations(world: World) -> None:
    def chosen() -> dict[str, str | None]:
        stored = world.ask(lambda client: client.namespaces(CLUSTER))
        return {each.namespace: each.selection.netspace for each in stored}

    world.apply(namespace("ns-a", netspace="red-a"), namespace("ns-b", families="ipv4"))
    until(lambda: chosen().get("ns-a") == "red-a" and "ns-b" in chosen(), "both are chosen")
    world.apiserver.kubectl("annotate", "namespace", "ns-a", "ipam.com/netspace-")
    until(lambda: "ns-a" not in chosen(), "the first chooses nothing any more")


def test_a_wrong_annotation_of_a_namespace_is_an_event_there(world: World) -> None:
    def said(name: str) -> list[str]:
        events = world.apiserver.ask("GET", f"/api/v1/namespaces/{name}/events")["items"]
        return [each["message"] for each in events if each["reason"] == "AnnotationInvalid"]

    world.apply(namespace("ns-c", ip="10.1.0.5"), namespace("ns-d", netspce="red-a"))
    until(lambda: said("ns-c") and said("ns-d"), "both are told")
    assert "an address is for one" in said("ns-c")[0]
    assert "there is no such annotation" in said("ns-d")[0]


def test_a_pod_whose_address_is_taken_is_told_by_whom(world: World) -> None:
    """As far as its namespace may know."""
    world.apply(
        namespace("team"),
        world.network("copper", ipv4="10.15.0.0/24"),
        world.pool("copper-a", "copper", size=8, namespaces=["team", "default"]),
    )
    world.wait_ready("pool", "copper-a")
    held = world.pod("copper-a", "fixed")
    address = str(held.ipv4).partition("/")[0]

    def said(within: str, pod: str = "asks") -> list[str]:
        found = world.apiserver.ask("GET", f"/api/v1/namespaces/{within}/events")["items"]
        return [
            each["message"]
            for each in found
            if each["reason"] == "AddressHolder" and each["involvedObject"]["name"] == pod
        ]

    def asks(pod: str, within: str, reason: str, component: str = "netspace-agent") -> None:
        made = scheduled(pod, "node-1")
        made["metadata"] |= {"namespace": within, "annotations": {"ipam.com/ip": address}}
        world.apply(made)
        uid = world.apiserver.ask("GET", path_of(made))["metadata"]["uid"]
        refused = pod_event(pod, within, uid, reason, component)
        world.apiserver.ask("POST", f"/api/v1/namespaces/{within}/events", refused)

    # First come those who are told nothing: it is not the agent's word, or it says something else.
    asks("rumour", "team", "AddressTaken", "somebody")
    asks("waits", "team", "AddressHeld")
    asks("asks", "team", "AddressTaken")
    asks("asks", "default", "AddressTaken")
    until(lambda: said("team") and said("default"), "both are told")
    [ours], [theirs] = said("team"), said("default")
    assert ours.startswith(
        f"{address} is held by team/fixed (UID uid-fixed) on node node-1 since 2"
    )
    assert theirs.startswith(f"{address} is held outside namespace default")
    assert "fixed" not in theirs
    assert not said("team", "rumour") and not said("team", "waits")


def test_addresses_of_a_deleted_nodes_pods_are_freed_and_only_those(world: World) -> None:
    world.apply(
        node("dead"), node("alive"), scheduled("survivor", "dead"),
        world.network("pink", ipv4="10.13.0.0/24"),
        world.pool("pink-a", "pink", size=8, namespaces=["*"]),
    )  # fmt: skip
    world.wait_ready("pool", "pink-a")
    world.report("dead", "alive")
    uid = world.apiserver.ask("GET", path_of(scheduled("survivor", "")))["metadata"]["uid"]
    world.pod("pink-a", "lost", "dead")
    kept = [
        world.pod("pink-a", "survivor", "dead", uid=uid),
        world.pod("pink-a", "other", "alive"),
    ]

    def used() -> set[str | None]:
        page = world.ask(lambda client: client.addresses(CLUSTER, pool="pink-a", state="used"))
        return {entry.ipv4 for entry in page.items}

    assert len(used()) == 3
    world.apiserver.kubectl("delete", "node", "dead")
    until(lambda: used() == {each.ipv4 for each in kept}, "only the lost one's is free")


def test_the_out_of_service_taint_frees_and_taking_it_away_ends_that(world: World) -> None:
    world.apply(
        node("tainted"), node("sound"),
        world.network("plum", ipv4="10.14.0.0/24"),
        world.pool("plum-a", "plum", size=8, namespaces=["*"]),
    )  # fmt: skip
    world.wait_ready("pool", "plum-a")
    world.report("tainted", "sound")
    world.pod("plum-a", "first", "tainted")
    taint = "node.kubernetes.io/out-of-service"

    def used() -> int:
        return world.ask(lambda client: client.pool(CLUSTER, "plum-a")).used

    world.apiserver.kubectl("taint", "node", "tainted", f"{taint}=nodeshutdown:NoExecute")
    until(lambda: used() == 0, "it is free")
    world.apiserver.kubectl("taint", "node", "tainted", f"{taint}-")
    world.pod("plum-a", "second", "tainted")
    until(lambda: world.is_unfenced("tainted"), "it is not fenced")
    assert used() == 1
