"""What the rules of allocation say, written a second time: plain sets, lists and scans of them.

Nothing here is quick, indexed or shared with the server, so that both are only wrong together where
the rules themselves were misread.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from netspace.messages import AllocateRequest, Selection

Slot = tuple[str, int]
Name = tuple[str, str, str]


@dataclass
class ModelNetwork:
    """`usable`: the indices pools may be carved from. `families`: what its slots have."""

    usable: set[int]
    families: set[str]


@dataclass
class ModelPool:
    kind: str
    network: str
    parent: str | None
    indices: set[int]
    namespaces: list[str]
    cooldown: int
    retention: int
    bounds: tuple[int, int, int] | None = None
    """Minimum, maximum and step of an elastic one."""


@dataclass(frozen=True)
class Tenant:
    """Who holds a slot; a reservation has no container."""

    container: str
    claim: str
    node: str
    name: Name | None
    before: Name | None
    families: tuple[str, ...]
    pool: str
    generation: int
    uid: str = ""


@dataclass(frozen=True)
class Past:
    """Who held a slot last, since when (revision, number) and at what time (ms)."""

    name: Name | None
    order: tuple[int, int]
    at: int
    uid: str = ""


@dataclass(frozen=True)
class Expected:
    """What must come of a request: one of `slots` in the way of `how`, or a problem's code."""

    how: str
    slots: tuple[Slot | str, ...] = ()
    families: tuple[str, ...] = ()


