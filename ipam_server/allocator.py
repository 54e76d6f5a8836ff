"""Which slot an attachment gets: pure decisions over the state, the request and the clock.

The order of choice
1. The attachment has a slot: the same answer.
2. A fixed address is asked for: that slot or a clear error, never another one.
3. An application pool: the slot this pod held before, else the next one.
4. A restart (the name was seen before): its own last slot if free, whose cool-down does not bind
   it, else the pool's last released slot that has cooled down.
5. New: never-used slots in order, then the longest-released one that has cooled down.
6. Nothing can be given: an elastic pool grows, in the same step, before anybody waits.
7. It cannot grow: an error that says how the pool stands.

The slot of an interface that this node has seen to be gone is taken over by the pod's new sandbox;
until then an old holder keeps its slot, whatever the new pod is called. Where an address is to stay
with its name, in application pools and pools with retention, the new pod waits for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from ipam_server.elastic import Resize, growth
from ipam_server.inventory import Held, PoolState
from ipam_server.keys import SlotId
from ipam_server.records import CONFLICT, Holder, Identity, Release
from ipam_server.state import ClusterState
from ipam_server.wishes import Wish, families_of, fixed_slot, weigh
from netspace.messages import AllocateRequest
from netspace.problems import Problem
from netspace.slots import Family

How = Literal[
    "repeated",
    "fixed",
    "taken-over",
    "returned",
    "last-released",
    "never",
    "longest-released",
    "adopted",
]


AGAIN: Final = 2.0
"""Seconds after which a pod may ask again whose predecessor has its address."""


class Choice(msgspec.Struct, frozen=True):
    """The slot chosen and who is to hold it. `replaces`: the holder whose slot is rewritten, at the
    generation that the transaction compares. `since`: the revision of the slot's release, compared
    as well; 0 for a slot that nobody has had. `past`: who had it before, for its history. `grown`:
    how the pool grows in the same step, since the slot is not its own yet."""

    slot: SlotId
    holder: Holder
    how: How
    replaces: Held | None = None
    since: int = 0
    past: Release | None = None
    grown: Resize | None = None

    def stamped(self, at: int, said: int) -> Choice:
        """The choice with the time of day on it (Unix seconds), and the cluster's clock."""
        holder, past = self.holder, self.past
        if not holder.since:
            holder = msgspec.structs.replace(holder, since=said)
        if past is not None and self.replaces is not None:
            past = msgspec.structs.replace(past, at=at, until=said)
        return msgspec.structs.replace(self, holder=holder, past=past)


@dataclass(frozen=True, slots=True)
class Repeat:
    """The attachment has this slot already; nothing is to be written."""

    slot: SlotId
    held: Held


@dataclass(frozen=True, slots=True)
class Wait:
    """The answer depends on a transaction under way for this slot, or for a pool of this network
    that grows or shrinks."""

    slot: SlotId | str


def choose(state: ClusterState, request: AllocateRequest, now: int) -> Choice | Repeat | Wait:
    """Decides on a request at the cluster's clock `now` (milliseconds). Raises `Problem`."""
    attachment = (request.attachment.container, request.attachment.ifname)
    slot = state.attachments.get(attachment)
    if slot is not None:
        return _again(state, request, slot)
    wish = weigh(state, request)
    if wish.addresses:
        return _fixed(state, request, wish, now)
    assert wish.pool is not None
    return _from_pool(state, request, wish.pool, wish.families, now)


def identity_of(request: AllocateRequest) -> Identity | None:
    """The name that the slot sticks to; None for a pod without a name."""
    pod = request.pod
    return (pod.namespace, pod.name, request.attachment.ifname) if pod.name else None


def _again(state: ClusterState, request: AllocateRequest, slot: SlotId) -> Choice | Repeat | Wait:
    """The attachment has a slot. With another claim than the stored one the node lost its record:
    it keeps the slot under a new generation, so that nothing sent for the old claim frees it."""
    held = state.held(slot)
    if slot in state.taken:
        return Wait(slot)
    if held is None:
        raise Problem(
            "internal",
            f"attachment {request.attachment} names a slot of {slot[0]} that nobody holds",
            do="somebody changed etcd by hand: delete the attachment's key",
        )
    if held.holder.node != request.node:
        raise Problem(
            "address-taken",
            f"attachment {request.attachment} belongs to node {held.holder.node},"
            f" not to {request.node}",
        )
    if held.holder.claim == request.claim:
        return Repeat(slot, held)
    before = held.holder
    holder = _holder(request, before.pool, before.families, before.before, before.turn)
    holder = msgspec.structs.replace(holder, since=before.since)
    return Choice(slot, holder, "repeated", held)


