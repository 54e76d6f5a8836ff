"""Three small clusters with real programs for tests of what users of other systems complain of, and
what belongs to nobody's federation around them.

    far ── ra ── a1         a has a CNI of its own: ESP between it and the others; between b and c
           │ ╲              VXLAN. a's node is reached over IPv6 alone, from c with 1400 bytes.
    b1 b2 ─ rb ─ rc ── c1   near and far are hosts of no cluster: one in b's own network, the other
       near                 behind a's router.

On every node stand rules, routes, policies and states of other programs (`FOREIGN`), before it
joins and after it has left.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from federation.desired import ROUTE_PROTOCOL
from federation.node.policies import PRIORITIES
from hostnet import open_netns, xfrm
from lab import programs, topology
from lab.federation import joined, reach, wiring
from lab.federation.flows import Flow, Record
from lab.federation.layout import LabCluster, LabNode, cluster
from lab.federation.place import PATIENCE, FederatedPlace, ip_text
from lab.federation.reach import Way
from lab.federation.traffic import between, in_netns
from lab.federation.wiring import LabPod
from netspace.messages.federating import JoinFederation, Local, NewFederation, PeerStatus
from netspace.messages.federation import PathWord, Settings

A: Final = cluster("a", 1, 1, bridge="alpha")
B: Final = cluster("b", 2, 2, gateways=1)
C: Final = cluster("c", 3, 1)
CLUSTERS: Final = (A, B, C)
A1, B1, B2, C1 = A.nodes[0], *B.nodes, C.nodes[0]
NAME: Final = joined.NAME
REKEY: Final = 25
"""Seconds a key is used: every test runs through changes of keys."""
SETTINGS: Final = Settings(probe=0.5, rekey=REKEY)
"""One slow processor for all: a probe is answered late."""
SERVERS: Final[Mapping[str, Any]] = {
    "leader_ttl": 5,
    "times": {"refresh": 3, "backoff": 1, "silent": 60},
}
AGENTS: Final[dict[str, dict[str, Any]]] = {
    **{node.name: {"report": 2} for each in CLUSTERS for node in each.nodes},
    A1.name: {"report": 2, "underlay": {"addresses": [A1.underlay[1]]}},
}
PATHS: Final = {
    "a1": {"b1", "b2", "c1"},
    "b1": {"a1", "c1"},
    "b2": {"a1", "c1"},
    "c1": {"a1", "b1", "b2"},
}
"""Between which nodes paths are to be when all three are members."""
NEAR: Final = ("172.31.2.200", "fd31:2::200")
FAR: Final = ("198.51.100.2", "fd98::2")
OTHERS: Final = ("10.77.0.1", "10.88.0.1")
"""Ends of another program's IPsec tunnel, on a1 and b1."""
_BUILT_IN: Final = re.compile(r":\S+ ACCEPT ")
_VOLATILE: Final = re.compile(r"(\\| expires| cache| users) .*|\\.*| \[\d+:\d+\]|^(-. )\d+: ")


@dataclass(frozen=True)
class Dump:
    """What of a node's kernel its programs have set, as lines in order."""

    lines: tuple[str, ...]

    def without_ours(self) -> tuple[str, ...]:
        marks = (f"proto {ROUTE_PROTOCOL}", "NETSPACE", "netspace-fed")
        return tuple(
            line
            for line in self.lines
            if not any(mark in line for mark in marks) and not _of_our_policies(line)
        )

    def difference(self, other: Dump) -> list[str]:
        """But for which of the tunnels flows take: that follows the probes at any time."""
        gone = [f"- {line}" for line in self.lines if line not in other.lines]
        come = [f"+ {line}" for line in other.lines if line not in self.lines]
        chosen = "-j MARK --set-xmark 0x", f"mark 0/{SETTINGS.mark:#x}"
        return [line for line in gone + come if not any(mark in line for mark in chosen)]


def _of_our_policies(line: str) -> bool:
    found = re.search(r" priority (\d+)", line)
    return found is not None and int(found[1]) in PRIORITIES


