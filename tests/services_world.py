"""Two nodes on two VLANs with pods, vmacs, and the rules of Services: what a test of them needs.

The nodes are namespaces, each with a management card and one card for each VLAN (or one with both
VLANs tagged, where the kernel has 802.1Q) on bridges of a third namespace. The server is a double
that gives vmacs their addresses; everything else is real.
"""

from __future__ import annotations

import asyncio
import select
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_interface
from pathlib import Path
from typing import cast

from cni_plugins.attachment import Host, IpamClient
from cni_plugins.node_config import NodeConfig, ServicesSection
from cni_plugins.node_state.state import NodeState
from cni_plugins.records import Record, Records
from cni_plugins.results import Interface, Ip, Result
from cni_plugins.services.keeper import NodeServices
from cni_plugins.services.wanted import vmac_name
from cni_plugins.wiring import HostWiring
from hostnet import (
    Kernel,
    Macvlan,
    Net,
    Netns,
    Route,
    add_address,
    add_macvlan,
    add_route,
    anonymous_netns,
    default_route,
    ensure_vlan,
    get_link,
    prepare_pod_link,
    run_in,
    set_up,
    write_sysctl,
)
from netspace.messages import Allocation, Network, NetworkView, Pod, Services, Vmac
from netspace.problems import Problem
from tests.nodes import netns_path
from tests.repairing import Keeper, Work, keeping
from tests.wires import between, wire

_NOBODY = cast(IpamClient, None)
SERVICE_CIDRS = ("10.96.0.0/16", "fd00:96::/108")
TCP_PORT, UDP_PORT = 8080, 5353


@dataclass
class Vlan:
    """A VLAN, tagged or with a card of its own (`vlan` None)."""

    name: str
    number: int
    parent: str
    vlan: int | None
    services: Services = "open"

    @property
    def network(self) -> Network:
        return Network(
            name=self.name, revision=1, uid=f"uid-{self.name}", fabric="default",
            parent=self.parent, vlan=self.vlan, ipv4=f"10.{self.number}.0.0/24",
            ipv6=f"fd00:{self.number}::/64", gateway4=f"10.{self.number}.0.1",
            gateway6=f"fd00:{self.number}::1", mapping="offset", mtu=0, range=[], exclude=[],
            total="253", carved="0", used=0, reserved=0, services=self.services,
        )  # fmt: skip

    @property
    def vmac(self) -> str:
        return vmac_name(self.parent, self.vlan)


@dataclass
class WorldPod:
    """A pod whose eth0 is a macvlan on a node's VLAN."""

    name: str
    netns: Netns
    ipv4: str
    ipv6: str
    record: Record


@dataclass
class Server:
    """Gives every node its own address of each network; or says `problem`."""

    problem: Problem | None = None
    asked: list[tuple[str, str]] = field(default_factory=list)
    freed: list[tuple[str, str]] = field(default_factory=list)

    async def vmac(self, cluster: str, node: str, network: str) -> Vmac:
        self.asked.append((node, network))
        if self.problem is not None:
            raise self.problem
        last = 250 + int(node[-1])
        number = {"red": 91, "blue": 92}[network]
        return Vmac(
            network=network, node=node, slot=str(last), generation=1,
            ipv4=f"10.{number}.0.{last}", ipv6=f"fd00:{number}::{last:x}",
        )  # fmt: skip

    async def free_vmac(self, cluster: str, node: str, network: str) -> None:
        self.freed.append((node, network))


