"""Chains and sets as text: what should stand in a node's firewall for its federations. Pure.

raw      NETSPACE-FED      what is between federated ranges is not tracked: an answer may come by
                           another gateway, which connection tracking would call invalid
mangle   NETSPACE-FED      which tunnel a flow takes: its bucket's ordinal in our bits of the mark
         NETSPACE-FED-MSS  the largest TCP segment, both ways, so in SYN and in SYN-ACK
filter   NETSPACE-FED      passes on what is federated, and refuses what is not exposed
         NETSPACE-FED-IN   takes tunnels and probes from peers, answers, and what is exposed
nat      NETSPACE-FED      federated addresses are never translated

Sets (ipset) are used where the kernel has them, else a rule for each pair of ranges. Without
connection tracking an answer is known by what is in it: TCP that opens no connection, ICMP, and
datagrams from a port which the other cluster exposes (where it exposes all: to a port that clients
are given, 32768 and up).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final

from federation.desired import DesiredNode, Exposure, Flows, Network
from hostnet.chains import Family, Hook, Tables
from hostnet.sets import AddressSet

HOOKS: Final = (
    Hook("raw", "PREROUTING", "NETSPACE-FED"),
    Hook("raw", "OUTPUT", "NETSPACE-FED"),
    Hook("mangle", "PREROUTING", "NETSPACE-FED"),
    Hook("mangle", "OUTPUT", "NETSPACE-FED"),
    Hook("mangle", "FORWARD", "NETSPACE-FED-MSS"),
    Hook("filter", "FORWARD", "NETSPACE-FED"),
    Hook("filter", "INPUT", "NETSPACE-FED-IN"),
    Hook("nat", "POSTROUTING", "NETSPACE-FED"),
)

PREFIX: Final = "netspace-fed-"
"""Of the names of our sets."""

Bytecode = Callable[[Sequence[int], Family], str]
"""The program that tells whether a packet's flow is in one of the buckets (`plan/hashing.py`)."""

CLIENT_PORTS: Final = (32768, 65535)
_TARGET: Final = re.compile(r"-[jg] (\S+)")
_HARMLESS: Final = ("LOG", "NFLOG", "MARK", "CONNMARK", "TCPMSS", "TRACE", "DSCP")
_ICMP: Final = {4: "icmp", 6: "ipv6-icmp"}
_NO_OPENING: Final = "! --tcp-flags FIN,SYN,RST,ACK SYN"
_OPENING: Final = "--tcp-flags SYN,RST SYN"


@dataclass(frozen=True)
class Able:
    """What kernel and programs have. `sets`: hash:net; `buckets`: `-m bpf`, without which all flows
    to a cluster take one tunnel; `reject`: that a refusal can be told; `sctp`: ports of SCTP."""

    sets: bool = True
    buckets: bool = True
    reject: bool = True
    sctp: bool = True


@dataclass(frozen=True)
class _Group:
    """Ranges of one family, and the name of their set."""

    name: str
    ranges: tuple[str, ...]


def leads_away(rule: str) -> bool:
    """Whether a packet may not come past another program's rule: its chain may drop it."""
    found = _TARGET.search(rule)
    return found is not None and not (found[1] in _HARMLESS or found[1].startswith("NETSPACE-"))


def wanted_at_all(node: DesiredNode) -> bool:
    """Whether the node needs chains."""
    return bool(node.remote or node.ports)


def names_sctp(node: DesiredNode) -> bool:
    """Whether rules are to name ports of SCTP."""
    spans = (span for each in node.exposures for span in (*each.ours, *each.theirs))
    return any(transport == "sctp" for transport, _, _ in spans)


def sets_of(node: DesiredNode, able: Able) -> list[AddressSet]:
    """The sets, both families; none where the kernel has no such thing."""
    if not (able.sets and wanted_at_all(node)):
        return []
    found: dict[str, AddressSet] = {}
    for family in (4, 6):
        for group in _groups(node, 4 if family == 4 else 6):
            entries = frozenset(group.ranges)
            found[group.name] = AddressSet(group.name, "hash:net", family, entries)
    return [*found.values()]


def tables_of(node: DesiredNode, family: Family, able: Able, bytecode: Bytecode) -> Tables:
    """Our chains by table, each rule as iptables-save writes it."""
    return {
        "raw": {"NETSPACE-FED": list(_raw(node, family, able))},
        "mangle": {
            "NETSPACE-FED": list(_marks(node, family, able, bytecode)),
            "NETSPACE-FED-MSS": list(_segments(node, family, able)),
        },
        "filter": {
            "NETSPACE-FED": list(_forward(node, family, able)),
            "NETSPACE-FED-IN": list(_input(node, family, able)),
        },
        "nat": {"NETSPACE-FED": list(_nat(node, family, able))},
    }


