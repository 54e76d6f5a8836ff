"""What one look at etcd, and what one answer, must be like by itself."""

from __future__ import annotations

from collections.abc import Iterator

from soak import ground
from soak.history import Look, Operation
from soak.verdicts import Verdict


def torn(look: Look) -> Iterator[Verdict]:
    """Every holder has its attachment and every attachment its holder; what is held is not
    released; what is held lies in the pool that it says."""
    held = {(each.network, each.slot): each for each in look.slots}
    pools = {pool.name: pool for pool in look.pools}
    attachments = {
        (each.container, each.ifname): (each.network, each.slot) for each in look.attachments
    }
    where = f"at revision {look.revision}"
    for slot, stored in held.items():
        if stored.reserved:
            continue
        attachment = stored.container, stored.ifname
        if attachments.get(attachment) != slot:
            yield Verdict(
                "torn",
                f"{'/'.join(slot)} is held by {'/'.join(attachment)}, whose attachment says"
                f" {attachments.get(attachment)} {where}",
            )
        index = int(stored.slot)
        known, seen = ground.may_have(stored.pool, stored.network, index), pools.get(stored.pool)
        nested = any(pool.parent == stored.pool and index in pool for pool in look.pools)
        if known is None or (seen is not None and (index not in seen or nested)):
            yield Verdict("outside", f"{'/'.join(slot)} is held as one of pool {stored.pool}")
    for attachment, slot in attachments.items():
        if slot not in held:
            yield Verdict(
                "torn", f"attachment {'/'.join(attachment)} says {slot}, which is free {where}"
            )
    for slot in look.released:
        if slot in held:
            yield Verdict("torn", f"{'/'.join(slot)} is held and released {where}")


def fitting(each: Operation) -> Iterator[Verdict]:
    """Whether an answer is one that the question allows."""
    if each.kind != "allocate":
        return
    who = f"{each.namespace}/{each.pod or each.container}"
    if each.must and each.outcome != "ok":
        yield Verdict(
            "not-given",
            f"{who} got no address of pool {each.pool}, which nobody uses: {each.code}",
            (each.number,),
        )
    answer = each.answer
    if each.outcome != "ok" or answer is None:
        return
    numbers = (each.number,)
    owner = ground.may_have(answer.pool, answer.network, int(answer.slot))
    if owner is None:
        actual = ground.owner(answer.network, int(answer.slot))
        yield Verdict(
            "outside",
            f"{who} got {answer.network}/{answer.slot} of pool {answer.pool}; it belongs to"
            f" {actual.name if actual else 'no pool'}",
            numbers,
        )
        return
    if not owner.takes(each.namespace):
        yield Verdict("forbidden", f"{who} got an address of pool {owner.name}", numbers)
    wanted = each.pool or ("" if each.ip else ground.DEFAULT)
    if wanted and wanted != answer.pool:
        yield Verdict(
            "other-pool", f"{who} asked for pool {wanted} and got one of {answer.pool}", numbers
        )
    there = dict(zip(ground.FAMILIES, owner.network.address(int(answer.slot)), strict=True))
    got = {"ipv4": answer.ipv4, "ipv6": answer.ipv6}
    asked = each.families or tuple(family for family in there if there[family])
    expected = {family: there[family] if family in asked else None for family in there}
    if got != expected:
        yield Verdict(
            "families", f"{who} got {got} for slot {answer.slot}, not {expected}", numbers
        )
    if each.ip and not set(each.ip) <= set(there.values()):
        yield Verdict(
            "other-address", f"{who} asked for {', '.join(each.ip)} and got {got}", numbers
        )