class Complaints:
    """The place with its pods and hosts, nobody joined. `outside`: what hosts outside and pods
    reach of one another; `before`: each node's kernel."""

    def __init__(self, lab: FederatedPlace) -> None:
        self.lab = lab
        self.joining: tuple[list[Record], list[str]] = [], []
        lab.make(later=())
        self.hosts = {name: _host(name) for name in ("near", "far")}
        self.pods = {node.name: lab.add_pod(node, node.name) for node in lab.nodes}
        for node in lab.nodes:
            _foreign(node)
        _manual_tunnel()
        for node in lab.nodes:
            lab.start_node(node)
        asked = _outside(self.hosts, self.pods)
        silent = reach.silent(asked, 3)
        self.outside = [way for way in asked if way not in silent]
        for node in lab.nodes:
            self.until(lambda n=node: not _tentative(n), "addresses that count")  # type: ignore[misc]
        self.before = {node.name: dump(node) for node in lab.nodes}

    def found(self) -> None:
        member = self.lab.members[A.name]
        new = NewFederation(name=NAME, local=_local(A), settings=SETTINGS)
        member.ask(lambda client: client.found(A.name, new))

    def token(self) -> str:
        return self.lab.members[A.name].ask(lambda each: each.token(A.name, NAME, 600)).token

    def join(self, which: LabCluster, token: str = "") -> None:
        asked = JoinFederation(token=token or self.token(), local=_local(which))
        self.lab.members[which.name].ask(lambda client: client.join(which.name, asked))

    def leave(self, which: LabCluster) -> None:
        joined.leave(self.lab.members[which.name])

    # Looking

    def paths(self, *clusters: str) -> dict[tuple[str, str], PathWord]:
        """By its ends, as the nodes of these clusters say to their servers."""
        return {
            (node.node, path.node): path
            for name in clusters or self.lab.members
            for node in self.lab.members[name].status().nodes
            for path in node.paths
        }

    def missing(self, wanted: Mapping[str, set[str]]) -> list[str]:
        """The paths that should be up with a measured MTU and are not, or are and should not be."""
        pairs = {(one, other) for one, others in wanted.items() for other in others}
        known = self.paths()
        words = [f"{one} → {other} not there" for one, other in pairs - known.keys()]
        words += [f"{one} → {other} still there" for one, other in known.keys() - pairs]
        words += [
            f"{one} → {other} {path.state} {path.why}"
            for (one, other), path in known.items()
            if (one, other) in pairs and (path.state != "up" or not path.mtu)
        ]
        return sorted(words)

    def until_up(self, wanted: Mapping[str, set[str]] = PATHS) -> float:
        """Seconds until these paths are up and every node is as it should be."""
        said: list[str] = []

        def complete() -> bool:
            said[:] = self.missing(wanted) or joined.unsettled(self.lab)
            return not said

        return self.until(complete, lambda: f"paths: {'; '.join(said)}", pause=0.7)

    def until(
        self,
        condition: Callable[[], bool],
        what: str | Callable[[], str],
        seconds: float = PATIENCE,
        pause: float = 0.2,
    ) -> float:
        """Seconds until it held."""
        began = time.monotonic()
        while not condition():
            if time.monotonic() > began + seconds:
                print(self.lab.account())
                said = what if isinstance(what, str) else what()
                raise AssertionError(f"not within {seconds:.0f} s: {said}")
            time.sleep(pause)
        return time.monotonic() - began

    def sees(self, one: LabCluster, other: LabCluster) -> PeerStatus:
        """Another member in a cluster's status."""
        (federation,) = self.lab.members[one.name].status().federations
        return next(peer for peer in federation.peers if peer.cluster == other.name)

    def pod_of(self, node: LabNode) -> LabPod:
        return self.pods[node.name]

    def flows(self, here: LabNode, there: LabNode, count: int, port: int = 20000) -> list[Flow]:
        """UDP in both families, `count` of each."""
        one, other = self.pod_of(here), self.pod_of(there)
        ends = [(pod.netns, pod.addresses) for pod in (one, other)]
        return between(f"{here.name} → {there.name}", ends[0], ends[1], count, port)


def _local(which: LabCluster) -> Local:
    return Local(ranges=list(which.ranges), layout="distributed")


# The kernel


