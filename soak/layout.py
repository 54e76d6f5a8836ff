"""Where pools lie: what looks at etcd say of them, and what may not have been taken from them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from soak import ground
from soak.history import Look, StoredPool
from soak.tenures import TOLERANCE, Index, Tenure
from soak.verdicts import Verdict


def laid_out(look: Look) -> Iterator[Verdict]:
    """Pools of a network lie apart, a nested one inside its parent; none is larger or smaller than
    it may be; an admin who asks what is wrong hears of nothing."""
    where = f"at revision {look.revision}"
    pools = {pool.name: pool for pool in look.pools}
    for around in {(pool.network, pool.parent) for pool in look.pools}:
        spans = sorted(
            (first, last, pool.name)
            for pool in look.pools
            if (pool.network, pool.parent) == around
            for first, last in pool.spans
        )
        for one, two in pairwise(spans):
            if two[0] <= one[1]:
                yield Verdict(
                    "overlap", f"{around[0]}/{two[0]} lies in pools {one[2]} and {two[2]} {where}"
                )
    for pool in look.pools:
        if pool.parent is not None:
            parent = pools.get(pool.parent)
            for first, last in pool.spans:
                if parent is None or not _covers(parent, first, last):
                    yield Verdict(
                        "overlap",
                        f"{pool.network}/{first} to {last} of pool {pool.name} is not all in pool"
                        f" {pool.parent} {where}",
                    )
        known = ground.BY_NAME.get(pool.name)
        if known is None or not known.moves:
            continue
        least = max(known.minimum, pool.needs)
        if not least <= pool.size <= known.maximum:
            yield Verdict(
                "bounds",
                f"pool {pool.name} has {pool.size} addresses {where}; it may have {least} to"
                f" {known.maximum}",
            )
    for finding in look.findings or ():
        yield Verdict("flawed", f"{finding}, {where}")


def taken_away(tenures: Iterable[Tenure], looks: Sequence[Look], index: Index) -> Iterator[Verdict]:
    """An address stays in its pool while it is held and until it has rested."""
    ordered = sorted((look for look in looks if look.pools), key=lambda look: look.invoked)
    begun = [look.invoked for look in ordered]
    for tenure in tenures:
        pool = ground.BY_NAME.get(tenure.pool)
        if pool is None or not pool.moves:
            continue
        rest = pool.rest(named=index.identities.get(tenure.attachment) is not None)
        first = min(index.ending(tenure), key=lambda each: each.invoked, default=None)
        for at in range(bisect_right(begun, tenure.known), len(ordered)):
            look = ordered[at]
            if (
                first is not None
                and look.completed > first.invoked
                and look.ended > first.began + rest - TOLERANCE
            ):
                break
            owner = _owner(look, tenure)
            if owner != tenure.pool:
                yield Verdict(
                    "taken-away",
                    f"{tenure} of pool {tenure.pool} lies in {owner or 'no pool'} at revision"
                    f" {look.revision}, while it is used or rests",
                    (*tenure.seen[:2], *([first.number] if first else [])),
                )
                break


def _owner(look: Look, tenure: Tenure) -> str:
    """The innermost pool that has the slot."""
    network, slot = tenure.slot
    around = [each for each in look.pools if each.network == network and int(slot) in each]
    return next((e.name for e in around if e.parent), around[0].name if around else "")


def _covers(parent: StoredPool, first: int, last: int) -> bool:
    return any(low <= first and last <= high for low, high in parent.spans)