class WorldNode:
    """A node: its namespace, its pods, and what keeps its way to Services."""

    def __init__(
        self, world: World, number: int, folder: Path, section: ServicesSection | None = None
    ) -> None:
        self.world, self.number, self.name = world, number, f"node-{number}"
        self.netns = world.namespace()
        self.ipv4, self.ipv6 = f"192.168.7.{number}", f"fd00:7::{number}"
        self.pods: list[WorldPod] = []
        self.server = Server()
        self.folder = folder / self.name
        self.section = section or ServicesSection(cidrs=SERVICE_CIDRS)
        self.steps: list[str] = []
        self.services = self.restarted()
        world.cable(self.netns, f"n{number}m", "mgmt0", "mgmt")
        run_in(self.netns, self._manage)

    def restarted(self, services: ServicesSection | str | None = "same") -> NodeServices:
        """What keeps the way, anew as after a start of the agent."""
        section = self.section if isinstance(services, str) else services
        config = self._config(section)
        kernel = Kernel(self.steps.append)
        self.services = NodeServices(config, kernel, self.server, self.folder)
        return self.services

    @property
    def handover(self) -> Path:
        """Where a federation agent hands over routes for pods."""
        return self.folder / "federation.json"

    def _config(self, section: ServicesSection | None) -> NodeConfig:
        return NodeConfig(
            cluster="east", node=self.name, services=section, handover=str(self.handover)
        )

    def pod(self, vlan: Vlan, last: int) -> WorldPod:
        """A pod with the addresses that end so, on the VLAN."""
        netns = self.world.namespace()
        name = f"pod-{vlan.name}-{last}"
        network = vlan.network
        ipv4, ipv6 = f"10.{vlan.number}.0.{last}", f"fd00:{vlan.number}::{last:x}"
        interfaces = [ip_interface(f"{ipv4}/24"), ip_interface(f"{ipv6}/64")]

        def make(home: Net, there: Net) -> str:
            parent = ensure_vlan(home, vlan.parent, vlan.vlan)
            made = add_macvlan(home, there, netns, Macvlan("eth0", parent.name))
            prepare_pod_link(there, made, ipv6=True)
            set_up(there, get_link(there, "lo"))
            for interface in interfaces:
                add_address(there, made, interface)
            set_up(there, made)
            for gateway in ("10.%d.0.1", "fd00:%d::1"):
                add_route(there, made, default_route(_address(gateway % vlan.number)))
            return get_link(there, "eth0").mac

        mac = between(self.netns, netns, make)
        view = NetworkView(
            name=network.name, uid=network.uid, parent=network.parent, vlan=network.vlan,
            ipv4=network.ipv4, ipv6=network.ipv6, gateway4=network.gateway4,
            gateway6=network.gateway6, mapping="offset", mtu=0,
        )  # fmt: skip
        record = Record(
            state="held", plugin="netspace", network="pods", ipam="netspace-ipam", cluster="east",
            node=self.name, container=name, ifname="eth0", netns=netns_path(netns),
            pod=Pod(namespace="default", name=name), claim="1" * 32, mac=mac,
            master=vlan.parent, vlan=vlan.vlan, mode="bridge", sandbox=name,
            allocation=Allocation(
                cluster="east", pool="main", slot=str(last), generation=1, ipv4=ipv4, ipv6=ipv6,
                network=view, how="never",
            ),
            result=Result(
                interfaces=[Interface(name="eth0", mac=mac, sandbox=netns_path(netns))],
                ips=[Ip(address=str(each), interface=0) for each in interfaces],
            ),
        )  # fmt: skip
        pod = WorldPod(name, netns, ipv4, ipv6, record)
        self.pods.append(pod)
        return pod

    def keep(self, *, asked: bool = True) -> list[str]:
        """One look at everything; what it changed. Not `asked`: the server says nothing."""
        networks = [vlan.network for vlan in self.world.vlans] if asked else None
        records = [pod.record for pod in self.pods]
        return run_in(self.netns, lambda _: asyncio.run(self._keep(networks, records)))

    async def _keep(
        self, networks: Sequence[Network] | None, records: Sequence[Record]
    ) -> list[str]:
        return await self.services(networks, records)

    def faults(self) -> list[str]:
        """What `netspace-agent diagnose` says of it."""
        records = [pod.record for pod in self.pods]
        return run_in(self.netns, lambda _: asyncio.run(self.services.faults(records)))

    def kept(self) -> AbstractContextManager[Keeper]:
        """The node's agent looks after it; its first look is over."""
        records = Records(self.folder)
        for pod in self.pods:
            records.save(pod.record)
        config = self._config(self.section)
        kernel = Kernel()
        host = Host(
            cluster="east", node=self.name, records=records, client=_NOBODY,
            wiring=HostWiring(kernel), environ={},
        )  # fmt: skip

        async def state(host: Host) -> NodeState:
            made = NodeState(config, kernel, host, self.services)
            made.networks = [vlan.network for vlan in self.world.vlans]
            return made

        def inside(work: Work) -> None:
            run_in(self.netns, lambda _: asyncio.run(work(host)))

        return keeping(inside, state)

    def differs(self) -> bool:
        return run_in(self.netns, lambda _: asyncio.run(self.services.differ()))

    def strictness(self, rp_filter: int) -> None:
        """Sets rp_filter so that this is what holds for every link."""

        def job(net: Net) -> None:
            for link in Path("/proc/sys/net/ipv4/conf").iterdir():
                write_sysctl(net, str(rp_filter), "ipv4", "conf", link.name, "rp_filter")

        run_in(self.netns, job)

    def _manage(self, net: Net) -> None:
        set_up(net, get_link(net, "lo"))
        link = get_link(net, "mgmt0")
        for text in (f"{self.ipv4}/24", f"{self.ipv6}/64"):
            add_address(net, link, ip_interface(text))
        # As on a real node, kube-proxy's ClusterIPs have a route.
        for text in ("192.168.7.254", "fd00:7::fe"):
            add_route(net, link, default_route(_address(text)))


