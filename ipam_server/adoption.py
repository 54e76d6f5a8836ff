"""Addresses that nodes have and the state does not: which are taken back, and which are disputed.

A state that was restored from a snapshot has lost what was given after it; an admin's word may have
freed what lives still. The node's report says what each attachment holds. Where that slot is
nobody's the attachment gets it again, under its own claim. Where it is somebody else's, two may
have one address: nothing is changed, and both the audit and the node say so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ipam_server import views
from ipam_server.allocator import Choice, Wait
from ipam_server.keys import SlotId
from ipam_server.records import Disputed, Holder
from ipam_server.state import ClusterState
from netspace.slots import Family
from netspace.upkeep import Holding, LiveAttachment


def unknown(state: ClusterState, live: Iterable[LiveAttachment]) -> Iterator[LiveAttachment]:
    """What is reported to hold a slot that it does not hold here. A claim that was released a short
    time ago is left out: its DEL may have overtaken the report."""
    for each in live:
        said = each.holding
        if said is None or (said.claim, each.container, each.ifname) in state.buried:
            continue
        slot = state.attachments.get((each.container, each.ifname))
        if slot is None or slot != slot_of(said):
            yield each


def slot_of(said: Holding) -> SlotId:
    return said.network, int(said.slot)


def adopt(state: ClusterState, node: str, live: LiveAttachment) -> Choice | Wait | Disputed:
    """What becomes of an attachment that `unknown` has found."""
    said = live.holding
    assert said is not None
    slot = slot_of(said)
    pod = said.pod
    disputed = Disputed(
        said.network, f"{slot[1]:x}", live.container, live.ifname, pod.namespace, pod.name
    )
    families = _families(state, slot, said)
    if families is None or state.attachments.get((live.container, live.ifname)) is not None:
        return disputed
    if slot in state.taken:
        return Wait(slot)
    if state.held(slot) is not None:
        return disputed
    released = state.released(slot)
    past = released.release if released is not None else None
    before = past.identity if past is not None else None
    identity = (pod.namespace, pod.name, live.ifname) if pod.name else None
    holder = Holder(
        container=live.container,
        ifname=live.ifname,
        claim=said.claim,
        node=node,
        namespace=pod.namespace,
        pod=pod.name,
        uid=pod.uid,
        pool=said.pool,
        families=families,
        before=before if before != identity else None,
        turn=past.turn + 1 if past is not None else 0,
    )
    since = released.revision if released is not None else 0
    return Choice(slot, holder, "adopted", since=since, past=past)


def _families(state: ClusterState, slot: SlotId, said: Holding) -> tuple[Family, ...] | None:
    """The families in use, as a holder has them; None where the slot's addresses are others."""
    network = state.networks.get(slot[0])
    if network is None or slot[1] not in network.total:
        return None
    mine = dict(zip(("ipv4", "ipv6"), views.addresses(network.slots, slot[1]), strict=True))
    theirs: dict[Family, str | None] = {"ipv4": said.ipv4, "ipv6": said.ipv6}
    used: tuple[Family, ...] = tuple(family for family, text in theirs.items() if text is not None)
    if not used or any(mine[family] != theirs[family] for family in used):
        return None
    every = all(theirs[family] == mine[family] for family in theirs)
    return () if every else used


def disputes(state: ClusterState, node: str) -> list[Disputed]:
    """What the node's last report was in dispute about."""
    told = state.absences.get(node)
    return [] if told is None else told.record.disputed


def shown(state: ClusterState, disputed: Disputed) -> tuple[str, str]:
    """The address in words, and why it is in dispute, for the node: not whose it is instead."""
    network = state.networks.get(disputed.network)
    index = int(disputed.index, 16)
    if network is None or not 0 <= index < network.slots.count:
        return f"slot {index} of network {disputed.network}", "there is no such slot here"
    address = " ".join(filter(None, views.addresses(network.slots, index)))
    held = state.held(disputed.slot)
    if held is None:
        return address, "it was somebody else's when the node reported: report again"
    if held.holder.attachment == (disputed.container, disputed.ifname):
        return address, "it is the attachment's again: report again"
    return address, "it is somebody else's"