@dataclass
class Model:
    networks: dict[str, ModelNetwork] = field(default_factory=dict)
    pools: dict[str, ModelPool] = field(default_factory=dict)
    held: dict[Slot, Tenant] = field(default_factory=dict)
    past: dict[Slot, Past] = field(default_factory=dict)
    flying: set[Slot] = field(default_factory=set)
    story: dict[Slot, list[tuple[Name | None, str]]] = field(default_factory=dict)
    resizing: set[str] = field(default_factory=set)
    defaults: dict[str, Selection] = field(default_factory=dict)
    """What namespaces choose."""

    def carvable(self, network: str, parent: str | None, now: int) -> set[int]:
        """What a pool may take: of its parent what nobody holds and what does not rest there, else
        what lies in no pool."""
        if parent in self.pools:
            return {
                index
                for index in self.own(parent)
                if (network, index) not in self.held and not self.cooling((network, index), now)
            }
        tops = [
            pool.indices
            for pool in self.pools.values()
            if pool.network == network and pool.parent is None
        ]
        return self.networks[network].usable.difference(*tops)

    def block(
        self, name: str, now: int, wanted: int = 1, inner: tuple[ModelPool, ...] = ()
    ) -> tuple[int, set[int]]:
        """By how many slots an elastic pool grows now, and which ones it may be; where the pool
        around it has none, those by which that one grows."""
        pool = self.pools[name]
        if pool.bounds is None:
            return 0, set()
        _, maximum, step = pool.bounds
        count = max(0, min(max(step, wanted), maximum - len(pool.indices)))
        open_ = set()
        for index in self.carvable(pool.network, pool.parent, now):
            slot = (pool.network, index)
            past = self.past.get(slot)
            rests = past is not None and any(
                past.at + each.cooldown > now
                or (past.name is not None and past.at + each.retention > now)
                for each in (pool, *inner)
            )
            taken = slot in self.held or slot in self.flying
            if not taken and not rests and not self.cooling(slot, now):
                open_.add(index)
        if count and not open_ and pool.parent is not None:
            outer, open_ = self.block(pool.parent, now, count, (pool, *inner))
            return min(count, outer), open_
        return min(count, len(open_)), open_

    def remember(self, slot: Slot, past: Past | Tenant) -> None:
        """Somebody else has the slot now."""
        self.story.setdefault(slot, []).append((past.name, past.uid))

    def own(self, name: str) -> set[int]:
        """The indices of a pool that are in no pool nested in it."""
        pool = self.pools[name]
        nested = [each.indices for each in self.pools.values() if each.parent == name]
        return (pool.indices & self.networks[pool.network].usable).difference(*nested)

    def owner(self, slot: Slot) -> str | None:
        owners = [
            name
            for name, pool in self.pools.items()
            if pool.network == slot[0] and slot[1] in self.own(name)
        ]
        assert len(owners) <= 1
        return owners[0] if owners else None

    def slot_of(self, container: str) -> Slot | None:
        slots = [slot for slot, tenant in self.held.items() if tenant.container == container]
        assert len(slots) <= 1
        return slots[0] if slots else None

    def cooling(self, slot: Slot, now: int) -> bool:
        """Nobody may have it but the name that had it: it rests, or is retained."""
        owner = self.owner(slot)
        past = self.past.get(slot)
        if owner is None or past is None:
            return False
        pool = self.pools[owner]
        kept = past.name is not None and past.at + pool.retention > now
        return kept or past.at + pool.cooldown > now

    def retained(self, slot: Slot) -> bool:
        """What rests, rests for its name."""
        owner = self.owner(slot)
        assert owner is not None
        pool = self.pools[owner]
        return self.past[slot].name is not None and pool.retention > pool.cooldown

    def free(self, name: str) -> list[Slot]:
        """A pool's slots that nobody holds, is given or gives back, in the order of indices."""
        network = self.pools[name].network
        slots = [(network, index) for index in sorted(self.own(name))]
        return [slot for slot in slots if slot not in self.held and slot not in self.flying]

    # The order of choice

    def expect(self, request: AllocateRequest, fixed: dict[str, Slot], now: int) -> Expected:
        """What the rules give this request; `fixed` maps addresses to their slots."""
        container = request.attachment.container
        slot = self.slot_of(container)
        if slot is not None:
            tenant = self.held[slot]
            if slot in self.flying:
                return Expected("wait", (slot,))
            if tenant.node != request.node:
                return Expected("address-taken")
            how = "repeat" if tenant.claim == request.claim else "repeated"
            return Expected(how, (slot,), tenant.families)
        pool, addresses, families = self._wish(request)
        if pool is not None and pool not in self.pools:
            return Expected(pool)
        if addresses:
            return self._fixed(
                request, pool, [fixed.get(each) for each in addresses], families, now
            )
        assert pool is not None
        return self._from_pool(request, pool, families, now)

    def _wish(
        self, request: AllocateRequest
    ) -> tuple[str | None, tuple[str, ...], tuple[str, ...]]:
        """The pool (or a problem's code), the addresses and the families wished for."""
        own, default = request.selection, request.default
        between = self.defaults.get(request.pod.namespace, Selection())
        families = own.families or between.families or default.families
        chosen = own if _names(own) or own.ip else between if _names(between) else default
        addresses = chosen.ip
        if _names(chosen):
            return self._named(request, chosen), addresses, families
        if addresses:
            return None, addresses, families
        defaults = [name for name, pool in self.pools.items() if pool.kind == "default"]
        return (defaults[0] if defaults else "pool-missing"), (), families

    def _named(self, request: AllocateRequest, chosen: Selection) -> str:
        name = chosen.application or chosen.netspace
        assert name is not None
        pool = self.pools.get(name)
        if pool is None or (pool.kind == "application") != (chosen.application is not None):
            return "pool-unknown"
        return name if self._may(request, name) else "pool-forbidden"

    def _may(self, request: AllocateRequest, name: str) -> bool:
        pool = self.pools[name]
        listed = {"*", request.pod.namespace} & set(pool.namespaces)
        return pool.kind == "default" or bool(listed)

    def _families(self, network: str, families: tuple[str, ...]) -> tuple[str, ...] | None:
        """The families to keep (none: all there are), or None where one is missing."""
        there = self.networks[network].families
        if not set(families) <= there:
            return None
        return () if set(families) == there else families

    def _fixed(
        self,
        request: AllocateRequest,
        pool: str | None,
        slots: list[Slot | None],
        families: tuple[str, ...],
        now: int,
    ) -> Expected:
        slot = slots[0]
        if slot is None or set(slots) != {slot}:
            return Expected("address-unusable")
        owner = self.owner(slot)
        if owner is None or (pool is not None and owner != pool):
            return Expected("address-unusable")
        if not self._may(request, owner):
            return Expected("pool-forbidden")
        if pool is None and self.pools[owner].kind == "application":
            return Expected("address-unusable")
        kept = self._families(slot[0], families)
        if kept is None:
            return Expected("family-missing")
        if slot in self.flying:
            return Expected("wait", (slot,))
        if slot in self.held:
            if self._gone(slot, request):
                return Expected("taken-over", (slot,), kept)
            own = self.held[slot].name
            mine = own is not None and own == _name(request)
            return Expected("address-held" if mine else "address-taken")
        past = self.past.get(slot)
        name = _name(request)
        if self.cooling(slot, now) and not (past and name and past.name == name):
            return Expected("address-cooling")
        return Expected("fixed", (slot,), kept)

    def _gone(self, slot: Slot, request: AllocateRequest) -> bool:
        tenant = self.held[slot]
        return (
            tenant.name is not None
            and tenant.name == _name(request)
            and tenant.node == request.node
            and tenant.container in request.removed
        )

    def _from_pool(
        self, request: AllocateRequest, pool: str, families: tuple[str, ...], now: int
    ) -> Expected:
        kept = self._families(self.pools[pool].network, families)
        if kept is None:
            return Expected("family-missing")
        name = _name(request)
        known = [slot for slot, tenant in self.held.items() if name and tenant.name == name]
        known += [slot for slot, past in self.past.items() if name and past.name == name]
        under_way = tuple(s for s in known if self.owner(s) == pool and s in self.flying)
        if under_way:
            return Expected("wait", under_way)
        gone = [s for s in self.held if self.owner(s) == pool and self._gone(s, request)]
        if gone:
            # Which of several is left open.
            return Expected("taken-over", tuple(gone), kept)
        sticks = self.pools[pool].kind == "application" or self.pools[pool].retention > 0
        if sticks and any(s in self.held and self.owner(s) == pool for s in known):
            return Expected("address-held")
        free = self.free(pool)
        ordered = sorted((s for s in free if s in self.past), key=lambda s: self.past[s].order)
        mine = [slot for slot in ordered if name is not None and self.past[slot].name == name]
        if mine:
            return Expected("returned", (mine[-1],), kept)
        ready = [slot for slot in ordered if not self.cooling(slot, now)]
        seen = {past.name for past in self.past.values()}
        for tenant in self.held.values():
            seen |= {tenant.name, tenant.before}
        if name is not None and name in seen and self.pools[pool].kind != "application" and ready:
            return Expected("last-released", (ready[-1],), kept)
        never = [slot for slot in free if slot not in self.past]
        if never:
            return Expected("never", (never[0],), kept)
        if ready:
            return Expected("longest-released", (ready[0],), kept)
        network = self.pools[pool].network
        if self.pools[pool].bounds and network in self.resizing:
            return Expected("wait", (network,))
        count, open_ = self.block(pool, now)
        if count:
            return Expected("grown", tuple((network, index) for index in open_), kept)
        retained = [slot for slot in ordered if self.retained(slot)]
        if len(ordered) > len(retained):
            return Expected("pool-cooling")
        used = sum((self.pools[pool].network, index) in self.held for index in self.own(pool))
        busy = len(self.own(pool)) > used + len(retained)
        return Expected("busy" if busy else "pool-exhausted")


def _names(selection: Selection) -> bool:
    return selection.application is not None or selection.netspace is not None


def _name(request: AllocateRequest) -> Name | None:
    """What a named pod's slot sticks to."""
    pod = request.pod
    return (pod.namespace, pod.name, request.attachment.ifname) if pod.name else None
