"""What holds for pods, Services and nodes, whatever the VLANs are made of.

A module that imports these has the fixture `rig`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

import hostnet
from cni_plugins.services import chains
from cni_plugins.services.vmac import settings_of
from hostnet import KernelError, Net, run_in
from hostnet.firewall import find_firewall, read_firewall, restore
from hostnet.sets import AddressSet, ensure_sets, read_set
from netspace.problems import Problem
from tests.kube_proxy import VARIABLE, Service, kube_proxy, plain_rules, program
from tests.services_world import TCP_PORT, UDP_PORT, World, WorldNode, WorldPod, ask, world

FAMILIES = ("IPv4", "IPv6")
KINDS = (("tcp", 80, TCP_PORT), ("udp", 53, UDP_PORT))


@dataclass
class Rig:
    """Two nodes; on the first a client and a pod beside it, on the other one of the client's VLAN
    and one of another. Each is behind a Service."""

    world: World
    client: WorldPod
    beside: WorldPod
    remote: WorldPod
    apart: WorldPod
    services: dict[str, Service]

    @property
    def node(self) -> WorldNode:
        return self.world.nodes[0]

    def reaches(self, who: WorldPod, backend: WorldPod, *, wait: float = 2.0) -> set[str]:
        """By which families and protocols the pod gets an answer of the Service's backend."""
        found = set()
        for family, address in zip(FAMILIES, self.services[backend.name].ips, strict=True):
            for kind, port, _ in KINDS:
                answer = ask(who.netns, address, port, kind, wait=wait)
                if answer.split(" ")[0] == backend.name:
                    found.add(f"{kind} {family}")
        return found


EVERYTHING = {f"{kind} {family}" for kind, _, _ in KINDS for family in FAMILIES}


def rig_in(folder: Path, *, tagged: bool) -> Iterator[Rig]:
    with ExitStack() as opened:
        made = opened.enter_context(world(folder, tagged=tagged))
        here, there = made.nodes
        red, blue = made.vlans
        pods = [here.pod(red, 11), here.pod(red, 12), there.pod(red, 13), there.pod(blue, 14)]
        made.keep()
        for node in made.nodes:
            made.answering(node)
        for pod in pods:
            made.answering(pod)
        services = {
            pod.name: Service(pod.name, at, pod.ipv4, pod.ipv6) for at, pod in enumerate(pods, 1)
        }
        binary = program(folder)
        if binary is None:
            plain_rules(here, [*services.values()])
        else:
            back_end = run_in(here.netns, lambda net: find_firewall(net, 4)).back_end
            opened.enter_context(kube_proxy(here, binary, [*services.values()], back_end))
        yield Rig(made, pods[0], pods[1], pods[2], pods[3], services)


def test_kube_proxy_is_the_real_one(rig: Rig) -> None:
    if not os.environ.get(VARIABLE):
        pytest.skip(f"{VARIABLE} names no folder with kube-proxy: rules like its own instead")


@pytest.mark.parametrize("rp_filter", [0, 1, 2])
def test_a_pod_reaches_services_wherever_their_backends_are(rig: Rig, rp_filter: int) -> None:
    for node in rig.world.nodes:
        node.strictness(rp_filter)
    for backend in (rig.beside, rig.remote, rig.apart, rig.client):
        assert rig.reaches(rig.client, backend) == EVERYTHING, backend.name


@pytest.mark.parametrize("rp_filter", [0, 1, 2])
def test_a_pod_and_its_own_node_reach_each_other(rig: Rig, rp_filter: int) -> None:
    rig.node.strictness(rp_filter)
    pod, node = rig.client, rig.node
    for theirs, ours in ((node.ipv4, pod.ipv4), (node.ipv6, pod.ipv6)):
        for kind, _, port in KINDS:
            assert ask(pod.netns, theirs, port, kind) == f"{node.name} {ours}"
            assert ask(node.netns, ours, port, kind) == f"{pod.name} {theirs}"


def test_a_backend_sees_the_node_where_the_client_was_hidden(rig: Rig) -> None:
    address = rig.services[rig.remote.name].ips[0]
    answer = ask(rig.client.netns, address, 80, "tcp")
    assert answer == f"{rig.remote.name} 10.91.0.251"


