"""Who may, over the wire: a real server, certificates of `netspacectl certs`, the audit log."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ipam_server.client import Client
from ipam_server.term import Limits
from lab.etcd import Etcd
from lab.server import Server, until
from netspace import messages as m
from netspace.callers import Caller, enter
from netspace.http_client import HttpClient
from netspace.kubernetes import Fencing, GoneHolder
from netspace.problems import Problem
from netspace.tls import Tls
from netspacectl.app import App
from netspacectl.main import run
from statestore import Store
from tests.etcd.service_world import ask, make, serving
from tests.tls_served import free_port

Make = Callable[..., Server]


def netspacectl(*arguments: str, home: Path, status: int = 0) -> str:
    """What the program prints; it knows nothing but what the test's home says."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("XDG_CONFIG_HOME", "NETSPACE_SERVER", "NETSPACE_CLUSTER"):
            patch.delenv(name, raising=False)
        patch.setenv("HOME", str(home))
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            ended = run(arguments, App())
    assert ended == status, (arguments, said.getvalue())
    return said.getvalue()


class World:
    """A server by its own certificates, and callers of every role."""

    def __init__(self, folder: Path, etcd: Etcd, make_server: Make) -> None:
        self.pki = folder / "pki"
        self.home = folder / "home"
        self.home.mkdir()
        self.said: dict[str, str] = {}
        self.certs("ca")
        said = self.certs("server", "s1", "--host", "127.0.0.1", "--host", "localhost")
        tls = yaml.safe_load(said.partition("\n\n")[2])
        self.url = f"https://localhost:{free_port()}"
        self.server = make_server(
            etcd.url, **tls, listen=[self.url.replace("localhost", "127.0.0.1")]
        )
        self.server.start()

    def certs(self, *arguments: str) -> str:
        return netspacectl("certs", *arguments, "--dir", str(self.pki), home=self.home)

    def tls(self, stem: str) -> Tls:
        return Tls(self.pki / "ca.pem", self.pki / f"{stem}.pem", self.pki / f"{stem}.key")

    def client(self, stem: str) -> Client:
        return Client([self.url], 5, self.tls(stem))

    def settings(self, stem: str) -> None:
        """Writes the file that `netspacectl` reads."""
        folder = self.home / ".config" / "netspace"
        folder.mkdir(parents=True, exist_ok=True)
        tls = self.tls(stem)
        content = {
            "server": self.url,
            "ca": str(tls.ca),
            "cert": str(tls.cert),
            "key": str(tls.key),
        }
        (folder / "ctl.yaml").write_text(yaml.safe_dump(content))

    def ready(self) -> bool:
        async def asked() -> bool:
            async with self.client("admin-alice") as client:
                return (await client.status()).ready

        try:
            return asyncio.run(asked())
        except Problem:
            return False


@pytest.fixture
def world(tmp_path: Path, etcd: Etcd, make_server: Make) -> World:
    world = World(tmp_path, etcd, make_server)
    for arguments in (
        ("admin", "alice"),
        ("controller", "east"),
        ("node", "east", "node-1"),
        ("node", "east", "node-2"),
        ("node", "west", "node-1"),
    ):
        world.certs(*arguments)
    until(world.ready, "the server is ready")
    return world


def wanted(number: int, node: str, ip: str | None = None) -> m.AllocateRequest:
    return m.AllocateRequest(
        attachment=m.AttachmentId(container=f"c{number}", ifname="eth0"),
        claim=f"{number:032x}",
        node=node,
        pod=m.Pod(namespace="a", name=f"web-{number}", uid=f"u{number}"),
        selection=m.Selection(ip=(ip,) if ip else ()),
    )


def release_of(request: m.AllocateRequest, node: str) -> m.ReleaseRequest:
    return m.ReleaseRequest(attachment=request.attachment, claim=request.claim, node=node)