def dump(node: LabNode) -> Dump:
    """Links, addresses, routes and rules of all tables, IPsec policies, chains and sets. Not
    states: their keys change. Nor the chain and the set by which an agent that starts finds out
    for a moment what this kernel's firewall can do."""
    parts = _said(node)
    lines = [f"-4 {line}" for line in parts["ip -4"]] + [f"-6 {line}" for line in parts["ip -6"]]
    policies = "\n".join(parts["ip xfrm policy"]).replace("\n\t", " ").splitlines()
    # Those of sockets are IKE daemons' own.
    lines += sorted(line for line in policies if " dir " in line)
    for program in ("iptables-legacy-save", "ip6tables-legacy-save"):
        rules = _rules(parts[program])
        lines += [f"{program} {line}" for line in rules if "NETSPACE-TRIAL" not in line]
    lines += sorted(f"set {name}" for name in parts["ipset list -n"] if "-trial" not in name)
    cleaned = (_VOLATILE.sub("", line).strip() for line in lines)
    return Dump(tuple(line for line in cleaned if line))


_ASKED: Final = (
    "ip -4",
    "ip -6",
    "ip xfrm policy",
    "iptables-legacy-save",
    "ip6tables-legacy-save",
    "ipset list -n",
)
_BATCH: Final = " -o -batch - <<E\nlink show\naddress show\nroute show table all\nrule show\nE"
_MARK: Final = "=== "


def _said(node: LabNode) -> dict[str, list[str]]:
    """By command what it says on a node: one shell for all, since processes cost much there."""
    script = "".join(
        f"echo '{_MARK}{asked}'; {asked}{_BATCH if asked in ('ip -4', 'ip -6') else ''}\n"
        for asked in _ASKED
    )

    def run() -> str:
        return subprocess.run(
            ["sh", "-e"], input=script, capture_output=True, text=True, check=True,
            env=programs.environment(),
        ).stdout  # fmt: skip

    parts: dict[str, list[str]] = {}
    for line in within(node.name, run).splitlines():
        if line.startswith(_MARK):
            parts[line.removeprefix(_MARK)] = part = []
        else:
            part.append(line)
    return parts


def _tentative(node: LabNode) -> bool:
    return "tentative" in ip_text(node.name, "-6", "address", "show")


def ours(node: LabNode, *marks: str) -> list[str]:
    """Lines of the node's kernel, states too, that name any of these addresses."""
    states = ip_text(node.name, "xfrm", "state").replace("\n\t", " ").splitlines()
    return [line for line in [*dump(node).lines, *states] if any(mark in line for mark in marks)]


def states(node: LabNode, to: str = "") -> list[xfrm.State]:
    """Those of federations, to an address if one is given."""
    found = topology.within(topology.netns(node.name), xfrm.list_states)
    return [each for each in found if each.reqid >= 0x4E500000 and to in ("", str(each.target))]


def spis(node: LabNode, to: str) -> set[int]:
    """Of the states by which the node sends to an address."""
    return {each.spi for each in states(node, to) if not each.mask and each.spi}


def esp_packets(router: str, address: str) -> int:
    """How many a router's rules for them to an address (IPv6) have counted."""

    def save() -> str:
        return subprocess.run(
            ["ip6tables-legacy-save", "-c", "-t", "filter"],
            capture_output=True, text=True, check=True, env=programs.environment(),
        ).stdout  # fmt: skip

    counts = re.findall(rf"\[(\d+):\d+\] -A FORWARD -d {address}/128 -p esp ", within(router, save))
    assert counts
    return sum(map(int, counts))


def within(space_name: str, job: Callable[[], Any]) -> Any:
    """What a job gives in a namespace of the lab."""
    with open_netns(str(topology.NETNS / topology.netns(space_name))) as space:
        return in_netns(space, job)


def restore(space: str, four: str, six: str = "") -> None:
    """Another program changes a namespace's rules."""
    wiring.restore(space, [four, six or four])


def _rules(said: Iterable[str]) -> Iterator[str]:
    """Without chains of the kernel's that accept, which come with a table's first use."""
    table = ""
    for line in said:
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith("-A") or (line.startswith(":") and not _BUILT_IN.match(line)):
            yield f"{table} {line}"


