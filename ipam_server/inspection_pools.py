"""Networks, pools and fabrics under audit: how they must lie to each other, and what is whose."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping

import msgspec

from ipam_server import keys as key_names
from ipam_server import networks as rules
from ipam_server.flaws import Flaw, mending
from ipam_server.inventory import slot_map, total_of
from ipam_server.keys import Keys, SlotId
from ipam_server.records import FabricRecord, NetworkRecord, PoolRecord, ranges_of
from netspace.problems import Problem
from netspace.ranges import Ranges
from netspace.slots import SlotError, SlotMap
from statestore import Compare, KeyValue, Put


class Layout:
    """Filled with the networks and pools of one cluster. `unread`: networks that are there but
    cannot be read, of which nothing more is said."""

    def __init__(self, cluster: str, fabrics: Mapping[str, KeyValue]) -> None:
        self._cluster = cluster
        self._keys = Keys(cluster)
        self._fabrics = fabrics
        self.networks: dict[str, tuple[NetworkRecord, int]] = {}
        self.pools: dict[str, PoolRecord] = {}
        self.unread: set[str] = set()
        self._slots: dict[str, SlotMap] = {}
        self._total: dict[str, Ranges] = {}
        self._ranges: dict[str, Ranges] = {}
        self._owners: dict[str, tuple[list[int], list[tuple[int, str]]]] = {}

    def add_network(self, name: str, record: NetworkRecord, revision: int) -> str | None:
        """Why it cannot be one; None where it can."""
        try:
            self._slots[name] = slot_map(record)
            self._total[name] = total_of(record)
        except SlotError as error:
            self.unread.add(name)
            return str(error)
        self.networks[name] = record, revision
        return None

    def add_pool(self, name: str, record: PoolRecord) -> None:
        self._ranges[name] = ranges_of(record)
        self.pools[name] = record

    def named(self, network: str) -> bool:
        """Whether a pool lies in the network, be there one or not."""
        return any(record.network == network for record in self.pools.values())

    def address(self, slot: SlotId) -> str:
        slots = self._slots.get(slot[0])
        if slots is None or not 0 <= slot[1] < slots.count:
            return f"slot {slot[1]} of network {slot[0]}"
        return str(slots.ipv4_of(slot[1]) or slots.ipv6_of(slot[1]))

    def usable(self, slot: SlotId) -> bool:
        return slot[1] in self._total[slot[0]]

    def owner(self, slot: SlotId) -> str | None:
        """The deepest pool that covers the slot."""
        if slot[0] not in self._owners:
            self._owners[slot[0]] = self._own(slot[0])
        firsts, owners = self._owners[slot[0]]
        at = bisect_right(firsts, slot[1]) - 1
        return owners[at][1] if at >= 0 and slot[1] <= owners[at][0] else None

    def _own(self, network: str) -> tuple[list[int], list[tuple[int, str]]]:
        intervals = []
        for name, record in self.pools.items():
            if record.network == network:
                nested = Ranges(
                    interval
                    for child, other in self.pools.items()
                    if other.parent == name
                    for interval in self._ranges[child].intervals
                )
                own = self._ranges[name] - nested
                intervals += [(first, last, name) for first, last in own.intervals]
        intervals.sort()
        return [first for first, *_ in intervals], [(last, name) for _, last, name in intervals]

    def flaws(self) -> Iterator[Flaw]:
        for name, record in self.pools.items():
            yield from self._pool(name, record)
        yield from self._overlaps()
        defaults = sorted(n for n, record in self.pools.items() if record.kind == "default")
        if len(defaults) > 1:
            what = f"{len(defaults)} pools are the default: {', '.join(defaults[:5])}"
            yield Flaw("default-pools", tuple(map(self._keys.pool, defaults)), what)
        yield from self._in_fabrics()

    def _overlaps(self) -> Iterator[Flaw]:
        beside: dict[tuple[str, str | None], list[tuple[int, int, str]]] = {}
        for name, record in self.pools.items():
            beside.setdefault((record.network, record.parent), []).extend(
                (first, last, name) for first, last in self._ranges[name].intervals
            )
        pairs = set()
        for intervals in beside.values():
            intervals.sort()
            reach, behind = -1, ""
            for first, last, name in intervals:
                if first <= reach:
                    pairs.add((behind, name))
                if last > reach:
                    reach, behind = last, name
        for one, other in sorted(pairs):
            both = self._ranges[one] & self._ranges[other]
            where = self._shown(self.pools[one].network, both)
            what = f"{where} lie in pool {one} and in pool {other}"
            yield Flaw("pool-overlap", (self._keys.pool(one), self._keys.pool(other)), what)

    def _pool(self, name: str, record: PoolRecord) -> Iterator[Flaw]:
        key = self._keys.pool(name)
        if record.network not in self.networks:
            if record.network not in self.unread:
                what = f"pool {name} lies in network {record.network}, which does not exist"
                yield Flaw("pool-network", (key,), what)
            return
        network = self.networks[record.network][0]
        # What was excluded, or became a gateway, after the pool was carved is not given out.
        space = self._slots[record.network].total(network.range, (), ())
        outside = self._ranges[name] - space
        if outside:
            what = f"pool {name} has {outside.size} addresses that its network has not"
            yield Flaw("pool-outside", (key,), what)
        if record.parent is None:
            return
        parent = self.pools.get(record.parent)
        if parent is None:
            fault = "which does not exist"
        elif parent.network != record.network:
            fault = f"which lies in network {parent.network}"
        elif parent.kind != "netspace" or record.kind != "application":
            fault = f"but one is of kind {record.kind}, the other of kind {parent.kind}"
        elif not self._ranges[name].issubset(self._ranges[record.parent]):
            fault = "which does not have all of its addresses"
        else:
            strangers = sorted(set(record.namespaces) - set(parent.namespaces))
            if strangers and "*" not in parent.namespaces:
                what = (
                    f"pool {name} lists {', '.join(strangers[:5])}, pool {record.parent} does not"
                )
                yield Flaw("pool-namespaces", (key, self._keys.pool(record.parent)), what)
            return
        what = f"pool {name} is nested in pool {record.parent}, {fault}"
        yield Flaw("pool-nesting", (key, self._keys.pool(record.parent)), what)

    def _shown(self, network: str, ranges: Ranges) -> str:
        slots = self._slots.get(network)
        return "slots" if slots is None else ", ".join(slots.format_ranges(ranges)[:3])

    def _in_fabrics(self) -> Iterator[Flaw]:
        fabrics: dict[str, FabricRecord] = {}
        for name, stored in self._fabrics.items():
            try:
                fabrics[name] = msgspec.json.decode(stored.value, type=FabricRecord)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                what = f"fabric {name} cannot be read: {error}"
                yield Flaw("unreadable", (stored.key,), what)
        for name, fabric in fabrics.items():
            for member in fabric.members:
                known = self.networks.get(member.network)
                if member.cluster != self._cluster or member.network in self.unread:
                    continue
                if known is None or known[0].fabric != name:
                    yield self._stray(name, fabric, member.network, known)
        for name, (record, revision) in self.networks.items():
            if record.fabric in fabrics or record.fabric not in self._fabrics:
                yield from self._member(name, record, revision, fabrics.get(record.fabric))

    def _stray(
        self, name: str, fabric: FabricRecord, network: str, known: tuple[NetworkRecord, int] | None
    ) -> Flaw:
        key = key_names.fabric(name)
        compares = (
            Compare.modified_at(key, self._fabrics[name].mod_revision),
            Compare.modified_at(self._keys.network(network), known[1] if known else 0),
        )
        left = rules.left(fabric, self._cluster, network)
        change = mending(compares, (Put(key, msgspec.json.encode(left)),))
        what = f"fabric {name} has network {network} of this cluster, which is not in it"
        return Flaw("fabric-member-stray", (key,), what, change)

    def _member(
        self, name: str, record: NetworkRecord, revision: int, fabric: FabricRecord | None
    ) -> Iterator[Flaw]:
        key = key_names.fabric(record.fabric)
        stored = self._fabrics.get(record.fabric)
        before = fabric or FabricRecord(name=record.fabric)
        try:
            wanted = rules.joined(before, self._cluster, name, record)
        except Problem as problem:
            what = f"network {name} in fabric {record.fabric}: {problem.detail}"
            yield Flaw("fabric-overlap", (key, self._keys.network(name)), what)
            return
        except SlotError as error:
            yield Flaw("unreadable", (key,), f"a network of fabric {record.fabric}: {error}")
            return
        if wanted.members[-1] in before.members:
            return
        compares = (
            Compare.modified_at(key, stored.mod_revision if stored else 0),
            Compare.modified_at(self._keys.network(name), revision),
        )
        change = mending(compares, (Put(key, msgspec.json.encode(wanted)),))
        what = f"fabric {record.fabric} does not have network {name} as it is declared"
        yield Flaw("fabric-member-missing", (key, self._keys.network(name)), what, change)