class World:
    """See the module. `tagged`: both VLANs are on one card, with 802.1Q."""

    def __init__(self, opened: ExitStack, folder: Path, *, tagged: bool) -> None:
        self._opened = opened
        self.switch = self.namespace()
        bridges = ("mgmt", "trunk") if tagged else ("mgmt", "up0", "up1")
        for bridge in bridges:
            run_in(self.switch, partial(_bridge, bridge))
        self.vlans = (
            [Vlan("red", 91, "up0", 910), Vlan("blue", 92, "up0", 920)]
            if tagged
            else [Vlan("red", 91, "up0", None), Vlan("blue", 92, "up1", None)]
        )
        self.nodes = [WorldNode(self, number, folder) for number in (1, 2)]
        for node in self.nodes:
            cards = {"up0": "trunk"} if tagged else {"up0": "up0", "up1": "up1"}
            for at, (card, bridge) in enumerate(cards.items()):
                self.cable(node.netns, f"n{node.number}p{at}", card, bridge)
            if tagged:
                for vlan in self.vlans:
                    run_in(node.netns, partial(_tag, vlan))

    def namespace(self) -> Netns:
        return self._opened.enter_context(anonymous_netns())

    def cable(self, node: Netns, port: str, card: str, bridge: str) -> None:
        """A card of the node, on a bridge of the switch."""
        wire(node, card, self.switch, port)

        def join(net: Net) -> None:
            index = get_link(net, port).index
            net.change("join", port, "link", "set", index=index, master=get_link(net, bridge).index)

        run_in(self.switch, join)

    def keep(self) -> None:
        for node in self.nodes:
            node.keep()

    def answering(self, pod: WorldPod | WorldNode) -> None:
        """The pod or node answers on TCP and UDP with its name and who asked."""
        self._opened.enter_context(Echo(pod.netns, pod.name))


@contextmanager
def world(folder: Path, *, tagged: bool) -> Iterator[World]:
    with ExitStack() as opened:
        yield World(opened, folder, tagged=tagged)


class Echo:
    """Answers every connection and datagram in a namespace with `NAME CLIENT`."""

    def __init__(self, netns: Netns, name: str) -> None:
        self._name = name
        self._sockets = run_in(netns, self._listen)
        self._stop, self._stopped = socket.socketpair()
        self._thread = threading.Thread(target=self._answer, name=f"echo {name}")

    def _listen(self, net: Net) -> list[socket.socket]:
        made = []
        for kind, port in ((socket.SOCK_STREAM, TCP_PORT), (socket.SOCK_DGRAM, UDP_PORT)):
            for family, host in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
                each = socket.socket(family, kind)
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                each.bind((host, port))
                if kind == socket.SOCK_STREAM:
                    each.listen(16)
                made.append(each)
        return made

    def _answer(self) -> None:
        while True:
            ready, _, _ = select.select([*self._sockets, self._stopped], [], [])
            if self._stopped in ready:
                return
            for each in ready:
                with suppress(OSError):
                    if each.type == socket.SOCK_STREAM:
                        connection, peer = each.accept()
                        with connection:
                            connection.sendall(f"{self._name} {peer[0]}".encode())
                    else:
                        _, peer = each.recvfrom(100)
                        each.sendto(f"{self._name} {peer[0]}".encode(), peer)

    def __enter__(self) -> Echo:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.close()
        self._thread.join()
        for each in (*self._sockets, self._stopped):
            each.close()


def ask(
    netns: Netns, address: str, port: int, kind: str, *, wait: float = 2.0, source: str = ""
) -> str:
    """What answers there, as `NAME CLIENT`; empty where nothing does."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    def job(_: Net) -> str:
        tcp = kind == "tcp"
        with socket.socket(family, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as asking:
            asking.settimeout(wait)
            if source:
                asking.bind((source, 0))
            try:
                asking.connect((address, port))
                if not tcp:
                    asking.send(b"?")
                return asking.recv(200).decode()
            except OSError:
                return ""

    return run_in(netns, job)


def _address(text: str) -> IPv4Address | IPv6Address:
    return ip_interface(text).ip


def _tag(vlan: Vlan, net: Net) -> None:
    ensure_vlan(net, vlan.parent, vlan.vlan)


def _bridge(name: str, net: Net) -> None:
    net.change("make", name, "link", "add", kind="bridge", ifname=name)
    set_up(net, get_link(net, name))


__all__ = ["Route", "World", "WorldNode", "WorldPod", "ask", "world"]