def _fixed(state: ClusterState, request: AllocateRequest, wish: Wish, now: int) -> Choice | Wait:
    slot, pool = fixed_slot(state, request, wish)
    families = families_of(state, pool, wish.families)
    identity = identity_of(request)
    address = ", ".join(wish.addresses)
    held = state.held(slot)
    if slot in state.taken:
        return Wait(slot)
    if held is not None:
        if _gone(held, request):
            return _over(state, request, slot, held, pool, families)
        if identity is not None and held.holder.identity == identity:
            raise _predecessor(state, slot, held)
        raise Problem(
            "address-taken",
            f"{address} is {whose(held)}",
            do="delete that pod first or ask for another address",
        )
    if slot in state.disputed:
        raise Problem(
            "address-taken",
            f"{address} is in use on a node, by a pod that it is not known for",
            do="see netspacectl audit, or ask for another address",
        )
    released = state.released(slot)
    mine = released is not None and identity is not None and released.release.identity == identity
    left = 0 if mine else state.rest_left(slot, now)
    if left:
        why = (
            "is kept for the pod that had it"
            if state.retained(slot)
            else "was released a short time ago and rests"
        )
        raise Problem(
            "address-cooling",
            f"{address} {why} for {left / 1000:.1f} s more",
            do="try again then",
            retry_after=left / 1000,
        )
    return _take(state, request, pool, slot, families, "fixed")


def _from_pool(
    state: ClusterState,
    request: AllocateRequest,
    pool: PoolState,
    wanted: tuple[Family, ...],
    now: int,
) -> Choice | Wait:
    families = families_of(state, pool, wanted)
    state.settle(pool, now)
    identity = identity_of(request)
    mine = (
        [slot for slot in state.names.get(identity, ()) if state.owner(slot) is pool]
        if identity
        else []
    )
    under_way = [slot for slot in mine if slot in state.taken]
    if under_way:
        return Wait(under_way[0])
    for slot in mine:
        held = state.held(slot)
        if held is not None and _gone(held, request):
            return _over(state, request, slot, held, pool, families)
    if pool.record.kind == "application" or pool.record.retention > 0:
        # Its address is the pod's identity: another one would be worse than waiting.
        for slot in mine:
            held = state.held(slot)
            if held is not None:
                raise _predecessor(state, slot, held)
    returned = _returned(state, identity, mine)
    if returned is not None:
        return _take(state, request, pool, returned, families, "returned")
    network = pool.record.network
    restart = identity is not None and (identity in state.names or identity in state.earlier)
    if restart and pool.record.kind != "application":
        index = pool.ready.last()
        # Where another machine answers for it, whatever else is free comes first.
        if index is not None and not _in_conflict(state, (network, index)):
            return _take(state, request, pool, (network, index), families, "last-released")
    if (index := pool.never.first()) is not None:
        return _take(state, request, pool, (network, index), families, "never")
    if (index := pool.ready.longest()) is not None:
        return _take(state, request, pool, (network, index), families, "longest-released")
    if pool.record.bounds is not None and network in state.resizing:
        return Wait(network)
    grown = growth(state, pool, now)
    if isinstance(grown, Resize):
        # It was picked so that all of it can be given at once.
        index = next((i for i in grown.block if state.released((network, i)) is None), None)
        how: How = "longest-released" if index is None else "never"
        slot = (network, grown.block.first if index is None else index)
        return msgspec.structs.replace(
            _take(state, request, pool, slot, families, how), grown=grown
        )
    raise _exhausted(state, pool, now, grown)


def _returned(state: ClusterState, identity: Identity | None, mine: list[SlotId]) -> SlotId | None:
    """The slot that the name held last, among those of its pool that are free."""
    free = [
        (released.order, slot)
        for slot in mine
        if state.held(slot) is None
        and slot not in state.disputed
        and (released := state.released(slot)) is not None
        and released.release.identity == identity
    ]
    return max(free)[1] if free else None