async def refused(awaitable: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        await awaitable
    return caught.value


def test_a_monitor_reads_the_metrics_and_whether_the_server_is_ready_and_nothing_else(
    world: World,
) -> None:
    world.certs("monitor", "prometheus")

    async def run() -> None:
        client = HttpClient([world.url], tls=world.tls("monitor-prometheus"))
        try:
            text = await client.request("GET", "/metrics")
            assert b"netspace_tls_certificate_expires_timestamp_seconds" in text
            assert await client.request("GET", "/readyz") == b"ok\n"
            for path in ("/v1/clusters", "/v1/status", "/v1/clusters/east/pools"):
                with pytest.raises(Problem) as caught:
                    await client.request("GET", path)
                assert caught.value.code == "forbidden"
        finally:
            await client.close()

    asyncio.run(run())


def test_certificates_of_the_command_let_everybody_in_as_what_they_are(world: World) -> None:
    async def run() -> None:
        async with (
            world.client("admin-alice") as admin,
            world.client("controller-east") as controller,
            world.client("node-east-node-1") as one,
            world.client("node-east-node-2") as two,
            world.client("node-west-node-1") as west,
        ):
            await admin.create_cluster(m.NewCluster(name="east"))
            network = m.NewNetwork(name="red", ipv4="10.9.0.0/24")
            assert (await refused(controller.create_network("east", network))).code == "forbidden"
            await admin.create_network("east", network)
            pool = m.NewPool(
                name="all", kind="default", network="red", size="16", cooldown=0, owner="kubernetes"
            )
            await controller.create_pool("east", pool)

            mine = await one.allocate("east", wanted(1, "node-1"))
            # In another's name, from another cluster, with another's attachment.
            assert (await refused(two.allocate("east", wanted(2, "node-1")))).code == "forbidden"
            assert (await refused(west.allocate("east", wanted(2, "node-1")))).code == "forbidden"
            assert (
                await refused(two.allocate("east", wanted(1, "node-2")))
            ).code == "address-taken"
            # What the other holds is neither seen, nor released, nor told by the way.
            attachment = wanted(1, "node-1").attachment
            assert (await one.held("east", attachment)).slot == mine.slot
            assert (await refused(two.held("east", attachment))).code == "forbidden"
            assert (await refused(west.held("east", attachment))).code == "forbidden"
            theirs = release_of(wanted(1, ""), "node-1")
            assert (await refused(two.release("east", theirs))).code == "forbidden"
            assert not (await two.release("east", release_of(wanted(1, ""), "node-2"))).released
            told = await refused(two.allocate("east", wanted(3, "node-2", mine.ipv4)))
            assert told.code == "address-taken"
            assert "web-1" not in str(told)
            assert "node-1" not in str(told)
            assert (await refused(two.addresses("east"))).code == "forbidden"
            assert (await refused(two.addresses("east", node="node-1"))).code == "forbidden"
            assert (await two.addresses("east", node="node-2")).items == []
            assert [e.pod for e in (await one.addresses("east", node="node-1")).items] == ["web-1"]
            assert (await refused(two.address("east", str(mine.ipv4)))).code == "forbidden"
            # What a node needs.
            assert [network.name for network in await one.networks("east")] == ["red"]
            assert [pool.name for pool in await one.pools("east")] == ["all"]
            report = m.NodeReport(version="1")
            assert (await one.report_node("east", "node-1", report)).used == 1
            assert (await refused(two.report_node("east", "node-1", report))).code == "forbidden"
            assert (await one.release("east", theirs)).released
            # And the rest is others'.
            for question in (one.clusters(), one.status(), one.nodes("east"), one.fabrics()):
                assert (await refused(question)).code == "forbidden"
            assert (await refused(controller.delete_cluster("east"))).code == "forbidden"
            assert (await refused(controller.networks("west"))).code == "forbidden"
            grow = one.grow_pool("east", "all", m.ResizePool(size="4"))
            found = await refused(grow)
            assert found.detail == (
                "node node-1 of cluster east may not POST /v1/clusters/east/pools/all/grow: that is"
                " for admins, controllers of the cluster"
            )
            assert "O=netspace:admins" in found.do

    asyncio.run(run())


def test_a_controller_looks_after_what_kubernetes_owns_and_nothing_else(world: World) -> None:
    async def run() -> None:
        async with (
            world.client("admin-alice") as admin,
            world.client("controller-east") as controller,
            world.client("node-east-node-1") as node,
        ):
            await admin.create_cluster(m.NewCluster(name="east"))
            await admin.create_cluster(m.NewCluster(name="west"))
            blue = m.NewNetwork(name="blue", ipv4="10.8.0.0/24", owner="kubernetes")
            assert (await controller.create_network("east", blue)).owner == "kubernetes"
            assert (await refused(controller.create_network("west", blue))).code == "forbidden"
            assert (await refused(node.create_network("east", blue))).code == "forbidden"
            await admin.create_network("east", m.NewNetwork(name="red", ipv4="10.9.0.0/24"))
            theirs = m.NewPool(
                name="team", kind="netspace", network="red", size="16", namespaces=["*"]
            )
            await admin.create_pool("east", theirs)
            # An application's pool nests in anybody's.
            nested = m.NewPool(
                name="db", kind="application", network="red", parent="team", size="4",
                owner="kubernetes",
            )  # fmt: skip
            await controller.create_pool("east", nested)
            owned: tuple[Awaitable[object], ...] = (
                controller.change_pool(
                    "east", "team", m.ChangePool(cooldown=1, owner="kubernetes")
                ),
                controller.delete_pool("east", "team", "kubernetes"),
                controller.delete_network("east", "red", "kubernetes"),
                admin.grow_pool("east", "db", m.ResizePool(size="1")),
                admin.change_network("east", "blue", m.ChangeNetwork(mtu=9000)),
                admin.delete_pool("east", "db"),
            )
            forbidden: tuple[Awaitable[object], ...] = (
                controller.delete_pool("east", "db"),
                controller.change_pool("east", "db", m.ChangePool(cooldown=1)),
                controller.hand_over_pool("east", "team", "kubernetes"),
                node.set_namespace("east", "shop", m.Selection(netspace="team")),
                node.fence("east", "node-1", Fencing(seen=1, why="deleted", gone=[])),
            )
            for each in owned:
                assert (await refused(each)).code == "owned"
            for each in forbidden:
                assert (await refused(each)).code == "forbidden"
            held = await node.allocate("east", wanted(1, "node-1", "10.9.0.13"))
            gone = [GoneHolder(network="red", slot=held.slot, generation=held.generation)]
            seen = (await controller.node_attachments("east", "node-1")).revision
            said = Fencing(seen=seen, why="out-of-service", gone=gone)
            assert (await controller.fence("east", "node-1", said)).gone == 1
            assert (await controller.fencing("east", "node-1")).why == "out-of-service"
            await node.report_node("east", "node-1", m.NodeReport(version="1"))
            assert (await refused(controller.fencing("east", "node-1"))).code == "not-found"
            await controller.unfence("east", "node-1")
            await controller.set_namespace("east", "shop", m.Selection(netspace="team"))
            assert [each.namespace for each in await controller.namespaces("east")] == ["shop"]
            await controller.unset_namespace("east", "shop")
            assert (await admin.hand_over_pool("east", "db", None)).owner is None
            await admin.delete_pool("east", "db")
            await controller.delete_network("east", "blue", "kubernetes")

    asyncio.run(run())


def test_the_command_line_speaks_tls_and_shows_what_was_changed(world: World) -> None:
    world.settings("admin-alice")
    netspacectl("cluster", "create", "east", home=world.home)
    netspacectl("network", "create", "red", "--ipv4", "10.9.0.0/24", home=world.home)
    netspacectl(
        "pool",
        "create",
        "all",
        "--kind",
        "default",
        "--network",
        "red",
        "--size",
        "8",
        home=world.home,
    )
    listed = json.loads(netspacectl("change", "list", "-o", "json", home=world.home))
    assert [(each["who"], each["action"], each["kind"], each["name"]) for each in listed] == [
        ("admin alice", "create", "network", "red"),
        ("admin alice", "create", "pool", "all"),
    ]
    assert "admin alice" in netspacectl("change", "list", "--clusters", home=world.home)
    # Other files by options: a node may see pools and change none.
    node = world.tls("node-east-node-1")
    files = ["--ca", str(node.ca), "--cert", str(node.cert), "--key", str(node.key), "-c", "east"]
    assert "all" in netspacectl("pool", "list", *files, home=world.home)
    said = netspacectl("pool", "delete", "all", *files, home=world.home, status=1)
    assert "node node-1 of cluster east may not DELETE" in said
    assert "go together" in netspacectl(
        "pool", "list", *files[:2], home=world.home / "no", status=2
    )
    lines = [line for line in world.server.log if line.get("event") == "audit"]
    assert [line["object"] for line in lines] == ["east", "red", "all"]
    assert lines[2]["who"] == "admin//alice"
    assert lines[2]["after"]["ranges"] == ["10.9.0.1-10.9.0.8"]


def test_a_follower_passes_on_in_the_callers_name(
    world: World, etcd: Etcd, make_server: Make
) -> None:
    world.certs("server", "s2", "--host", "127.0.0.1")
    tls = world.tls("server-s2")
    url = f"https://127.0.0.1:{free_port()}"
    files = {"ca": str(tls.ca), "cert": str(tls.cert), "key": str(tls.key)}
    follower = make_server(etcd.url, name="s2", tls=files, listen=[url])

    async def run() -> None:
        def there(stem: str) -> Client:
            return Client([url], 5, world.tls(stem))

        async with world.client("admin-alice") as admin:
            await admin.create_cluster(m.NewCluster(name="east"))
        follower.start()
        async with there("admin-alice") as admin, there("node-east-node-1") as node:
            async with asyncio.timeout(15):
                while True:
                    try:
                        status = await admin.status()
                        led = [each.leader for each in status.clusters] == ["s1"]
                        if led and [each.error for each in status.servers] == [None, None]:
                            break
                    except Problem:
                        pass
                    await asyncio.sleep(0.1)
            await admin.create_network("east", m.NewNetwork(name="red", ipv4="10.9.0.0/24"))
            pool = m.NewPool(name="all", kind="default", network="red", size="16", cooldown=0)
            await admin.create_pool("east", pool)
            held = await node.allocate("east", wanted(1, "node-1"))
            assert (await refused(node.allocate("east", wanted(1, "node-2")))).code == "forbidden"
            assert (await node.held("east", wanted(1, "").attachment)).slot == held.slot
            async with there("node-east-node-2") as other:
                found = await refused(other.held("east", wanted(1, "").attachment))
                assert found.code == "forbidden"
            page = await admin.audit("east")
            assert [entry.who for entry in page.items] == ["admin alice"] * 2

    asyncio.run(run())


# What is remembered


def test_every_kind_of_change_is_remembered_with_who_before_and_after(etcd: Etcd) -> None:
    async def run() -> list[m.Audited]:
        async with serving(etcd.url) as directory:
            enter(Caller("admin", name="alice"))
            await directory.create_fabric(m.NewFabric(name="lab"))
            service = await make(directory, ipv6=None)
            await service.change_network("red", m.ChangeNetwork(mtu=9000))
            await service.change_pool("main", m.ChangePool(cooldown=5))
            await service.grow_pool("main", m.ResizePool(size="4"))
            await service.shrink_pool("main", m.ResizePool(size="2"))
            enter(Caller("controller", "blue"))
            await service.reserve(m.Reserve(network="red", address="10.0.9.9", note="printer"))
            await service.unreserve("10.0.9.9", "red")
            held = await service.allocate(ask("c1"))
            release = m.OperatorRelease(
                network="red", address=str(held.ipv4), generation=held.generation
            )
            assert (await service.operator_release(release)).released
            assert not (await service.operator_release(release)).released
            with pytest.raises(Problem):
                await service.reserve(m.Reserve(network="red", address="10.0.0.0"))
            enter(Caller("admin", name="alice"))
            await service.delete_pool("main")
            await service.delete_network("red")
            found: list[m.Audited] = []
            after = None
            while True:
                page = await service.audit(3, after)
                assert len(page.items) <= 3
                found += page.items
                after = page.next
                if after is None:
                    break
            await directory.delete_cluster("blue")
            await directory.delete_fabric("lab")
            whole = (await directory.audit(100, None)).items
            assert [(each.kind, each.name, each.action) for each in whole] == [
                ("fabric", "lab", "create"),
                ("cluster", "blue", "create"),
                ("cluster", "blue", "delete"),
                ("fabric", "lab", "delete"),
            ]
            return found

    found = asyncio.run(run())
    assert [(each.kind, each.name, each.action) for each in found] == [
        ("network", "red", "create"),
        ("pool", "main", "create"),
        ("network", "red", "change"),
        ("pool", "main", "change"),
        ("pool", "main", "change"),
        ("pool", "main", "change"),
        ("address", "10.0.9.9", "reserve"),
        ("address", "10.0.9.9", "unreserve"),
        ("address", "10.0.0.1", "release"),
        ("pool", "main", "delete"),
        ("network", "red", "delete"),
    ]
    assert [each.revision for each in found] == sorted({each.revision for each in found})
    assert {each.who for each in found[:6]} == {"admin alice"}
    assert {each.who for each in found[6:9]} == {"the controller of cluster blue"}
    assert {each.who for each in found[9:]} == {"admin alice"}
    assert (found[2].before, found[2].after) == ({"mtu": 0}, {"mtu": 9000})
    assert (found[3].before, found[3].after) == ({"cooldown": 0.0}, {"cooldown": 5.0})
    assert found[4].before == {"ranges": ["10.0.0.1-10.0.3.232"]}
    assert found[4].after == {"ranges": ["10.0.0.1-10.0.3.236"]}
    assert found[0].before is None
    assert found[0].after is not None
    assert found[0].after["ipv4"] == "10.0.0.0/16"
    assert found[6].after == {"network": "red", "state": "reserved", "note": "printer"}
    assert found[8].before is not None
    assert (found[8].before["container"], found[8].before["state"]) == ("c1", "used")
    assert (found[9].after, found[10].after) == (None, None)


def test_only_the_newest_changes_are_remembered_and_none_for_too_long(etcd: Etcd) -> None:
    limits = Limits(timeout=5.0, audit_entries=10, audit_interval=0.2)

    async def run() -> None:
        async with serving(etcd.url, limits=limits) as directory, Store([etcd.url]) as store:
            service = await make(directory)
            for number in range(1, 41):
                await service.change_pool("main", m.ChangePool(cooldown=number))
            for _ in range(50):
                await asyncio.sleep(0.1)
                items = (await service.audit(100, None)).items
                if len(items) <= 10:
                    break
            assert [(each.after or {})["cooldown"] for each in items] == list(range(31, 41))
            stored = [
                kv
                async for page in store.pages(b"/netspace/v1/clusters/blue/audit/")
                for kv in page.items
            ]
            assert len(stored) == 10
        aged = Limits(timeout=5.0, audit_age=0.5, audit_interval=0.2)
        async with serving(etcd.url, limits=aged) as directory:
            for _ in range(60):
                await asyncio.sleep(0.1)
                try:
                    if not (await directory.cluster("blue").audit(100, None)).items:
                        return
                except Problem:
                    continue
            raise AssertionError("old changes stay for ever")

    asyncio.run(run())


def test_a_long_list_is_remembered_by_its_beginning(etcd: Etcd) -> None:
    async def run() -> m.Audited:
        async with serving(etcd.url) as directory:
            service = await make(directory)
            spans = [f"10.0.{100 + n // 100}.{n % 100 * 2 + 1}" for n in range(1000)]
            await service.create_pool(
                m.NewPool(name="many", kind="netspace", network="red", ranges=spans)
            )
            return (await service.audit(100, None)).items[-1]

    ranges = ((asyncio.run(run())).after or {})["ranges"]
    assert len(ranges) == 101
    assert ranges[-1] == "and 900 more"