# What is around


def _host(name: str) -> LabPod:
    """A host of no cluster."""
    space = topology.netns(name)
    topology.ip([f"netns add {space}"])
    if name == "near":
        addresses, router, gateways = NEAR, B.router, B.gateway
        topology.ip(
            [f"link add {name} type veth peer name up0 netns {space}",
             f"link set {name} master {wiring.SWITCH} up"],
            inside=topology.netns(router),
        )  # fmt: skip
    else:
        addresses, router, gateways = FAR, A.router, ("198.51.100.1", "fd98::1")
        topology.ip(
            [f"link add {name} type veth peer name up0 netns {space}", f"link set {name} up",
             f"addr add {gateways[0]}/24 dev {name}",
             f"addr add {gateways[1]}/64 dev {name} nodad"],
            inside=topology.netns(router),
        )  # fmt: skip
        for other in (B, C):
            vias = A.transit(other)
            topology.ip(
                [f"route add 198.51.100.0/24 via {vias[0]}", f"route add fd98::/64 via {vias[1]}"],
                inside=topology.netns(other.router),
            )
    topology.ip(
        ["link set lo up", "link set up0 up", f"addr add {addresses[0]}/24 dev up0",
         f"addr add {addresses[1]}/64 dev up0 nodad",
         *(f"route add default via {via}" for via in gateways)],
        inside=space,
    )  # fmt: skip
    return LabPod(name, B1, space, addresses)


def _outside(hosts: Mapping[str, LabPod], pods: Mapping[str, LabPod]) -> list[Way]:
    """From hosts outside to nodes, from pods of a and b to such hosts, in both families."""
    found = []
    for host in hosts.values():
        for node in (A1, B1):
            target = LabPod(node.name, node, topology.netns(node.name), node.underlay)
            found += [Way(host, target, address) for address in node.underlay]
            found += [Way(pods[node.name], host, address) for address in host.addresses]
        found += [Way(host, pods["b1"], address) for address in pods["b1"].addresses]
    return found


def _foreign(node: LabNode) -> None:
    """Another program's chains, routes, rules and IPsec on a node."""
    four, six = node.pod(1)
    ways = [
        f"{way} dev {wiring.BRIDGE} proto 99 {rest}"
        for way, own in (("10.200.0.0/16", four), ("fdee::/64", six))
        for rest in ("metric 50", f"table 100 src {own}")
    ]
    topology.ip(
        [*(f"route add {way}" for way in ways),
         "rule add fwmark 0x1000/0x1000 lookup 100 pref 900",
         "xfrm policy add src 10.9.0.0/16 dst 10.8.0.0/16 dir out priority 100 action block",
         "xfrm state add src 192.0.2.1 dst 192.0.2.9 proto esp spi 0x9 reqid 9 mode tunnel"
         f" aead rfc4106(gcm(aes)) 0x{'11' * 20} 128"],
        inside=topology.netns(node.name),
    )  # fmt: skip
    text = "\n".join(
        ["*mangle", ":EXAMPLE-MARK - [0:0]", "-A PREROUTING -j EXAMPLE-MARK",
         "-A EXAMPLE-MARK -m mark --mark 0x1000/0x1000 -j RETURN", "COMMIT",
         "*filter", ":EXAMPLE - [0:0]", "-A INPUT -j EXAMPLE",
         "-A EXAMPLE -p tcp -m tcp --dport 9 -j DROP", "COMMIT", ""]
    )  # fmt: skip
    restore(node.name, text)


def _manual_tunnel() -> None:
    """Another program's IPsec between a1 and b1, with keys by hand."""
    ends = {A1: (A1.underlay[0], OTHERS[0]), B1: (B1.underlay[0], OTHERS[1])}
    keys = {A1: "22" * 20, B1: "33" * 20}
    for here, there in ((A1, B1), (B1, A1)):
        (near, own), (far, other) = ends[here], ends[there]
        tunnel = "proto esp reqid 77 mode tunnel"
        lines = [f"addr add {own}/32 dev lo", f"route add {other}/32 via {_router(here)} src {own}"]
        for source, target, spi, key in (
            (near, far, 0x100 + here.number, keys[here]),
            (far, near, 0x100 + there.number, keys[there]),
        ):
            lines.append(
                f"xfrm state add src {source} dst {target} proto esp spi {spi:#x} reqid 77"
                f" mode tunnel aead rfc4106(gcm(aes)) 0x{key} 128"
            )
        lines += [
            f"xfrm policy add src {own}/32 dst {other}/32 dir out priority 50"
            f" tmpl src {near} dst {far} {tunnel}",
            f"xfrm policy add src {other}/32 dst {own}/32 dir in priority 50"
            f" tmpl src {far} dst {near} {tunnel}",
        ]
        topology.ip(lines, inside=topology.netns(here.name))