def _gone(held: Held, request: AllocateRequest) -> bool:
    """Whether the holder is an earlier sandbox of the same pod whose interface this node has seen
    to be gone: the only proof of death that a node can give."""
    holder = held.holder
    return (
        holder.identity is not None
        and holder.identity == identity_of(request)
        and holder.node == request.node
        and holder.container in request.removed
    )


def _over(
    state: ClusterState,
    request: AllocateRequest,
    slot: SlotId,
    held: Held,
    pool: PoolState,
    families: tuple[Family, ...],
) -> Choice:
    before = held.holder
    holder = _holder(request, pool.name, families, before.before, before.turn)
    if before.uid == holder.uid:
        # Another sandbox of the same pod: nobody else has the slot now.
        holder = msgspec.structs.replace(holder, since=before.since)
        return Choice(slot, holder, "taken-over", held)
    holder = msgspec.structs.replace(holder, turn=before.turn + 1)
    return Choice(slot, holder, "taken-over", held, past=before.ended())


def _take(
    state: ClusterState,
    request: AllocateRequest,
    pool: PoolState,
    slot: SlotId,
    families: tuple[Family, ...],
    how: How,
) -> Choice:
    released = state.released(slot)
    before = released.release.identity if released is not None else None
    if before == identity_of(request):
        before = None
    if released is None:
        return Choice(slot, _holder(request, pool.name, families, before, 0), how)
    past = released.release
    holder = _holder(request, pool.name, families, before, past.turn + 1)
    return Choice(slot, holder, how, since=released.revision, past=past)


def _holder(
    request: AllocateRequest,
    pool: str,
    families: tuple[Family, ...],
    before: Identity | None,
    turn: int,
) -> Holder:
    return Holder(
        container=request.attachment.container,
        ifname=request.attachment.ifname,
        claim=request.claim,
        node=request.node,
        namespace=request.pod.namespace,
        pod=request.pod.name,
        uid=request.pod.uid,
        pool=pool,
        families=families,
        before=before,
        note=request.note,
        turn=turn,
    )


def _exhausted(state: ClusterState, pool: PoolState, now: int, why: str) -> Problem:
    """`why`: why it does not grow, where it is elastic."""
    cooling = pool.cooling.longest()
    use = f"pool {pool.name} has {pool.size} addresses, {pool.used} used"
    if nested := (state.nested(pool.name) & pool.ranges).size:
        use += f" ({nested} more lie in nested pools)"
    if pool.retained:
        use += f" and {len(pool.retained)} retained for the pods that had them"
    why = f"; {why}" if why else ""
    busy = pool.size - pool.used - len(pool.cooling) - len(pool.retained)
    if cooling is not None:
        left = state.rest_left((pool.record.network, cooling), now) / 1000
        return Problem(
            "pool-cooling",
            f"{use}, and {len(pool.cooling)} in cool-down, the next for {left:.1f} s more{why}",
            do="wait, or have the pool grown",
            retry_after=left,
        )
    if busy > 0:
        return Problem(
            "busy", f"{use}, and the last {busy} are being given or released{why}", retry_after=1
        )
    return Problem(
        "pool-exhausted", f"{use}: none is free{why}", do="delete pods or have the pool grown"
    )


def _predecessor(state: ClusterState, slot: SlotId, held: Held) -> Problem:
    """An earlier sandbox of the same pod name has the address and is not known to be gone."""
    holder = held.holder
    ipv4, ipv6 = state.networks[slot[0]].slots.texts_of(slot[1])
    address = ipv4 or ipv6
    return Problem(
        "address-held",
        f"{address} is kept for {holder.namespace}/{holder.pod}, and an earlier sandbox of that"
        f" name on node {holder.node} has it still",
        do=f"it is freed once node {holder.node} has removed that sandbox; if the node is dead,"
        " delete its Node object or taint it node.kubernetes.io/out-of-service; netspacectl address"
        f" release {address} takes your word for it",
        retry_after=AGAIN,
    )


def whose(held: Held) -> str:
    """Who holds a slot, in words."""
    holder = held.holder
    if holder.vmac:
        return f"the vmac of node {holder.node}"
    if holder.reserved:
        return f"reserved ({holder.note})" if holder.note else "reserved"
    pod = f"{holder.namespace}/{holder.pod}" if holder.pod else f"container {holder.container}"
    return f"held by {pod} on node {holder.node}"


def _in_conflict(state: ClusterState, slot: SlotId) -> bool:
    released = state.released(slot)
    return released is not None and released.release.note == CONFLICT