def test_a_pod_asks_its_neighbours_itself(rig: Rig) -> None:
    for kind, _, port in KINDS:
        answer = ask(rig.client.netns, rig.remote.ipv4, port, kind)
        assert answer == f"{rig.remote.name} {rig.client.ipv4}"


def test_the_default_route_stays_at_the_gateway(rig: Rig) -> None:
    routes = run_in(rig.client.netns, hostnet.list_routes)
    gateways = {str(r.route.gateway) for r in routes if not r.route.destination.prefixlen}
    assert gateways == {"10.91.0.1", "fd00:91::1"}


def test_the_node_leads_nobody_from_one_vlan_to_another(rig: Rig) -> None:
    """A pod that takes its node for a router is refused, whatever it was told."""
    pod, node = rig.client, rig.node
    target = node.pod(rig.world.vlans[1], 40)
    try:
        node.keep()
        rig.world.answering(target)

        def routed(net: Net) -> None:
            link = hostnet.get_link(net, "eth0")
            for text, gateway in (("10.92.0.0/24", "10.91.0.251"), ("fd00:92::/64", "fd00:91::fb")):
                route = hostnet.Route(ip_network(text), ip_address(gateway))
                hostnet.replace_route(net, link, route)

        run_in(pod.netns, routed)
        for address in (target.ipv4, target.ipv6):
            for kind, _, port in KINDS:
                assert ask(pod.netns, address, port, kind, wait=0.3) == ""
    finally:
        node.pods.remove(target)
        node.keep()


def test_an_isolated_network_is_apart_for_services_too(rig: Rig) -> None:
    rig.world.vlans[1].services = "isolated"
    try:
        assert rig.node.keep()
        assert rig.reaches(rig.client, rig.apart, wait=0.3) == set()
        assert rig.reaches(rig.client, rig.remote) == EVERYTHING
    finally:
        rig.world.vlans[1].services = "open"
        rig.node.keep()
    assert rig.reaches(rig.client, rig.apart) == EVERYTHING


def test_a_source_that_is_not_the_pods_gets_nowhere_on_the_vmac(rig: Rig) -> None:
    """Another pod's address, and one that nobody has, both under the pod's own MAC."""
    pod, node = rig.beside, rig.node
    for stolen, target in (
        (f"{rig.client.ipv4}/24", "10.91.0.251"),
        ("10.91.0.77/24", "10.91.0.251"),
        ("fd00:91::77/64", "fd00:91::fb"),
    ):
        interface = ip_interface(stolen)

        def wear(net: Net, given: hostnet.Interface = interface) -> None:
            hostnet.add_address(net, hostnet.get_link(net, "eth0"), given)

        def shed(net: Net, given: hostnet.Interface = interface) -> None:
            hostnet.delete_address(net, hostnet.get_link(net, "eth0"), given)

        run_in(pod.netns, wear)
        try:
            source = str(interface.ip)
            answer = ask(pod.netns, target, TCP_PORT, "tcp", wait=0.3, source=source)
            assert answer == "", stolen
        finally:
            run_in(pod.netns, shed)
    assert ask(pod.netns, node.ipv4, TCP_PORT, "tcp") != ""


def test_a_look_at_what_is_right_changes_nothing(rig: Rig) -> None:
    rig.node.keep()
    rig.node.steps.clear()
    assert rig.node.keep() == []
    assert rig.node.steps == []
    settle(rig.node)


def test_another_start_of_the_agent_changes_nothing(rig: Rig) -> None:
    before = rules_of(rig.node)
    rig.node.restarted()
    rig.node.keep()
    assert rules_of(rig.node) == before


def test_a_flushed_chain_is_noticed_and_written_again(rig: Rig) -> None:
    before = rules_of(rig.node)
    for table, chain in (("nat", "NETSPACE-SERVICES"), ("filter", "NETSPACE-FORWARD")):
        feed(rig.node, f"*{table}\n-F {chain}\nCOMMIT\n")
        assert rig.node.differs()
        assert any(chain in line for line in rig.node.keep())
        assert rules_of(rig.node) == before
        settle(rig.node)