def marks_text(node: DesiredNode, family: Family, able: Able, bytecode: Bytecode) -> str:
    """What to give to `iptables-restore --noflush` so that the chain which chooses tunnels is as
    wanted, whatever it is now."""
    rules = (f"-A NETSPACE-FED {rule}\n" for rule in _marks(node, family, able, bytecode))
    return "".join(["*mangle\n:NETSPACE-FED - [0:0]\n", *rules, "COMMIT\n"])


def share(node: DesiredNode) -> tuple[object, ...]:
    """What of a node the firewall looks at, but for the tunnels that flows take."""
    return (
        node.mark,
        [_between(each) for each in node.flows],
        node.exposures,
        node.local,
        node.remote,
        node.peers,
        node.ports,
        node.mss,
        bool(node.tunnels or node.accepts),
        [device.link for device in node.vxlans],
    )


def redirected(before: DesiredNode, after: DesiredNode) -> DesiredNode:
    """The same, but its flows take the tunnels that those between the same ranges take `after`."""
    taken = {_between(each): each.buckets for each in after.flows}
    flows = (replace(one, buckets=taken.get(_between(one), one.buckets)) for one in before.flows)
    return replace(before, flows=tuple(flows))


def _between(flows: Flows) -> Flows:
    return replace(flows, buckets=())


def _raw(node: DesiredNode, family: Family, able: Able) -> Iterator[str]:
    for here, there in _both_ways(node, family):
        yield from _rules(able, "-j CT --notrack", source=here, destination=there)


def _nat(node: DesiredNode, family: Family, able: Able) -> Iterator[str]:
    for here, there in _both_ways(node, family):
        yield from _rules(able, "-j ACCEPT", source=here, destination=there)


def _marks(node: DesiredNode, family: Family, able: Able, bytecode: Bytecode) -> Iterator[str]:
    mask = node.mark
    # The last mark counts: between the same ranges that of the first federation, whose policies do.
    for flows in reversed(node.flows):
        here = _own(node, flows.local, family)
        there = _group(_cluster(flows.federation, flows.cluster), flows.remote, family)
        # Whatever our bits were: what has no usable tunnel has no mark, and is blocked.
        marks = [f"-j MARK --set-xmark 0x0/{mask:#x}"]
        ordinals = {ordinal for ordinal in flows.buckets if ordinal}
        if ordinals and not able.buckets:
            ordinals = {max(sorted(ordinals), key=flows.buckets.count)}
        for ordinal in sorted(ordinals):
            buckets = [at for at, one in enumerate(flows.buckets) if one == ordinal]
            every = len(buckets) == len(flows.buckets) or not able.buckets
            flow = "" if every else f'-m bpf --bytecode "{bytecode(buckets, family)}" '
            value = ordinal * (mask & -mask)
            marks.append(f"{flow}-j MARK --set-xmark {value:#x}/{mask:#x}")
        for mark in marks:
            yield from _rules(able, mark, source=here, destination=there)


def _segments(node: DesiredNode, family: Family, able: Able) -> Iterator[str]:
    for mss in sorted({mss for _, mss in node.mss if mss}):
        there = _sized(node, mss, family)
        clamp = f"-m tcp {_OPENING} -j TCPMSS --set-mss {mss}"
        yield from _rules(able, clamp, protocol="tcp", destination=there)
        yield from _rules(able, clamp, protocol="tcp", source=there)


def _forward(node: DesiredNode, family: Family, able: Able) -> Iterator[str]:
    here, there = _own(node, node.local, family), _group("r", node.remote, family)
    yield from _rules(able, "-j ACCEPT", source=here, destination=there)
    for exposure in node.exposures:
        theirs = _theirs(node, exposure, family)
        if not exposure.ours:
            yield from _rules(able, "-j ACCEPT", source=theirs, destination=here)
            continue
        if family == 4:
            # What follows the first fragment has no ports, and is nothing without it.
            yield from _rules(able, "-f", "-j ACCEPT", source=theirs, destination=here)
        for protocol, match in (*_answers(able, exposure, family), *_exposed(able, exposure)):
            rule = f"{match}-j ACCEPT"
            yield from _rules(able, rule, protocol=protocol, source=theirs, destination=here)
        yield from _refused(able, theirs, here)


