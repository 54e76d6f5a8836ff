"""Chains and sets as text: what should stand in the firewall for the vmacs. Pure.

NETSPACE-SOURCES   raw     who sends by a vmac as one of this node's pods is that pod
NETSPACE-FORWARD   filter  VLANs apart, but for flows that a Service translated; what is federated
                           is left to the federation's own chain
NETSPACE-SERVICES  nat     the source of translated flows is replaced, so that answers come back
                           this way and not from pod to pod

Sets (ipset) are used where the kernel has their kinds, else a rule for each of their entries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_network
from typing import Final

from cni_plugins.services.book import Place
from cni_plugins.services.wanted import Wanted
from hostnet.chains import Family, Hook, Tables
from hostnet.sets import AddressSet

HOOKS: Final = (
    Hook("raw", "PREROUTING", "NETSPACE-SOURCES"),
    Hook("filter", "FORWARD", "NETSPACE-FORWARD"),
    Hook("nat", "POSTROUTING", "NETSPACE-SERVICES"),
)

KINDS: Final = ("hash:net", "hash:ip", "hash:mac", "hash:ip,mac")
"""The kinds of sets that are used, all of those that guard sources or none of them."""

_TRANSLATED: Final = "-m conntrack --ctstate DNAT"
_FOUND_IN: Final = "-m set --match-set"


def sets_of(wanted: Wanted, kinds: frozenset[str]) -> list[AddressSet]:
    """The sets, as far as the kernel has their kinds (`kinds`)."""
    found = []
    if "hash:net" in kinds:
        near, far = _near(wanted), _far(wanted)
        for family in (4, 6):
            named = {"vlans": wanted.subnets} | ({"near": near, "far": far} if near else {})
            for name, texts in named.items():
                entries = frozenset(text for text in texts if _family(text) == family)
                found.append(AddressSet(f"netspace-{name}{family}", "hash:net", family, entries))
    if _guards(kinds):
        macs = frozenset(pod.mac for pod in wanted.pods)
        found.append(AddressSet("netspace-macs", "hash:mac", 0, macs))
        for family in (4, 6):
            pods = [pod for pod in wanted.pods if _family(pod.address) == family]
            pairs = frozenset(f"{pod.address},{pod.mac}" for pod in pods)
            addresses = frozenset(pod.address for pod in pods)
            found.append(AddressSet(f"netspace-pods{family}", "hash:ip", family, addresses))
            found.append(AddressSet(f"netspace-owners{family}", "hash:ip,mac", family, pairs))
    return found


SET_NAMES: Final = (
    "netspace-vlans4", "netspace-vlans6", "netspace-macs", "netspace-pods4", "netspace-pods6",
    "netspace-owners4", "netspace-owners6", "netspace-near4", "netspace-near6", "netspace-far4",
    "netspace-far6",
)  # fmt: skip


def tables_of(wanted: Wanted, family: Family, kinds: frozenset[str]) -> Tables:
    """Our chains by table, each rule as iptables-save writes it."""
    return {
        "raw": {"NETSPACE-SOURCES": list(_sources(wanted, family, kinds))},
        "filter": {"NETSPACE-FORWARD": list(_forward(wanted, family, kinds))},
        "nat": {"NETSPACE-SERVICES": list(_services(wanted, family, kinds))},
    }


def _sources(wanted: Wanted, family: Family, kinds: frozenset[str]) -> Iterator[str]:
    whole = 32 if family == 4 else 128
    pods = [pod for pod in wanted.pods if _family(pod.address) == family]
    for place in _with_family(wanted, family):
        if family == 6:
            # Neighbour discovery speaks with link-local addresses, and with none at all.
            yield f"-s fe80::/10 -i {place.name} -j RETURN"
            yield f"-s ::/128 -i {place.name} -j RETURN"
        if _guards(kinds):
            owned = f"-m set ! --match-set netspace-owners{family} src,src"
            yield f"-i {place.name} {_FOUND_IN} netspace-macs src {owned} -j DROP"
            yield f"-i {place.name} {_FOUND_IN} netspace-pods{family} src {owned} -j DROP"
            continue
        for pod in pods:
            if pod.vmac == place.name:
                address, mac = f"{pod.address}/{whole}", pod.mac
                yield f"-s {address} -i {place.name} -m mac ! --mac-source {mac} -j DROP"
                yield f"! -s {address} -i {place.name} -m mac --mac-source {mac} -j DROP"


def _forward(wanted: Wanted, family: Family, kinds: frozenset[str]) -> Iterator[str]:
    places = _with_family(wanted, family)
    for place in places:
        yield from _federated(wanted, place.name, family, kinds)
    for place in places:
        for subnet in _subnets(place, family):
            yield f"-d {subnet} -i {place.name} -j ACCEPT"
            yield f"-s {subnet} -o {place.name} -j ACCEPT"
    for place in places:
        if any(segment.services == "isolated" for segment in place.segments):
            yield from _apart(wanted, place.name, family, kinds)
    for place in places:
        yield f"-i {place.name} {_TRANSLATED} -j ACCEPT"
        yield f"-o {place.name} {_TRANSLATED} -j ACCEPT"
    for place in places:
        yield from _apart(wanted, place.name, family, kinds)


def _federated(wanted: Wanted, name: str, family: Family, kinds: frozenset[str]) -> Iterator[str]:
    near = [text for text in _near(wanted) if _family(text) == family]
    far = [text for text in _far(wanted) if _family(text) == family]
    if not (near and far):
        return
    if "hash:net" in kinds:
        ours, theirs = f"{_FOUND_IN} netspace-near{family}", f"{_FOUND_IN} netspace-far{family}"
        yield f"-i {name} {ours} src {theirs} dst -j RETURN"
        yield f"-o {name} {theirs} src {ours} dst -j RETURN"
        return
    for one in near:
        for other in far:
            yield f"-s {one} -d {other} -i {name} -j RETURN"
            yield f"-s {other} -d {one} -o {name} -j RETURN"


def _near(wanted: Wanted) -> tuple[str, ...]:
    """The federated ranges of this cluster, and, below, of the others."""
    return wanted.handed.local if wanted.handed else ()


def _far(wanted: Wanted) -> tuple[str, ...]:
    return tuple(route.destination for route in wanted.handed.routes)


def _apart(wanted: Wanted, name: str, family: Family, kinds: frozenset[str]) -> Iterator[str]:
    if "hash:net" in kinds:
        yield f"-i {name} {_FOUND_IN} netspace-vlans{family} dst -j DROP"
        yield f"-o {name} {_FOUND_IN} netspace-vlans{family} src -j DROP"
        return
    for subnet in wanted.subnets:
        if _family(subnet) == family:
            yield f"-d {subnet} -i {name} -j DROP"
            yield f"-s {subnet} -o {name} -j DROP"


def _services(wanted: Wanted, family: Family, kinds: frozenset[str]) -> Iterator[str]:
    if not _with_family(wanted, family):
        return
    if "hash:net" in kinds:
        yield f"{_FOUND_IN} netspace-vlans{family} src {_TRANSLATED} -j MASQUERADE"
        return
    for subnet in wanted.subnets:
        if _family(subnet) == family:
            yield f"-s {subnet} {_TRANSLATED} -j MASQUERADE"


def _with_family(wanted: Wanted, family: Family) -> Sequence[Place]:
    return [place for place in wanted.places if _subnets(place, family)]


def _subnets(place: Place, family: Family) -> list[str]:
    found = (segment.ipv4 if family == 4 else segment.ipv6 for segment in place.segments)
    return [text for text in found if text is not None]


def _guards(kinds: frozenset[str]) -> bool:
    return {"hash:ip", "hash:mac", "hash:ip,mac"} <= kinds


def _family(text: str) -> Family:
    return 4 if ip_network(text, strict=False).version == 4 else 6
