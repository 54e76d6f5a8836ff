"""Two clusters on one wire with real charons, for tests of IPsec: nodes a1 and a2, gateways b1, b2.

    a1 ───────────┐              ┌── b1
                  ├── the wire ──┤
    a2 ── nat ────┘              └── b2

Each node has one pod's address of both families on a dummy link. a2 is behind a router that
translates. Drivers run in an event loop of their own thread.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from pathlib import Path as File
from typing import Any, TypeVar

from federation.desired import Accept, Path, Policy, Tunnel
from federation.node.connections import Membership
from federation.node.ipsec import IpsecDriver, TunnelState
from federation.node.policies import Result, reconcile
from hostnet import Net, Netns, open_netns, run_in, write_sysctl, xfrm
from lab import charon, programs
from tests.ipsec_pki import FederationPki
from tests.wires import Tap

T = TypeVar("T")

FEDERATION, REQID, MASK = "one", 0x4E500001, 0x00F00000
SO_MARK = 36
RANGES = {"a": ("10.1.0.0/16", "fd01::/64"), "b": ("10.2.0.0/16", "fd02::/64")}
EVERYTHING = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}
NODES = {
    "a1": ("a", "192.0.2.1", "10.1.0.1", "fd01::1"),
    "a2": ("a", "198.51.100.2", "10.1.0.2", "fd01::2"),
    "b1": ("b", "192.0.2.11", "10.2.0.1", "fd02::1"),
    "b2": ("b", "192.0.2.12", "10.2.0.2", "fd02::2"),
}
WIRE, NAT = "nsipsec-wire", "nsipsec-nat"


def mark(ordinal: int) -> int:
    return ordinal << 20


@dataclass
class Node:
    name: str
    cluster: str
    address: str
    pod: str
    pod6: str
    folder: File
    charon: subprocess.Popen[bytes] | None = None
    driver: IpsecDriver | None = None
    running: Future[None] | None = None
    told: list[tuple[str, TunnelState]] = field(default_factory=list)

    @property
    def netns(self) -> str:
        return f"nsipsec-{self.name}"

    @property
    def vici(self) -> File:
        return self.folder / "charon.vici"

    @property
    def log(self) -> File:
        return self.folder / "charon.log"

    def open(self) -> Netns:
        return open_netns(f"/run/netns/{self.netns}")


class World:
    def __init__(self, folder: File, opened: ExitStack) -> None:
        self.pki = FederationPki("a", "b", "c")
        self.nodes = {name: Node(name, *values, folder / name) for name, values in NODES.items()}
        self.memberships = {
            name: self.membership(node.cluster, name, node.address)
            for name, node in self.nodes.items()
        }
        opened.callback(self._end)
        self._make()
        for node in self.nodes.values():
            self.start_charon(node, wait=False)
        for node in self.nodes.values():
            assert node.charon is not None
            charon.wait(node.charon, node.vici, node.log)
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def membership(
        self, cluster: str, node: str, address: str, signer: str = "", days: float = 30
    ) -> Membership:
        key, certificate = self.pki.node(cluster, node, address, signer, days)
        return Membership(FEDERATION, node, key, certificate, self.pki.root, self.pki.members, MASK)

    # Programs.

    def start_charon(self, node: Node, wait: bool = True) -> None:
        node.vici.unlink(missing_ok=True)
        node.charon = charon.start(node.netns, node.vici, node.log)
        if wait:
            charon.wait(node.charon, node.vici, node.log)

    def kill_charon(self, node: Node) -> None:
        assert node.charon is not None
        node.charon.kill()
        node.charon.wait()

    def start_driver(self, node: Node) -> IpsecDriver:
        def make() -> IpsecDriver:
            return IpsecDriver(
                node.vici,
                lambda path, state: node.told.append((path.node, state)),
                netns=netns,
                orphaned=8.0,
            )

        netns = node.open()
        node.driver = self.call(make)
        node.running = self.begin(node.driver.run())
        return node.driver

    def stop_driver(self, node: Node) -> None:
        """As the end of its agent."""
        if node.running is not None:
            node.running.cancel()
            until(lambda: node.running is None or node.running.done(), "the driver ends")
            node.running = node.driver = None

    def want(
        self,
        node: Node,
        tunnels: list[Tunnel],
        accepts: list[Accept],
        membership: Membership | None = None,
    ) -> None:
        driver = node.driver or self.start_driver(node)
        mine = membership or self.memberships[node.name]
        self.call(lambda: driver.want(tunnels, accepts, [mine]))

    def call(self, job: Callable[[], T]) -> T:
        async def run() -> T:
            return job()

        return self.begin(run()).result(20)

    def begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    # What is wanted.

    def tunnel(self, node: Node, to: str, ordinal: int) -> Tunnel:
        far = self.nodes[to]
        path = Path(FEDERATION, far.cluster, to)
        return Tunnel(path, node.address, far.address, ordinal, REQID, True)

    def accept(self, node: Node, cluster: str) -> Accept:
        return Accept(FEDERATION, cluster, self.pki.members[cluster], node.address, REQID)

    def policies(self, node: Node, tunnels: list[Tunnel]) -> list[Policy]:
        """Blocks, tunnels in, what comes in, and a way for packets that have no mark yet."""
        far = "b" if node.cluster == "a" else "a"
        found = []
        for remote_text, local_text in zip(RANGES[far], RANGES[node.cluster], strict=True):
            remote, local = ip_network(remote_text), ip_network(local_text)
            anything = EVERYTHING[remote.version]
            found.append(Policy("block", anything, remote))
            for tunnel in tunnels:
                unmarked = {0} if tunnel is tunnels[0] else set()
                for each in {mark(tunnel.ordinal)} | unmarked:
                    out = Policy("out", anything, remote, mark=each, mask=MASK, reqid=REQID)
                    found.append(replace(out, local=tunnel.local, remote=tunnel.remote))
            arriving = Policy("in", remote, local, local=node.address, reqid=REQID)
            found += [arriving, replace(arriving, action="fwd")]
        return found

    def apply(self, node: Node, policies: list[Policy]) -> Result:
        return self.within(node, lambda net: reconcile(net, policies))

    def within(self, node: Node, job: Callable[[Net], T]) -> T:
        with node.open() as netns:
            return run_in(netns, job)

    def states(self, node: Node) -> list[xfrm.State]:
        return self.within(node, xfrm.list_states)

    def up(self, node: Node, *names: str) -> bool:
        driver = node.driver
        if driver is None:
            return False
        states = self.call(
            lambda: {path.node: state.state for path, state in driver.states.items()}
        )
        return all(states.get(name) == "up" for name in names)

    # What is on the wire.

    @contextmanager
    def tap(self, node: str) -> Iterator[Tap]:
        with open_netns(f"/run/netns/{WIRE}") as netns, Tap(netns, node) as tap:
            yield tap

    def udp(self, node: Node, address: str, port: int = 0, ordinal: int = 0) -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET

        def make(_: Net) -> socket.socket:
            made = socket.socket(family, socket.SOCK_DGRAM)
            if ordinal:
                made.setsockopt(socket.SOL_SOCKET, SO_MARK, mark(ordinal))
            made.bind((address, port))
            made.settimeout(2)
            return made

        return self.within(node, make)

    def _make(self) -> None:
        lines = [
            f"netns add {name}" for name in (WIRE, NAT, *(n.netns for n in self.nodes.values()))
        ]
        ip(lines)
        ip(["link add name br0 type bridge", "link set br0 up"], WIRE)
        for port, netns in (
            ("a1", "nsipsec-a1"),
            ("nat", NAT),
            ("b1", "nsipsec-b1"),
            ("b2", "nsipsec-b2"),
        ):
            ip(
                [
                    f"link add name {port} type veth peer name eth0 netns {netns}",
                    f"link set {port} master br0 up",
                ],
                WIRE,
            )
        ip(
            [
                "link add name in0 type veth peer name eth0 netns nsipsec-a2",
                "link set in0 up",
                "addr add 198.51.100.1/24 dev in0",
                "addr add 192.0.2.2/24 dev eth0",
                "link set eth0 up",
            ],
            NAT,
        )
        for node in self.nodes.values():
            far = "b" if node.cluster == "a" else "a"
            behind = node.name == "a2"
            gateway = "198.51.100.1" if behind else "192.0.2.11" if far == "b" else "192.0.2.1"
            lines = [
                "link set lo up",
                f"addr add {node.address}/24 dev eth0",
                "link set eth0 up",
                "link add name pods type dummy",
                "link set pods up",
                f"addr add {node.pod}/32 dev pods",
                f"addr add {node.pod6}/128 dev pods nodad",
                f"addr add fd00::{node.address.rpartition('.')[2]}/64 dev eth0 nodad",
                f"route add {RANGES[far][0]} via {gateway} src {node.pod}",
                f"route add {RANGES[far][1]} via fd00::99 src {node.pod6}",
                "neigh add fd00::99 lladdr 02:00:00:00:00:99 dev eth0 nud permanent",
            ]
            if behind:
                lines.append("route add default via 198.51.100.1")
            ip(lines, node.netns)
        with open_netns(f"/run/netns/{NAT}") as router:
            run_in(router, lambda net: write_sysctl(net, "1", "ipv4", "ip_forward"))
        rules = "*nat\n-A POSTROUTING -o eth0 -j MASQUERADE\nCOMMIT\n"
        restore = str(programs.find("iptables-legacy-restore"))
        subprocess.run(["ip", "netns", "exec", NAT, restore], input=rules, text=True, check=True)

    def _end(self) -> None:
        for node in self.nodes.values():
            self.stop_driver(node)
            if node.charon is not None:
                self.kill_charon(node)
        if hasattr(self, "loop"):
            self.begin(_all_ended()).result(20)
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()
            self.loop.close()
        for name in (WIRE, NAT, *(node.netns for node in self.nodes.values())):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


async def _all_ended() -> None:
    """A driver that was told to end has yet to close what it had open."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


