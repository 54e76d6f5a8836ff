"""Allocation as a whole, step by step at random: the server's rules against the plain model.

Whatever nodes and admins ask in whatever order, with transactions under way, failing, or several in
one revision: what is chosen is what the model chooses, etcd's keys say what the model says, and the
state in memory is the one that a reload gives.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from itertools import pairwise
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ipam_server import elastic
from ipam_server import pools as pool_rules
from ipam_server.allocations import _not_held
from ipam_server.allocator import Choice, Repeat, Wait, choose
from ipam_server.changes import Change, freeing, resizing
from ipam_server.inventory import Held
from ipam_server.keys import slot_id
from ipam_server.namespaces import recorded
from ipam_server.records import Holder, Release, slot_of
from ipam_server.views import allocation as answer
from netspace.messages import (
    AllocateRequest,
    AttachmentId,
    ChangeNetwork,
    ChangePool,
    Elastic,
    NewNetwork,
    NewPool,
    ReleaseRequest,
    ResizePool,
    Selection,
)
from netspace.problems import Problem
from tests.unit.allocation_model import Expected, Model, ModelNetwork, ModelPool, Past, Slot, Tenant
from tests.unit.cluster_world import PLACES, World, ask, order, summary

CONTAINERS = [f"c{number}" for number in range(8)]
PODS = ["", "web-0", "web-1", "web-2"]
NAMESPACES = ["a", "b"]
NODES = ["node-1", "node-2"]
POOLS = ["main", "tenant", "shop", "till", "six"]
NETWORKS = {
    "red": NewNetwork(
        name="red", vlan=910, ipv4="10.0.0.0/28", ipv6="fd00::/64", gateway4="10.0.0.1"
    ),
    "six": NewNetwork(name="six", vlan=920, ipv6="fd01::/124"),
    "own": NewNetwork(
        name="own", vlan=930, ipv4="10.3.0.0/29", ipv6="fd03::/64", mapping="embedded"
    ),
}
ADDRESSES = ["10.0.0.2", "10.0.0.5", "10.0.0.9", "fd00::5", "fd01::3", "10.3.0.2", "10.9.9.9"]
POOL_NAMES = st.sampled_from([*POOLS, "none"])
USUAL = [("", ""), ("", ""), ("netspace", "tenant"), ("application", "till")]
USUAL += [("application", "shop"), ("netspace", "six")]
PROBABLE = [
    {"name": "shop", "kind": "application", "network": "red", "parent": "tenant"},
    {"name": "till", "kind": "application", "network": "own", "parent": None},
    {"name": "six", "kind": "netspace", "network": "six", "parent": None},
    {"name": "main", "kind": "default", "network": "red", "parent": None},
    {"name": "tenant", "kind": "netspace", "network": "red", "parent": None},
]
BOUNDS = [
    Elastic(minimum=1, maximum=9, step=1),
    Elastic(minimum=2, maximum=8, step=3),
    Elastic(minimum=3, maximum=4, step=5),
]
INDICES = st.sets(st.integers(0, 15), min_size=1, max_size=3)


@st.composite
def selections(draw: st.DrawFn) -> Selection:
    wish = draw(st.sampled_from(["", "", "netspace", "application", "ip", "both"]))
    families = draw(st.sampled_from([(), (), (), ("ipv4",), ("ipv6",), ("ipv4", "ipv6")]))
    fields: dict[str, Any] = {"families": families}
    if wish in ("netspace", "both"):
        fields["netspace"] = draw(st.sampled_from(["tenant", "main", "six", "shop", "none"]))
    if wish == "application":
        fields["application"] = draw(st.sampled_from(["shop", "till", "tenant", "none"]))
    if wish in ("ip", "both"):
        first = draw(st.sampled_from(ADDRESSES))
        fields["ip"] = draw(st.sampled_from([(first,), (first,), ("10.0.0.5", "fd00::5")]))
    return Selection(**fields)


class Allocation(RuleBasedStateMachine):
    """`flying`: changes begun and not decided, oldest first, each with what the model does then."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.model = Model()
        self.flying: list[tuple[Change, Slot, Tenant | Past]] = []
        self.ever: list[tuple[Slot, Held]] = []
        self.claims = 0
        self.blocks: dict[Slot, list[tuple[str, set[int]]]] = {}

    @initialize()
    def begin(self) -> None:
        for name, network in NETWORKS.items():
            self.world.add_network(network)
            usable = set(self.world.network(name).total)
            self.model.networks[name] = ModelNetwork(
                usable, {"ipv6"} if network.ipv4 is None else {"ipv4", "ipv6"}
            )
        assert self.model.networks["red"].usable == set(range(2, 15))
        for pool in (
            NewPool(name="main", kind="default", network="red", size="4", cooldown=5),
            NewPool(name="tenant", kind="netspace", network="red", size="6", namespaces=["a", "b"]),
            NewPool(name="shop", kind="application", network="red", parent="tenant", size="2"),
            NewPool(
                name="six", kind="netspace", network="six", size="3", namespaces=["*"],
                elastic=Elastic(minimum=2, maximum=8, step=2), cooldown=5,
            ),
        ):  # fmt: skip
            self._carve(pool)

    # Nodes

    @rule(
        container=st.sampled_from(CONTAINERS),
        pod=st.sampled_from(PODS),
        namespace=st.sampled_from(NAMESPACES),
        node=st.sampled_from(NODES),
        same_claim=st.booleans(),
        removed=st.sets(st.sampled_from(CONTAINERS), max_size=3),
        selection=selections(),
        default=st.one_of(st.just(Selection()), selections()),
        end=st.sampled_from(["commit", "commit", "commit", "fly", "abandon"]),
    )
    def allocate(self, end: str, same_claim: bool, **fields: Any) -> None:
        slot = self.model.slot_of(fields["container"])
        claim = self.model.held[slot].claim if slot and same_claim else self._claim()
        request = ask(**{**fields, "removed": tuple(fields["removed"])}, claim=claim)
        self._allocate(request, end)

    @rule(
        steps=st.lists(
            st.tuples(
                st.sampled_from(CONTAINERS),
                st.sampled_from(PODS),
                st.sampled_from([*USUAL]),
                st.sampled_from(["commit", "commit", "commit", "fly", "abandon"]),
                st.sampled_from([0, 0, 0, 1, 1000, 4999, 31_000]),
            ),
            min_size=5,
            max_size=15,
        )
    )
    def pods_come_and_go(self, steps: list[tuple[str, str, tuple[str, str], str, int]]) -> None:
        """A pod whose container holds an address goes, another one comes."""
        for container, pod, (kind, pool), end, milliseconds in steps:
            self.world.now += milliseconds
            slot = self.model.slot_of(container)
            if slot is None:
                named: dict[str, Any] = {kind: pool} if pool else {}
                selection = Selection(**named)
                request = ask(
                    container, pod, namespace="a", claim=self._claim(), selection=selection
                )
                self._allocate(request, end)
            elif slot not in self.model.flying:
                self._free(slot, end)

    @precondition(lambda self: any(tenant.name for tenant in self.model.held.values()))
    @rule(data=st.data(), told=st.booleans(), elsewhere=st.sampled_from([False, False, True]))
    def restart_sandbox(self, data: st.DataObject, told: bool, elsewhere: bool) -> None:
        """kubelet tries again with another container, the old interface removed or not; or the pod
        is on another node now, which can say nothing of the old one."""
        named = {slot: tenant for slot, tenant in self.model.held.items() if tenant.name}
        slot = data.draw(st.sampled_from(sorted(named)))
        tenant = named[slot]
        assert tenant.name is not None
        pool = self.model.pools.get(tenant.pool)
        selection = Selection(
            netspace=tenant.pool if pool and pool.kind == "netspace" else None,
            application=tenant.pool if pool and pool.kind == "application" else None,
        )
        request = ask(
            data.draw(st.sampled_from(CONTAINERS)),
            tenant.name[1],
            namespace=tenant.name[0],
            node="node-9" if elsewhere else tenant.node,
            claim=self._claim(),
            removed=(tenant.container,) if told else (),
            selection=selection,
            uid=data.draw(st.sampled_from([tenant.uid, "u1", "u2"])),
        )
        self._allocate(request, "commit")

    @rule(namespace=st.sampled_from(NAMESPACES), selection=selections())
    def choose_for_a_namespace(self, namespace: str, selection: Selection) -> None:
        key = self.world.keys.namespace(namespace)
        try:
            record = recorded(selection)
        except Problem as problem:
            assert problem.code == "invalid" and (selection.ip or selection == Selection())
            if key in self.world.stored:
                self.world.delete(key)
                del self.model.defaults[namespace]
            return
        self.world.put(key, msgspec.json.encode(record))
        self.model.defaults[namespace] = selection

    def _allocate(self, request: AllocateRequest, end: str) -> None:
        world, model = self.world, self.model
        under_way = [new.container for _, _, new in self.flying if isinstance(new, Tenant)]
        if request.attachment.container in under_way:
            # Requests of one attachment come one after the other.
            return
        expected = model.expect(request, self._slots_of(ADDRESSES), world.now)
        before = dict(world.stored)
        try:
            decision = choose(world.state, request, world.now)
        except Problem as problem:
            assert Expected(problem.code) == expected, (problem, expected)
            return
        if isinstance(decision, Wait):
            assert expected.how == "wait" and decision.slot in expected.slots
            return
        if isinstance(decision, Repeat):
            assert expected.how == "repeat" and (decision.slot,) == expected.slots
            assert decision.held.holder.claim == request.claim
            assert world.stored == before
            return
        assert isinstance(decision, Choice)
        if decision.grown is not None:
            assert expected.how == "grown", (decision, expected)
            self._check_growth(decision)
        else:
            assert decision.how == expected.how, (decision, expected)
        assert decision.slot in expected.slots
        assert decision.slot not in model.flying
        self._check_answer(decision, request, expected)
        past, tenant = model.past.get(decision.slot), model.held.get(decision.slot)
        name = decision.holder.identity
        earlier = tenant.before if tenant else past.name if past else None
        new = Tenant(
            container=request.attachment.container,
            claim=request.claim,
            node=request.node,
            name=name,
            before=earlier if tenant or earlier != name else None,
            families=expected.families,
            pool=decision.holder.pool,
            generation=0,
            uid=request.pod.uid,
        )
        assert decision.grown or model.owner(decision.slot) == new.pool
        self._end(world.giving(decision), decision.slot, new, end)

    def _check_growth(self, choice: Choice) -> None:
        """As much as it may be, of what is open, and the slot chosen among it."""
        assert choice.grown is not None
        name = choice.grown.pool
        count, open_ = self.model.block(name, self.world.now)
        block = set(choice.grown.block)
        assert choice.slot[1] in block <= open_ and len(block) == count
        never = {i for i in block if (choice.slot[0], i) not in self.model.past}
        assert (choice.slot[1] in never) == bool(never) == (choice.how == "never")
        levels = [(level.pool, set(level.block)) for level in choice.grown.levels]
        for (inner, gained), (outer, around) in pairwise(levels):
            assert self.model.pools[inner].parent == outer
            assert gained <= around | self.model.pools[outer].indices
        self.blocks[choice.slot] = levels
        self.model.resizing.add(choice.slot[0])

    def _check_answer(self, choice: Choice, request: AllocateRequest, expected: Expected) -> None:
        """Both addresses or those of the families asked for, and of the slot asked for."""
        told = answer(self.world.state, choice.slot, choice.holder, 1, choice.how)
        there = self.model.networks[choice.slot[0]].families
        wanted = set(expected.families) or there
        assert {f for f in ("ipv4", "ipv6") if getattr(told, f) is not None} == wanted
        mapped = self._slots_of([a for a in (told.ipv4, told.ipv6) if a is not None])
        assert set(mapped.values()) == {choice.slot}

    @precondition(lambda self: self.model.held)
    @rule(
        data=st.data(),
        by=st.sampled_from(
            [
                "generation",
                "claim",
                "claim of a lost generation",
                "older",
                "newer",
                "other claim",
                "other node",
            ]
        ),
        end=st.sampled_from(["commit", "commit", "commit", "fly", "abandon"]),
    )
    def release(self, data: st.DataObject, by: str, end: str) -> None:
        slot = data.draw(st.sampled_from(sorted(self.model.held)))
        tenant = self.model.held[slot]
        if not tenant.container:
            return
        shift = {"older": -1, "newer": 1, "claim of a lost generation": 1}.get(by, 0)
        by_claim = by in ("claim", "other claim")
        request = ReleaseRequest(
            attachment=AttachmentId(container=tenant.container, ifname="eth0"),
            node="node-0" if by == "other node" else tenant.node,
            claim=self._claim() if by in ("other claim", "older", "newer") else tenant.claim,
            generation=None if by_claim else tenant.generation + shift,
        )
        assert self.world.state.attachments[(tenant.container, "eth0")] == slot
        if slot in self.model.flying:
            return
        refused = _not_held(self.world.state.held(slot), request)
        mine = ("generation", "claim", "claim of a lost generation")
        assert (refused is None) == (by in mine), refused
        if refused is None:
            self._free(slot, end)

    def _free(self, slot: Slot, end: str) -> None:
        world = self.world
        change = world.freeing(slot)
        tenant = self.model.held[slot]
        past = Past(tenant.name, (0, world.sequence), world.now, tenant.uid)
        self._end(change, slot, past, end)

    @precondition(lambda self: self.ever)
    @rule(data=st.data())
    def replay_an_old_release(self, data: st.DataObject) -> None:
        """The end of any generation there ever was frees nothing but that very generation."""
        slot, held = data.draw(st.sampled_from(self.ever))
        tenant = self.model.held.get(slot)
        if slot in self.model.flying or (tenant and tenant.generation == held.generation):
            return
        before = dict(self.world.stored)
        self.world.sequence += 1
        change = freeing(self.world.keys, slot, held, self.world.now, self.world.sequence)
        (landed,) = self.world.commit(self.world.begin(change))
        assert landed is None
        assert self.world.stored == before

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def decide_what_flies(self, data: st.DataObject) -> None:
        """The oldest changes under way reach etcd, all in one revision; or they do not."""
        count = data.draw(st.integers(1, len(self.flying)))
        batch, self.flying = self.flying[:count], self.flying[count:]
        if data.draw(st.booleans()):
            self._land(batch)
        else:
            for change, slot, _ in batch:
                self._abandon(change, slot)

    @precondition(lambda self: self.flying)
    @rule()
    def a_late_copy_of_a_decided_change_falls_out(self) -> None:
        """etcd carries out a lost copy of a transaction after the copy that was answered."""
        change, slot, new = self.flying[0]
        batch, self.flying = self.flying, []
        self._land(batch)
        before = dict(self.world.stored)
        assert self.world.commit(change) == [self.world.revision]
        assert self.world.stored == before
        if isinstance(new, Tenant):
            self.world.release(slot)
            revision = self.world.revision
            assert self.world.commit(change) == [None]
            assert self.world.revision == revision
            del self.model.held[slot]
            past = Past(new.name, (revision, self.world.sequence), self.world.now, new.uid)
            self.model.past[slot] = past

    def _end(self, change: Change, slot: Slot, new: Tenant | Past, end: str) -> None:
        self.world.begin(change)
        self.model.flying.update(change.slots)
        if end == "fly":
            self.flying.append((change, slot, new))
        elif end == "commit":
            # In order: what was decided before is committed before.
            batch, self.flying = [*self.flying, (change, slot, new)], []
            self._land(batch)
        else:
            self._abandon(change, slot)

    def _abandon(self, change: Change, slot: Slot) -> None:
        self.world.abandon(change)
        self.model.flying.difference_update(change.slots)
        if self.blocks.pop(slot, None):
            self.model.resizing.discard(slot[0])

    def _land(self, batch: list[tuple[Change, Slot, Tenant | Past]]) -> None:
        keys: set[bytes] = set()
        for at, (change, _, _) in enumerate(batch):
            written = {op.key for op in change.then}
            if written & keys:
                # As the committer does: a key that stands twice begins the next transaction.
                self._land(batch[:at])
                self._land(batch[at:])
                return
            keys |= written
        revisions = self.world.commit(*(change for change, _, _ in batch))
        assert set(revisions) == {self.world.revision}
        for (change, slot, new), revision in zip(batch, revisions, strict=True):
            assert revision is not None
            self.model.flying.difference_update(change.slots)
            if slot in self.blocks:
                for name, block in self.blocks.pop(slot):
                    self.model.pools[name].indices |= block
                self.model.resizing.discard(slot[0])
            if isinstance(new, Tenant):
                before = self.model.past.pop(slot, None) or self.model.held.get(slot)
                if isinstance(before, Past) or (
                    before and before.container != new.container and before.uid != new.uid
                ):
                    self.model.remember(slot, before)
                self.model.held[slot] = replace(new, generation=revision)
                held = self.world.state.held(slot)
                assert held is not None
                self.ever.append((slot, held))
            else:
                del self.model.held[slot]
                self.model.past[slot] = replace(new, order=(revision, new.order[1]))

    # Time and admins

    @rule(milliseconds=st.sampled_from([1, 500, 1999, 5000, 31_000]))
    def time_passes(self, milliseconds: int) -> None:
        self.world.now += milliseconds

    @precondition(lambda self: not self.flying)
    @rule(index=st.integers(0, 15), network=st.sampled_from(sorted(NETWORKS)))
    def reserve_or_unreserve(self, network: str, index: int) -> None:
        slot = (network, index)
        tenant = self.model.held.get(slot)
        if tenant is not None and not tenant.container:
            self._free(slot, "commit")
        elif tenant is None and index in self.model.networks[network].usable:
            self.world.reserve(slot)
            self.model.held[slot] = Tenant("", "", "", None, None, (), "", self.world.revision)
            if past := self.model.past.pop(slot, None):
                self.model.remember(slot, past)

    @precondition(lambda self: not self.flying)
    @rule(
        place=st.one_of(
            st.sampled_from(PROBABLE),
            st.sampled_from(PROBABLE),
            st.fixed_dictionaries(
                {
                    "name": st.sampled_from(POOLS),
                    "kind": st.sampled_from(["application", "netspace", "default"]),
                    "network": st.sampled_from(sorted(NETWORKS)),
                    "parent": st.sampled_from([None, None, "tenant", "six", "main"]),
                }
            ),
        ),
        size=st.one_of(st.none(), st.integers(1, 6)),
        indices=INDICES,
        namespaces=st.sampled_from([[], [], ["a"], ["a", "b"], ["*"]]),
        cooldown=st.sampled_from([0, 5, 30]),
        retention=st.sampled_from([0, 0, 2, 60]),
        elastic=st.sampled_from([None, None, *BOUNDS]),
    )
    def create_pool(
        self, place: dict[str, Any], size: int | None, indices: set[int], **given: Any
    ) -> None:
        fields = {**place, **given}
        network = self.world.network(fields["network"])
        parent = self.model.pools.get(fields["parent"] or "")
        if not size:
            nested = parent is not None and parent.network == fields["network"]
            members = parent.indices if parent and nested else set(network.slots.usable)
            indices = among(indices, members)
        fields["ranges"] = [] if size else self._spans(network.slots, indices)
        fields["size"] = str(size) if size else None
        self._carve(NewPool(**fields))

    def _carve(self, new: NewPool) -> None:
        state, model = self.world.state, self.model
        parent = model.pools.get(new.parent or "")
        possible = (
            new.name not in model.pools
            and (new.parent is None or (parent is not None and parent.kind == "netspace"))
            and (new.parent is None or (new.kind == "application"))
            and (parent is None or parent.network == new.network)
            and (new.kind != "default" or not new.namespaces)
            and not (new.kind == "default" and "default" in {p.kind for p in model.pools.values()})
            and (
                parent is None
                or "*" in parent.namespaces
                or set(new.namespaces) <= set(parent.namespaces)
            )
        )
        free = self.model.carvable(new.network, new.parent, self.world.now)
        named = set(state.networks[new.network].slots.parse_ranges(new.ranges))
        unheld = {index for index in free if (new.network, index) not in model.held}
        possible = possible and (named <= free if named else len(unheld) >= int(new.size or 0))
        count = len(named) if named else int(new.size or 0)
        possible = possible and (new.elastic is None or count <= new.elastic.maximum)
        try:
            self.world.add_pool(new)
        except Problem as problem:
            assert not possible, problem
            return
        assert possible
        pool = self.world.pool(new.name)
        taken = set(pool.ranges)
        assert taken == named if named else taken <= unheld and len(taken) == int(new.size or 0)
        model.pools[new.name] = ModelPool(
            new.kind, new.network, new.parent, taken, pool.record.namespaces,
            int(new.cooldown * 1000), int(new.retention * 1000),
            (new.elastic.minimum, new.elastic.maximum, new.elastic.step) if new.elastic else None,
        )  # fmt: skip

    @precondition(lambda self: not self.flying)
    @rule(
        how=st.sampled_from(["grow", "grow", "shrink"]),
        name=st.sampled_from(POOLS),
        size=st.integers(1, 4),
        indices=INDICES,
        by=st.booleans(),
    )
    def resize_pool(self, how: str, **given: Any) -> None:
        (self._grow_pool if how == "grow" else self._shrink_pool)(**given)

    def _grow_pool(self, name: str, size: int, indices: set[int], by: bool) -> None:
        pool = self.model.pools.get(name)
        if pool is None:
            return
        free = self.model.carvable(pool.network, pool.parent, self.world.now)
        unheld = {index for index in free if (pool.network, index) not in self.model.held}
        slots = self.world.network(pool.network).slots
        indices = among(indices, set(slots.usable))
        asked = ResizePool(size=str(size)) if by else ResizePool(ranges=self._spans(slots, indices))
        try:
            self.world.grow(name, asked)
        except Problem as problem:
            after = len(pool.indices) + size if by else len(pool.indices | indices)
            fits = pool.bounds is None or after <= pool.bounds[1]
            possible = len(unheld) >= size if asked.size else indices <= free
            assert not (possible and fits), problem
            return
        gained = set(self.world.pool(name).ranges) - pool.indices
        assert (gained <= unheld and len(gained) == size) if asked.size else gained == indices
        assert gained <= free
        pool.indices |= gained

    def _shrink_pool(self, name: str, size: int, indices: set[int], by: bool) -> None:
        pool = self.model.pools.get(name)
        if pool is None:
            return
        network, model = pool.network, self.model
        idle = {
            index
            for index in model.own(name)
            if (network, index) not in model.held
            and not model.cooling((network, index), self.world.now)
        }
        nested = {i for p in model.pools.values() if p.parent == name for i in p.indices}
        # An address that was excluded is in no queue and may go.
        idle_or_excluded = idle | (pool.indices - model.networks[network].usable - nested)
        slots = self.world.network(network).slots
        indices = among(indices, pool.indices)
        asked = ResizePool(size=str(size)) if by else ResizePool(ranges=self._spans(slots, indices))
        gone = set(sorted(idle)[-size:]) if asked.size else indices
        possible = bool(pool.indices - gone)
        possible = possible and (len(idle) >= size if asked.size else gone <= idle_or_excluded)
        if pool.bounds is not None:
            possible = possible and len(pool.indices - gone) >= pool.bounds[0]
        try:
            self.world.shrink(name, asked)
        except Problem as problem:
            assert not possible, problem
            return
        assert possible
        pool.indices = pool.indices - gone
        assert set(self.world.pool(name).ranges) == pool.indices

    @rule(name=st.sampled_from(POOLS), count=st.integers(1, 4))
    def give_a_block_back(self, name: str, count: int) -> None:
        """What goes is free, all of one piece, and never the whole pool."""
        pool = self.model.pools.get(name)
        if pool is None or pool.network in self.model.resizing:
            return
        world, model = self.world, self.model
        world.state.settle(world.pool(name), world.now)
        found = elastic.shrinkage(world.pool(name), count)
        idle = {slot[1] for slot in model.free(name) if not model.cooling(slot, world.now)}
        if found is None:
            runs = [{*range(i, i + count)} for i in idle]
            assert not any(run <= idle for run in runs) or pool.indices <= idle
            return
        block = set(found.block)
        assert block <= idle and len(block) <= count and len(found.block.intervals) == 1
        world.do(resizing(world.keys, found))
        pool.indices -= block

    @precondition(lambda self: not self.flying)
    @rule(name=st.sampled_from(["shop", "shop", "six", "till", "tenant", "main"]))
    def delete_pool(self, name: str) -> None:
        pool = self.model.pools.get(name)
        if pool is None:
            return
        used = any((pool.network, index) in self.model.held for index in self.model.own(name))
        nested = any(each.parent == name for each in self.model.pools.values())
        try:
            self.world.delete_pool(name)
        except Problem as problem:
            assert problem.code == "in-use" and (used or nested)
            return
        assert not used and not nested
        del self.model.pools[name]

    @precondition(lambda self: not self.flying)
    @rule(
        name=st.sampled_from(POOLS),
        namespaces=st.sampled_from([None, ["a"], ["b"], ["*"]]),
        cooldown=st.sampled_from([None, 0, 5, 30]),
        retention=st.sampled_from([None, 0, 2, 60]),
    )
    def change_pool(
        self,
        name: str,
        namespaces: list[str] | None,
        cooldown: float | None,
        retention: float | None,
    ) -> None:
        if name not in self.model.pools:
            return
        asked = ChangePool()
        if namespaces is not None:
            asked.namespaces = namespaces
        if cooldown is not None:
            asked.cooldown = cooldown
        if retention is not None:
            asked.retention = retention
        try:
            record = pool_rules.change(self.world.state, self.world.pool(name), asked)
        except Problem as problem:
            assert problem.code == "invalid"
            return
        self.world.rewrite(name, record)
        pool = self.model.pools[name]
        pool.namespaces, pool.cooldown = record.namespaces, int(record.cooldown * 1000)
        pool.retention = int(record.retention * 1000)

    @precondition(lambda self: not self.flying)
    @rule(indices=st.sets(st.integers(2, 14), max_size=4))
    def exclude(self, indices: set[int]) -> None:
        network = self.world.network("red")
        asked = ChangeNetwork(exclude=self._spans(network.slots, indices))
        used = any(("red", index) in self.model.held for index in indices)
        try:
            self.world.change_network("red", asked)
        except Problem as problem:
            assert problem.code == "in-use" and used
            return
        assert not used
        self.model.networks["red"].usable = set(range(2, 15)) - indices

    # What must always be so

    @invariant()
    def the_keys_say_what_the_model_says(self) -> None:
        held: dict[Slot, tuple[str, int]] = {}
        past: dict[Slot, tuple[int, int, int]] = {}
        attachments: dict[str, Slot] = {}
        for key, kv in self.world.stored.items():
            kind, names = self.world.keys.parse(key)
            if kind == "slots":
                holder = msgspec.json.decode(kv.value, type=Holder)
                held[slot_id(names)] = (holder.container, kv.mod_revision)
            elif kind == "released":
                release = msgspec.json.decode(kv.value, type=Release)
                past[slot_id(names)] = (kv.mod_revision, release.sequence, release.at)
            elif kind == "attachments":
                attachments[names[0]] = slot_of(kv.value)
        model = self.model
        assert held == {slot: (t.container, t.generation) for slot, t in model.held.items()}
        assert past == {slot: (*past.order, past.at) for slot, past in model.past.items()}
        assert attachments == {t.container: s for s, t in model.held.items() if t.container}
        assert not held.keys() & past.keys()

    @invariant()
    def every_holder_lies_in_the_pool_it_was_given_from(self) -> None:
        for slot, tenant in self.model.held.items():
            assert tenant.pool in ("", self.model.owner(slot))

    @invariant()
    def pools_are_disjoint_and_counted(self) -> None:
        for name in self.model.pools:
            pool = self.world.pool(name)
            own = self.model.own(name)
            assert set(pool.own) == own
            assert pool.size == len(own)
            assert pool.used == sum((pool.record.network, i) in self.model.held for i in own)
            queued = [*pool.never.ranges(), *order(pool.cooling), *order(pool.ready)]
            queued += order(pool.retained)
            assert sorted(queued) == [slot[1] for slot in self.model.free(name)]

    @invariant()
    def the_history_has_the_last_of_those_who_are_gone(self) -> None:
        for name, network in self.model.networks.items():
            for slot in ((name, index) for index in network.usable):
                assert self.world.past(slot) == self.model.story.get(slot, [])[-PLACES:]

    @invariant()
    def a_reload_gives_the_same_state(self) -> None:
        live, anew = self.world.state, self.world.reloaded()
        for slot in self.model.flying:
            anew.take(slot)
        for pool in (*live.pools.values(), *anew.pools.values()):
            state = live if live.pools.get(pool.name) is pool else anew
            state.settle(pool, self.world.now)
        assert summary(anew) == summary(live)

    @rule()
    def restart(self) -> None:
        """Another leader takes over: what was under way is decided first, or lost."""
        for change, slot, _ in self.flying:
            self._abandon(change, slot)
        self.flying = []
        self.world.state = self.world.reloaded(page=3)

    # Small things

    def _claim(self) -> str:
        self.claims += 1
        return f"{self.claims:032x}"

    def _slots_of(self, addresses: list[str]) -> dict[str, Slot]:
        """Which slot an address belongs to, worked out from the networks as they were declared."""
        slots = {}
        for text in addresses:
            number = int(ip_address(text))
            for name, network in NETWORKS.items():
                start = {
                    "red": (0x0A000000, 0xFD00 << 112, 16),
                    "six": (None, 0xFD01 << 112, 16),
                    "own": (0x0A030000, (0xFD03 << 112) + 0x0A030000, 8),
                }[name]
                first = start[0] if ip_address(text).version == 4 else start[1]
                if first is not None and 0 <= number - first < start[2]:
                    slots[text] = (network.name, number - first)
        return slots

    @staticmethod
    def _spans(slots: Any, indices: set[int]) -> list[str]:
        return [str(slots.ipv6_of(index)) for index in sorted(indices)]


def among(draws: set[int], members: set[int]) -> set[int]:
    """Some of the members, where the draws fall."""
    ordered = sorted(members)
    return {ordered[draw % len(ordered)] for draw in draws}


TestAllocation = Allocation.TestCase
TestAllocation.settings = settings(max_examples=100, stateful_step_count=40)