def test_a_table_that_another_program_rewrote_is_hooked_again(rig: Rig) -> None:
    before = rules_of(rig.node)
    theirs = "-m conntrack --ctstate ESTABLISHED -j ACCEPT"
    feed(rig.node, f"*filter\n-D FORWARD -j NETSPACE-FORWARD\n-I FORWARD 1 {theirs}\nCOMMIT\n")
    try:
        assert rig.node.differs()
        rig.node.keep()
        forward = rules_of(rig.node)["filter"]["FORWARD"]
        assert forward[:2] == ["-j NETSPACE-FORWARD", theirs]
    finally:
        feed(rig.node, f"*filter\n-D FORWARD {theirs}\nCOMMIT\n")
        rig.node.keep()
    assert rules_of(rig.node)["filter"]["NETSPACE-FORWARD"] == before["filter"]["NETSPACE-FORWARD"]


def test_a_changed_setting_is_noticed_and_set_again(rig: Rig) -> None:
    settings = [
        (value, path)
        for value, path in settings_of(rig.node.services._wanted.places)
        if (path[0], path[-1]) != ("ipv6", "disable_ipv6")
    ]

    def write(value: str, path: tuple[str, ...]) -> None:
        run_in(rig.node.netns, lambda net: hostnet.write_sysctl(net, value, *path))

    wrong = [("0" if value != "0" else "1", path) for value, path in settings]
    for (value, path), (other, _) in zip(settings, wrong, strict=True):
        write(other, path)
        assert rig.node.differs(), path
        write(value, path)
    for other, path in wrong:
        write(other, path)
    assert rig.node.keep()
    assert (
        run_in(
            rig.node.netns,
            lambda net: [(hostnet.read_sysctl(net, *path), path) for _, path in settings],
        )
        == settings
    )


def test_a_deleted_vmac_is_made_again_with_all_it_had(rig: Rig) -> None:
    name = rig.world.vlans[0].vmac
    run_in(rig.node.netns, lambda net: hostnet.delete_link(net, name))
    assert any("made" in line for line in rig.node.keep())
    assert rig.reaches(rig.client, rig.remote) == EVERYTHING


def delete_vmac(rig: Rig) -> str:
    name = rig.world.vlans[0].vmac
    run_in(rig.node.netns, lambda net: hostnet.delete_link(net, name))
    return f"{name} is missing"


def flush_chain(rig: Rig) -> str:
    feed(rig.node, "*nat\n-F NETSPACE-SERVICES\nCOMMIT\n")
    return "the chain NETSPACE-SERVICES (nat) has 0 rules"


def rewrite_table(rig: Rig) -> str:
    theirs = "-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT"
    feed(rig.node, f"*filter\n-F FORWARD\n{theirs}\n-A FORWARD -j NETSPACE-FORWARD\nCOMMIT\n")
    return "FORWARD (filter) has another's rule ahead of NETSPACE-FORWARD"


def empty_set(rig: Rig) -> str:
    [known] = [each for each in sets_of(rig) if each.name == "netspace-vlans4"]
    run_in(rig.node.netns, lambda net: ensure_sets(net, [replace(known, entries=frozenset())]))
    return "the set netspace-vlans4 lacks 2 entries"


def take_address(rig: Rig) -> str:
    vlan = rig.world.vlans[0]

    def job(net: Net) -> None:
        link = hostnet.get_link(net, vlan.vmac)
        hostnet.delete_address(net, link, ip_interface("10.91.0.251/24"))

    run_in(rig.node.netns, job)
    return f"{vlan.vmac} lacks the address 10.91.0.251/24"


@pytest.mark.parametrize("harm", [delete_vmac, flush_chain, rewrite_table, empty_set, take_address])
def test_the_agent_heals_it_within_two_seconds_and_says_so(
    rig: Rig, harm: Callable[[Rig], str], caplog: pytest.LogCaptureFixture
) -> None:
    rig.node.keep()
    if harm is empty_set and not sets_of(rig):
        pytest.skip("this kernel has no sets of addresses")
    assert rig.node.faults() == []
    found = harm(rig)
    assert any(found in fault for fault in rig.node.faults()), rig.node.faults()
    rig.node.keep()
    with rig.node.kept() as keeper, caplog.at_level(logging.WARNING):
        harm(rig)
        # What is done is told: to look at all that there is would keep the agent from its work.
        keeper.heals(lambda: any(vars(r).get("subject") == "services" for r in caplog.records))
        assert rig.node.faults() == []
    assert rig.reaches(rig.client, rig.remote) == EVERYTHING