class Stream:
    """Numbered datagrams from one socket to another at a steady pace; `lost` after it ended."""

    def __init__(self, sender: socket.socket, receiver: socket.socket, pace: float = 0.005) -> None:
        self._sender, self._receiver, self._pace = sender, receiver, pace
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.sent, self.refused = 0, 0
        self.seen: set[int] = set()

    def __enter__(self) -> Stream:
        self._receiver.settimeout(0.3)
        self._taking = threading.Thread(target=self._take, daemon=True)
        self._taking.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._taking.join()

    @property
    def lost(self) -> int:
        return self.sent - len(self.seen)

    def _run(self) -> None:
        target = self._receiver.getsockname()[:2]
        while not self._stop.wait(self._pace):
            try:
                self._sender.sendto(str(self.sent).encode().ljust(64), target)
            except OSError:
                self.refused += 1
            self.sent += 1

    def _take(self) -> None:
        while True:
            try:
                self.seen.add(int(self._receiver.recv(200)))
            except TimeoutError:
                if self._stop.is_set() and not self._thread.is_alive():
                    return


def until(condition: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.05)


def ip(lines: list[str], netns: str | None = None) -> None:
    inside = [] if netns is None else ["-n", netns]
    done = subprocess.run(
        ["ip", *inside, "-batch", "-"], input="\n".join(lines), capture_output=True, text=True
    )
    assert not done.returncode, done.stderr