def _input(node: DesiredNode, family: Family, able: Able) -> Iterator[str]:
    peers = _peers(node, family)
    for port in node.ports:
        for device in node.vxlans if family == 6 else ():
            # Probes over a device are between its link-local addresses.
            yield (f"-s fe80::/10 -i {device.link} -p udp -m udp --dport {port} -j ACCEPT")
        yield from _rules(able, f"-m udp --dport {port} -j ACCEPT", protocol="udp", source=peers)
    if node.tunnels or node.accepts:
        yield from _rules(able, "-j ACCEPT", protocol="esp", source=peers)
    here = _own(node, node.local, family)
    for exposure in node.exposures:
        theirs = _theirs(node, exposure, family)
        for protocol, match in _answers(able, exposure, family):
            rule = f"{match}-j ACCEPT"
            yield from _rules(able, rule, protocol=protocol, source=theirs, destination=here)
        if exposure.ours:
            # Of what is exposed the node's own rules still decide.
            for protocol, match in _exposed(able, exposure):
                rule = f"{match}-j RETURN"
                yield from _rules(able, rule, protocol=protocol, source=theirs, destination=here)
            yield from _refused(able, theirs, here)


def _answers(able: Able, exposure: Exposure, family: Family) -> Iterator[tuple[str, str]]:
    """Protocol and match of what only answers."""
    yield "tcp", f"-m tcp {_NO_OPENING} "
    yield _ICMP[family], ""
    if not exposure.theirs:
        yield "udp", f"-m udp --dport {_ports(*CLIENT_PORTS)} "
    for transport, first, last in exposure.theirs:
        if transport != "tcp" and (able.sctp or transport != "sctp"):
            yield transport, f"-m {transport} --sport {_ports(first, last)} "


def _exposed(able: Able, exposure: Exposure) -> Iterator[tuple[str, str]]:
    for transport, first, last in exposure.ours:
        if able.sctp or transport != "sctp":
            yield transport, f"-m {transport} --dport {_ports(first, last)} "


def _refused(able: Able, source: _Group, destination: _Group) -> Iterator[str]:
    if able.reject:
        rule = "-j REJECT --reject-with tcp-reset"
        yield from _rules(able, rule, protocol="tcp", source=source, destination=destination)
    yield from _rules(able, "-j DROP", source=source, destination=destination)


def _rules(
    able: Able,
    *rest: str,
    protocol: str = "",
    source: _Group | None = None,
    destination: _Group | None = None,
) -> Iterator[str]:
    """The rule between two groups; several where there are no sets, none where one is empty."""
    groups = [each for each in (source, destination) if each is not None]
    if not all(group.ranges for group in groups):
        return
    said = [f"-p {protocol}"] if protocol else []
    if able.sets:
        sides = [("src", source), ("dst", destination)]
        matches = [f"-m set --match-set {g.name} {side}" for side, g in sides if g is not None]
        first = [each for each in rest if each == "-f"]
        yield " ".join([*said, *first, *matches, *(each for each in rest if each != "-f")])
        return
    for one in source.ranges if source is not None else ("",):
        for other in destination.ranges if destination is not None else ("",):
            addresses = [f"-s {one}"] if one else []
            addresses += [f"-d {other}"] if other else []
            yield " ".join([*addresses, *said, *rest])


def _both_ways(node: DesiredNode, family: Family) -> list[tuple[_Group, _Group]]:
    here, there = _own(node, node.local, family), _group("r", node.remote, family)
    return [(here, there), (there, here)]


def _groups(node: DesiredNode, family: Family) -> Iterator[_Group]:
    """All that rules may name."""
    yield _own(node, node.local, family)
    yield _group("r", node.remote, family)
    yield _peers(node, family)
    for flows in node.flows:
        yield _own(node, flows.local, family)
        yield _group(_cluster(flows.federation, flows.cluster), flows.remote, family)
    for exposure in node.exposures:
        yield _theirs(node, exposure, family)
    for mss in {mss for _, mss in node.mss if mss}:
        yield _sized(node, mss, family)


def _own(node: DesiredNode, local: tuple[Network, ...], family: Family) -> _Group:
    """The own cluster's ranges, or those of one federation where it has others."""
    if local == node.local:
        return _group("l", local, family)
    return _group(f"l{_digest(' '.join(sorted(map(str, local))))}", local, family)


def _theirs(node: DesiredNode, exposure: Exposure, family: Family) -> _Group:
    name = _cluster(exposure.federation, exposure.cluster)
    return _group(name, exposure.remote, family)


def _peers(node: DesiredNode, family: Family) -> _Group:
    whole = 32 if family == 4 else 128
    addresses = (text for text in node.peers if (":" in text) == (family == 6))
    return _Group(f"{PREFIX}p{family}", tuple(f"{text}/{whole}" for text in addresses))


def _sized(node: DesiredNode, mss: int, family: Family) -> _Group:
    return _group(f"m{mss}-", (each for each, size in node.mss if size == mss), family)


def _group(name: str, ranges: Iterable[Network], family: Family) -> _Group:
    texts = (str(each) for each in ranges if each.version == family)
    return _Group(f"{PREFIX}{name}{family}", tuple(texts))


def _cluster(federation: str, cluster: str) -> str:
    return f"c{_digest(f'{federation}/{cluster}')}-"


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:8]


def _ports(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}:{last}"
