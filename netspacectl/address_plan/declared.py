"""plan.yaml: what fabrics, clusters, networks and pools there shall be.

    version: 1
    fabrics: {NAME: {}}
    clusters: {NAME: {networks: {NAME: {…, pools: {NAME: {…, pools: {NAME: {…}}}}}}}}

Keys are the fields of `NewNetwork` and `NewPool`; what the place says (name, network, parent) is no
key. A file may have several documents, and there may be several files: together they are one plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import msgspec

from netspace import documents
from netspace.messages import Name, NewCluster, NewFabric, NewNetwork, NewPool
from netspace.names import in_words
from netspace.problems import Problem
from netspace.ranges import Interval, Ranges
from netspace.slots import SlotError, SlotMap, parse_address
from netspacectl.address_plan import declared_rules
from netspacectl.address_plan.fields import Faults, read_fields, under
from netspacectl.words import check_gateway

VERSION: Final = 1
MAX_SIZE: Final = 16 * 2**20
"""Bytes of one file."""


@dataclass(frozen=True)
class DeclaredPool:
    """A pool that shall be. `ranges`: the slots it shall have that a pool can have at all; None for
    one declared by its size."""

    place: str
    new: NewPool
    ranges: Ranges | None

    @property
    def size(self) -> int:
        assert self.new.size is not None
        return int(self.new.size)


@dataclass(frozen=True)
class DeclaredNetwork:
    """A network that shall be, its values in their usual notation. `total`: what pools can be
    carved from. Parents stand before their nested pools."""

    place: str
    new: NewNetwork
    slots: SlotMap
    total: Ranges
    pools: dict[str, DeclaredPool] = field(default_factory=dict)


@dataclass(frozen=True)
class DeclaredCluster:
    new: NewCluster
    networks: dict[str, DeclaredNetwork] = field(default_factory=dict)

    def pools(self) -> Iterator[DeclaredPool]:
        for network in self.networks.values():
            yield from network.pools.values()


@dataclass(frozen=True)
class Declared:
    """All documents together."""

    fabrics: dict[str, NewFabric] = field(default_factory=dict)
    clusters: dict[str, DeclaredCluster] = field(default_factory=dict)


class Source(NamedTuple):
    """A file's name, for its faults, and what stands in it."""

    name: str
    data: bytes


def read(sources: Sequence[Source]) -> Declared:
    """The plan that the files declare. `Problem` invalid with every fault of all of them in
    `errors`, like `plan.yaml: clusters.east.networks.blue.vlan: …`."""
    declared, faults = Declared(), Faults()
    for source in sources:
        if len(source.data) > MAX_SIZE:
            faults.note(source.name, f"it is larger than {MAX_SIZE} bytes")
            continue
        try:
            contents = documents.read(source.data)
        except documents.DocumentError as error:
            faults.note(source.name, error)
            continue
        contents = [content for content in contents if content is not None]
        if not contents:
            faults.note(source.name, f"it declares nothing: begin with 'version: {VERSION}'")
        for number, content in enumerate(contents, 1):
            where = source.name if len(contents) == 1 else f"{source.name}, document {number}"
            found = Faults(where)
            _document(content, declared, found)
            faults += found
    if not faults:
        for cluster in declared.clusters.values():
            declared_rules.check(cluster, faults)
    if faults:
        names = ", ".join(dict.fromkeys(source.name for source in sources))
        count = "a fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise Problem("invalid", f"{names}: {count}, nothing was changed", errors=tuple(faults))
    return declared


def _document(content: Any, declared: Declared, faults: Faults) -> None:
    if not isinstance(content, Mapping):
        faults.note("", "it must be a mapping with the keys version, fabrics, clusters")
        return
    for key in content:
        if key not in ("version", "fabrics", "clusters"):
            faults.note(under("", key), "there is no such key: use version, fabrics, clusters")
    if content.get("version") != VERSION or isinstance(content.get("version"), bool):
        faults.note("version", f"it must be {VERSION}")
    for name, place, fabric in _named(content, "fabrics", "", faults):
        fields = read_fields(NewFabric, fabric, place, faults, without=("name",))
        declared.fabrics[name] = NewFabric(name=name, **fields)
    for name, place, cluster in _named(content, "clusters", "", faults):
        besides = {"without": ("name",), "besides": ("networks",)}
        fields = read_fields(NewCluster, cluster, place, faults, **besides)
        new = NewCluster(name=name, **fields)
        known = declared.clusters.setdefault(name, DeclaredCluster(new))
        for network_name, network_place, network in _named(cluster, "networks", place, faults):
            if network_name in known.networks:
                faults.note(network_place, "it is declared twice")
                continue
            read = _network(network_name, network, network_place, faults)
            if read is not None:
                known.networks[network_name] = read


