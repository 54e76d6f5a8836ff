"""From what there is to what is declared: the steps, in an order that works, and what cannot be.

The order is: fabrics and clusters; pools, then networks that go; networks that change, then those
that come; who may name which pool (widened before, narrowed after, so that a nested pool never
lists more than its parent); pools that give space back, then those that take it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import msgspec

from netspace.messages import (
    ChangeNetwork,
    ChangePool,
    Network,
    NewNetwork,
    NewPool,
    Pool,
    ResizePool,
)
from netspace.slots import SlotMap
from netspacectl.address_plan.declared import (
    Declared,
    DeclaredCluster,
    DeclaredPool,
)
from netspacectl.address_plan.fields import as_new, shown
from netspacectl.address_plan.present import Present, PresentCluster, slots_of, total_of
from netspacectl.address_plan.space import Block, Move, Space, ordered

Kind = Literal["fabric", "cluster", "network", "pool"]
Action = Literal["create", "change", "grow", "shrink", "delete"]
_OWN_KEYS = frozenset({"name", "network", "parent", "ranges", "size", "revision", "owner"})


class Thing(NamedTuple):
    """What a step is about; `cluster` is empty for fabrics and clusters."""

    kind: Kind
    cluster: str
    name: str

    def __str__(self) -> str:
        within = f"{self.cluster}/" if self.cluster else ""
        return f"{self.kind} {within}{self.name}"


class Changed(NamedTuple):
    """A field before and after."""

    field: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Step:
    """One request to the server. `revision`: what the thing had when it was read; None for one
    that is not there yet."""

    action: Action
    thing: Thing
    request: msgspec.Struct | None = None
    revision: int | None = None
    changed: tuple[Changed, ...] = ()


class Refusal(NamedTuple):
    """What is declared and cannot be had."""

    thing: Thing
    reason: str


@dataclass
class Difference:
    """`kept`: what is there, is not declared and stays, since nothing is pruned. `others`: what is
    not declared and is Kubernetes' to change."""

    steps: list[Step] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    kept: list[Thing] = field(default_factory=list)
    others: list[Thing] = field(default_factory=list)


def difference(present: Present, declared: Declared, *, prune: bool = False) -> Difference:
    """What brings the present to what is declared. Clusters that are not declared, and fabrics, are
    never deleted."""
    found = Difference()
    clusters = [
        _Cluster(name, present.clusters.get(name), cluster, prune, found)
        for name, cluster in declared.clusters.items()
    ]
    _fabrics(present, declared, found)
    for cluster in clusters:
        cluster.begin()
    for cluster in clusters:
        cluster.remove_networks()
    for cluster in clusters:
        cluster.change_networks()
    for cluster in clusters:
        cluster.create_networks()
    for cluster in clusters:
        cluster.arrange_pools()
    return found


def _fabrics(present: Present, declared: Declared, found: Difference) -> None:
    for name, new in declared.fabrics.items():
        if name not in present.fabrics:
            found.steps.append(Step("create", Thing("fabric", "", name), new))
    known = {"default", *present.fabrics, *declared.fabrics}
    for cluster, wanted in declared.clusters.items():
        for name, network in wanted.networks.items():
            if network.new.fabric not in known:
                thing = Thing("network", cluster, name)
                reason = f"there is no fabric {network.new.fabric}: declare it under fabrics"
                found.refused.append(Refusal(thing, reason))