def _router(node: LabNode) -> str:
    return next(each for each in CLUSTERS if node in each.nodes).gateway[0]


def others_tunnel_works() -> bool:
    """Whether the other program's tunnel carries a datagram and its answer."""

    def bound(address: str) -> Callable[[], socket.socket]:
        def make() -> socket.socket:
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            made.bind((address, 7777))
            made.settimeout(2)
            return made

        return make

    one: socket.socket = within(A1.name, bound(OTHERS[0]))
    other: socket.socket = within(B1.name, bound(OTHERS[1]))
    with one, other, contextlib.suppress(TimeoutError):
        one.sendto(b"theirs", (OTHERS[1], 7777))
        said, whence = other.recvfrom(100)
        other.sendto(said, whence)
        return one.recv(100) == b"theirs"
    return False


# Packets


def losses(records: Iterable[Record]) -> list[str]:
    """The flows that lost something: how much, and when since they began."""
    found = []
    for record in records:
        gone = [s for s, came in zip(record.sent, record.arrived, strict=True) if not came]
        if gone:
            first, last = gone[0] - record.sent[0], gone[-1] - record.sent[0]
            count = f"{len(gone)} of {len(record.sent)}"
            found.append(f"{record.flow.name}: {count}, {first:.2f} to {last:.2f} s")
    return found


def segment_size(frame: bytes) -> tuple[str, int] | None:
    """Of a frame with a TCP SYN or SYN-ACK: which, and the segment size it offers."""
    version = frame[14] >> 4
    start = 14 + ((frame[14] & 15) * 4 if version == 4 else 40)
    if frame[23 if version == 4 else 20] != socket.IPPROTO_TCP or not frame[start + 13] & 2:
        return None
    at, end = start + 20, start + (frame[start + 12] >> 4) * 4
    while at < end and frame[at]:
        if frame[at] == 1:
            at += 1
            continue
        if frame[at] == 2:
            size: int = struct.unpack_from("!H", frame, at + 2)[0]
            return ("SYN-ACK" if frame[start + 13] & 16 else "SYN"), size
        at += frame[at + 1]
    return None


_DISCOVER = {4: (socket.IPPROTO_IP, 10, 14), 6: (socket.IPPROTO_IPV6, 23, 24)}
"""Level, IP_MTU_DISCOVER and IP_MTU of each family."""


def learned_mtu(here: LabPod, there: LabPod, at: int) -> int:
    """What a pod learns by datagrams that may not be fragmented: the largest packet that it may
    send to the other's address, and that arrives there. 0 where nothing does."""
    own, target = here.addresses[at], there.addresses[at]
    family = socket.AF_INET6 if at else socket.AF_INET
    level, discover, mtu = _DISCOVER[6 if at else 4]

    def bound(pod: LabPod, address: str) -> socket.socket:
        def make() -> socket.socket:
            made = socket.socket(family, socket.SOCK_DGRAM)
            made.bind((address, 0))
            return made

        with open_netns(str(topology.NETNS / pod.netns)) as space:
            return in_netns(space, make)

    with bound(here, own) as sender, bound(there, target) as receiver:
        sender.setsockopt(level, discover, 2)
        sender.connect(receiver.getsockname()[:2])
        receiver.settimeout(2)
        headers = 48 if at else 28
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            size = sender.getsockopt(level, mtu)
            try:
                sender.send(bytes(size - headers))
                if len(receiver.recv(2000)) == size - headers:
                    return size
            except TimeoutError:
                continue
            except OSError:
                time.sleep(0.05)
    return 0