def test_with_the_last_network_its_vmac_goes(rig: Rig) -> None:
    vlans = rig.world.vlans
    rig.world.vlans = []
    try:
        rig.node.keep()
        names = {link.name for link in run_in(rig.node.netns, hostnet.list_links)}
        assert not any(name.startswith("vmac") for name in names)
        assert not any("NETSPACE" in chain for t in rules_of(rig.node).values() for chain in t)
    finally:
        rig.world.vlans = vlans
        rig.node.keep()
    assert rig.reaches(rig.client, rig.remote) == EVERYTHING


def test_foreign_rules_and_sets_are_as_they_were(rig: Rig) -> None:
    node = rig.node
    chain = ":THEIRS - [0:0]\n-A THEIRS -s 192.0.2.1/32 -j DROP\n"
    theirs = AddressSet("theirs", "hash:net", 4, frozenset({"192.0.2.0/24"}))
    other = chain.replace("DROP", "RETURN")
    feed(node, f"*filter\n{chain}-A FORWARD -j THEIRS\nCOMMIT\n*nat\n{other}COMMIT\n")
    with_sets = True
    try:
        run_in(node.netns, lambda net: ensure_sets(net, [theirs]))
    except KernelError:
        with_sets = False
    before = foreign(rules_of(node))
    node.restarted(None)
    node.keep()
    assert foreign(rules_of(node)) == before
    assert not any("NETSPACE" in chain for t in rules_of(node).values() for chain in t)
    node.restarted()
    node.keep()
    assert foreign(rules_of(node)) == before
    if with_sets:
        assert run_in(node.netns, lambda net: read_set(net, theirs)) == theirs.entries
    assert rig.reaches(rig.client, rig.remote) == EVERYTHING


def test_without_services_the_vmac_and_its_address_are_given_back(rig: Rig) -> None:
    node = rig.node
    node.server.freed.clear()
    node.restarted(None)
    node.keep()
    try:
        assert sorted(node.server.freed) == [("node-1", "blue"), ("node-1", "red")]
        names = {link.name for link in run_in(node.netns, hostnet.list_links)}
        assert not any(name.startswith("vmac") for name in names)
    finally:
        node.restarted()
        node.keep()
    assert rig.reaches(rig.client, rig.remote) == EVERYTHING


def test_a_node_that_gets_no_address_says_why_and_keeps_the_rest(rig: Rig) -> None:
    node = rig.node
    node.restarted()
    node.server.problem = Problem("no-space", "every address lies in a pool", do="shrink a pool")
    try:
        with pytest.raises(KernelError, match=r"every address lies in a pool; shrink a pool"):
            node.keep()
        assert rig.reaches(rig.client, rig.remote) == EVERYTHING
    finally:
        node.server.problem = None
        node.restarted()
        node.keep()


def test_a_node_that_cannot_ask_keeps_what_it_knows(rig: Rig) -> None:
    rig.node.restarted()
    assert rig.node.keep(asked=False) == []
    assert rig.reaches(rig.client, rig.remote) == EVERYTHING


def sets_of(rig: Rig) -> list[AddressSet]:
    """The sets that there should be; none where the kernel has no such thing."""
    services = rig.node.services
    assert services._ability is not None
    return chains.sets_of(services._wanted, services._ability.kinds)


def settle(node: WorldNode) -> None:
    """Until nothing differs: kube-proxy may just have written something of its own."""
    for _ in range(10):
        if not node.differs():
            return
        assert node.keep() == []
    raise AssertionError("something differs at every look")


def rules_of(node: WorldNode) -> dict[str, dict[str, list[str]]]:
    """All rules of both families: those of IPv6 in tables with a 6."""

    def job(net: Net) -> dict[str, dict[str, list[str]]]:
        four = read_firewall(net, find_firewall(net, 4)).tables
        six = read_firewall(net, find_firewall(net, 6)).tables
        return four | {f"{table}6": chains for table, chains in six.items()}

    return run_in(node.netns, job)


def foreign(tables: dict[str, dict[str, list[str]]]) -> dict[str, dict[str, list[str]]]:
    return {
        table: {
            chain: [rule for rule in rules if "NETSPACE" not in rule]
            for chain, rules in chains.items()
            if "NETSPACE" not in chain
        }
        for table, chains in tables.items()
        if any("NETSPACE" not in chain for chain in chains)
    }


def feed(node: WorldNode, text: str) -> None:
    """Another program changes the IPv4 rules."""
    run_in(node.netns, lambda net: restore(net, find_firewall(net, 4), text))