@dataclass
class _Cluster:
    """One cluster's part."""

    name: str
    present: PresentCluster | None
    declared: DeclaredCluster
    prune: bool
    found: Difference
    wanted: dict[str, DeclaredPool] = field(init=False)
    networks: dict[str, Network] = field(default_factory=dict)
    pools: dict[str, Pool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.wanted = {pool.new.name: pool for pool in self.declared.pools()}
        if self.present is not None:
            self.networks, self.pools = self.present.networks, self.present.pools
        declared = self.declared.networks
        self.strange_networks = [
            name
            for name in self.networks
            if name not in declared and not self._foreign_network(name)
        ]
        self.strange_pools = [
            name for name in self.pools if name not in self.wanted and not self._foreign_pool(name)
        ]

    def begin(self) -> None:
        if self.present is None:
            thing = Thing("cluster", "", self.name)
            self.found.steps.append(Step("create", thing, self.declared.new))
        declared = self.declared.networks
        self.found.others += [
            self._network(n)
            for n in self.networks
            if n not in declared and self._foreign_network(n)
        ]
        self.found.others += [
            self._pool(n) for n in self.pools if n not in self.wanted and self._foreign_pool(n)
        ]
        if not self.prune:
            self.found.kept += [self._network(name) for name in self.strange_networks]
            self.found.kept += [self._pool(name) for name in self.strange_pools]

    def remove_networks(self) -> None:
        """Networks that are not declared go with their pools, nested ones first."""
        for name in self.strange_networks if self.prune else ():
            inside = [pool for pool in self.pools.values() if pool.network == name]
            others = sorted(pool.name for pool in inside if pool.owner is not None)
            if others:
                reason = (
                    f"cannot delete: Kubernetes looks after pools in it: {', '.join(others[:5])}"
                )
                self.found.refused.append(Refusal(self._network(name), reason))
                continue
            for pool in sorted(inside, key=lambda pool: pool.parent is None):
                if pool.name not in self.wanted:
                    self._step("delete", self._pool(pool.name), None, pool.revision)
            self._step("delete", self._network(name), None, self.networks[name].revision)

    def change_networks(self) -> None:
        for name, wanted in self.declared.networks.items():
            known = self.networks.get(name)
            if known is None:
                continue
            changed = _changed(known, as_new(NewNetwork, known), wanted.new)
            self._change(self._network(name), known.revision, changed, ChangeNetwork)

    def create_networks(self) -> None:
        for name, wanted in self.declared.networks.items():
            if name not in self.networks:
                self._step("create", self._network(name), wanted.new)

    def arrange_pools(self) -> None:
        narrowed = list(self._change_pools())
        # In a network that cannot be as declared there is no telling where a pool could lie.
        refused = {refusal.thing for refusal in self.found.refused}
        networks = {
            name: network
            for name, network in self.declared.networks.items()
            if self._network(name) not in refused
        }
        space = Space(
            slots={name: network.slots for name, network in networks.items()},
            totals={name: network.total for name, network in networks.items()},
        )
        for name, network in self.networks.items():
            if name not in self.declared.networks and not self.prune:
                space.slots = {**space.slots, name: slots_of(network)}
                space.totals = {**space.totals, name: total_of(network)}
        for name, pool in self.pools.items():
            if pool.network in space.totals:
                ranges = space.slots[pool.network].parse_ranges(pool.ranges)
                ranges &= space.totals[pool.network]
                space.pools[name] = Block(pool.network, pool.parent, pool.kind, ranges)
        wanted = []
        for move in self._moves(space):
            if self._foreign_pool(move.pool):
                self._leave(self._pool(move.pool), "its addresses")
            else:
                wanted.append(move)
        moves, stuck = ordered(space, wanted)
        self.found.steps += [self._moved(move, space.slots) for move in moves]
        for move, reason in stuck:
            thing = self._pool(move.pool)
            if thing not in refused:
                self.found.refused.append(Refusal(thing, f"cannot {move.action}: {reason}"))
                refused.add(thing)
        self.found.steps += narrowed

    def _change_pools(self) -> Iterator[Step]:
        """Notes the changes; yields those that come after everything else."""
        for name, wanted in self.wanted.items():  # parents first
            known = self.pools.get(name)
            if known is None:
                continue
            thing = self._pool(name)
            for key in ("network", "parent"):
                before, after = getattr(known, key), getattr(wanted.new, key)
                if before != after:
                    self._refuse(thing, Changed(key, before, after))
            before_ = as_new(NewPool, known, ranges=[], size=None)
            changed = _changed(known, before_, wanted.new)
            if self._foreign_pool(name):
                self._change(thing, known.revision, changed, ChangePool)
                continue
            nesting = any(pool.parent == name for pool in self.pools.values())
            wide = sorted({*known.namespaces, *wanted.new.namespaces})
            narrowing = Changed("namespaces", known.namespaces, wanted.new.namespaces)
            if nesting and narrowing in changed and wide != wanted.new.namespaces:
                changed.remove(narrowing)
                if wide != known.namespaces:
                    changed.append(Changed("namespaces", known.namespaces, wide))
                last = Changed("namespaces", wide, wanted.new.namespaces)
                yield Step(
                    "change",
                    thing,
                    ChangePool(namespaces=wanted.new.namespaces),
                    known.revision,
                    (last,),
                )
            self._change(thing, known.revision, changed, ChangePool)

    def _moves(self, space: Space) -> Iterator[Move]:
        for name in self.strange_pools if self.prune else ():
            if name in space.pools:
                yield Move("delete", name)
        for name, wanted in self.wanted.items():
            block = Block(wanted.new.network, wanted.new.parent, wanted.new.kind)
            size = 0 if wanted.ranges is not None else wanted.size
            known = space.pools.get(name)
            if block.network not in space.totals:
                continue
            if name not in self.pools:
                yield Move("create", name, block, wanted.ranges, size)
                continue
            if known is None or (known.network, known.parent) != (block.network, block.parent):
                continue  # refused already
            present = self.pools[name]
            if present.replicas is not None or (present.elastic and wanted.new.elastic):
                continue  # its size and ranges are its own affair
            if wanted.ranges is not None:
                gone, more = known.ranges - wanted.ranges, wanted.ranges - known.ranges
                if gone:
                    yield Move("shrink", name, block, gone)
                if more:
                    yield Move("grow", name, block, more)
            elif size > known.ranges.size:
                yield Move("grow", name, block, size=size - known.ranges.size)
            elif size < known.ranges.size:
                yield Move("shrink", name, block, size=known.ranges.size - size)

    def _moved(self, move: Move, slots: Mapping[str, SlotMap]) -> Step:
        thing, known = self._pool(move.pool), self.pools.get(move.pool)
        revision = known.revision if known else None
        if move.action == "delete":
            return Step("delete", thing, revision=revision)
        assert move.block is not None
        ranges = [] if move.ranges is None else slots[move.block.network].format_ranges(move.ranges)
        size = None if move.ranges is not None else str(move.size)
        if move.action == "create":
            new = self.wanted[move.pool].new
            return Step("create", thing, msgspec.structs.replace(new, ranges=ranges, size=size))
        return Step(move.action, thing, ResizePool(ranges=ranges, size=size), revision)

    def _change(
        self,
        thing: Thing,
        revision: int,
        changed: list[Changed],
        message: type[ChangeNetwork] | type[ChangePool],
    ) -> None:
        can = {info.name for info in msgspec.structs.fields(message)}
        for change in changed:
            if change.field not in can:
                self._refuse(thing, change)
        possible = [change for change in changed if change.field in can]
        if possible and self._foreign(thing):
            self._leave(thing, ", ".join(change.field for change in possible))
        elif possible:
            request = message(**{change.field: change.after for change in possible})
            self._step("change", thing, request, revision, tuple(possible))

    def _foreign_network(self, name: str) -> bool:
        """Whether it is there and Kubernetes' to change."""
        return name in self.networks and self.networks[name].owner is not None

    def _foreign_pool(self, name: str) -> bool:
        return name in self.pools and self.pools[name].owner is not None

    def _foreign(self, thing: Thing) -> bool:
        known = self._foreign_network if thing.kind == "network" else self._foreign_pool
        return known(thing.name)

    def _leave(self, thing: Thing, what: str) -> None:
        self.found.refused.append(
            Refusal(
                thing,
                f"{what} would change, but Kubernetes looks after it: change the object"
                f" {thing.kind}s.ipam.netspace.io/{thing.name}, or leave it out",
            )
        )

    def _refuse(self, thing: Thing, change: Changed) -> None:
        self.found.refused.append(
            Refusal(
                thing,
                f"{change.field} never changes: {shown(change.before)} -> {shown(change.after)}:"
                f" declare another {thing.kind}, or delete this one first",
            )
        )

    def _step(
        self,
        action: Action,
        thing: Thing,
        request: msgspec.Struct | None = None,
        revision: int | None = None,
        changed: tuple[Changed, ...] = (),
    ) -> None:
        self.found.steps.append(Step(action, thing, request, revision, changed))

    def _network(self, name: str) -> Thing:
        return Thing("network", self.name, name)

    def _pool(self, name: str) -> Thing:
        return Thing("pool", self.name, name)


def _changed(
    answer: msgspec.Struct, before: msgspec.Struct, after: msgspec.Struct
) -> list[Changed]:
    """What of the answer's fields shall be otherwise."""
    return [
        Changed(key, getattr(before, key), getattr(after, key))
        for key in before.__struct_fields__
        if key in answer.__struct_fields__
        and key not in _OWN_KEYS
        and getattr(before, key) != getattr(after, key)
    ]