def _named(
    content: Mapping[Any, Any], key: str, place: str, faults: Faults
) -> Iterator[tuple[str, str, Mapping[Any, Any]]]:
    """The things below a key: name, place and content of each."""
    place = under(place, key)
    things = content.get(key)
    if things is None:
        return
    if not isinstance(things, Mapping):
        faults.note(place, "it must be a mapping of names to what they name")
        return
    for name, thing in things.items():
        if not isinstance(name, str):
            faults.note(under(place, name), "it is no text to YAML: put the name in quotes")
            continue
        try:
            msgspec.convert(name, Name)
        except msgspec.ValidationError as error:
            faults.note(under(place, name), in_words(str(error)).replace("Expected", "expected"))
            continue
        if thing is not None and not isinstance(thing, Mapping):
            faults.note(under(place, name), "it must be a mapping of keys to values")
            continue
        yield name, under(place, name), thing or {}


def _network(
    name: str, content: Mapping[Any, Any], place: str, faults: Faults
) -> DeclaredNetwork | None:
    before = len(faults)
    fields = read_fields(
        NewNetwork, content, place, faults, without=("name", "owner"), besides=("pools",)
    )
    declared_pools = [
        found
        for pool_name, pool_place, pool in _named(content, "pools", place, faults)
        for found in _pools(pool_name, name, None, pool, pool_place, faults)
    ]
    if len(faults) > before:
        return None
    new = NewNetwork(name=name, **fields)
    slots = _subnets(new, place, faults)
    if slots is None:
        return None
    new = _usual(new, slots, place, faults)
    if len(faults) > before:
        return None
    total = slots.total(new.range, new.exclude, (new.gateway4, new.gateway6))
    if not total:
        faults.note(place, f"{slots} has no address left that a pod could have")
    network = DeclaredNetwork(faults.place(place), new, slots, total)
    for pool_place, pool in declared_pools:
        if pool.name in network.pools:
            faults.note(pool_place, "it is declared twice")
            continue
        ranges = None
        if pool.size is None:
            ranges = _ranges(slots, pool.ranges, under(pool_place, "ranges"), faults)
        network.pools[pool.name] = DeclaredPool(
            faults.place(pool_place), pool, None if ranges is None else ranges & total
        )
    return network


def _subnets(new: NewNetwork, place: str, faults: Faults) -> SlotMap | None:
    try:
        return SlotMap.of(new.ipv4, new.ipv6, new.mapping)
    except SlotError as error:
        faults.note(place, error)
        return None


def _usual(new: NewNetwork, slots: SlotMap, place: str, faults: Faults) -> NewNetwork:
    """The network with its values as the server shows them, so that the two can be compared."""
    usual: dict[str, Any] = {
        "ipv4": None if slots.ipv4 is None else str(slots.ipv4),
        "ipv6": None if slots.ipv6 is None else str(slots.ipv6),
    }
    for key, subnet in (("gateway4", slots.ipv4), ("gateway6", slots.ipv6)):
        gateway = getattr(new, key)
        try:
            check_gateway(gateway, subnet)
            usual[key] = None if gateway is None else str(parse_address(gateway))
        except SlotError as error:
            faults.note(under(place, key), error)
    for key in ("range", "exclude"):
        usual[key] = slots.format_ranges(
            _ranges(slots, getattr(new, key), under(place, key), faults)
        )
    return msgspec.structs.replace(new, **usual)


def _ranges(slots: SlotMap, texts: Sequence[str], place: str, faults: Faults) -> Ranges:
    found: list[Interval] = []
    for at, text in enumerate(texts):
        try:
            found += slots.parse_ranges([text]).intervals
        except SlotError as error:
            faults.note(f"{place}[{at}]", error)
    return Ranges(found)


def _pools(
    name: str,
    network: str,
    parent: NewPool | None,
    content: Mapping[Any, Any],
    place: str,
    faults: Faults,
) -> Iterator[tuple[str, NewPool]]:
    """A pool and those nested in it. Nested pools are for applications, and unless they name
    namespaces, theirs are their parent's."""
    before = len(faults)
    if parent is not None and "kind" not in content:
        content = {"kind": "application", **content}
    fields = read_fields(
        NewPool,
        content,
        place,
        faults,
        without=("name", "network", "parent", "owner"),
        besides=("pools",),
    )
    if len(faults) > before:
        fields = {"kind": "netspace", "ranges": [], "size": "1"}  # enough to look at nested ones
    new = NewPool(name=name, network=network, parent=parent.name if parent else None, **fields)
    if parent is not None and not new.namespaces:
        new.namespaces = list(parent.namespaces)
    new.namespaces = sorted(set(new.namespaces))
    if len(faults) == before:
        declared_rules.check_pool(new, parent, place, faults)
        yield place, new
    for inner_name, inner_place, inner in _named(content, "pools", place, faults):
        if parent is not None:
            faults.note(inner_place, "a nested pool can have none of its own")
            continue
        yield from _pools(inner_name, network, new, inner, inner_place, faults)
