"""What a history says: a pure function from operations and looks at etcd to verdicts.

A *tenure* is one holding of a slot: network, slot and generation name it. Whoever saw it (an answer
to its attachment, a look at etcd) proves that it had begun by then. It may end once somebody has
asked for something that ends it: a release by its claim or generation, a takeover of its container,
the same attachment under another claim, an admin's word, its node's second report that it is gone.
Before the first such request it must be there. Nothing is concluded from a request whose answer was
lost but that it may have been carried out, then or at any time later.

The rules, and how they are counted, are in `soak.verdicts`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

from soak import ground
from soak.fitting import fitting, torn
from soak.history import Answer, Look, Operation
from soak.keeping import kept_for_names, reclaimed
from soak.layout import laid_out, taken_away
from soak.tenures import TOLERANCE, Attachment, Index, Slot, Tenure
from soak.verdicts import SORTS, Verdict


def check(operations: Sequence[Operation], looks: Sequence[Look]) -> list[Verdict]:
    """Every rule that does not hold, the gravest first."""
    index = Index(operations)
    tenures: dict[tuple[Slot, int], Tenure] = {}
    verdicts = [
        *_collect(tenures, operations, looks),
        *_successions(tenures.values(), index),
        *_missing(tenures.values(), looks, index),
        *_repeats(index),
        *_came_back(tenures, operations, looks, index),
        *_left(looks, index),
        *_refused(tenures.values(), index),
        *taken_away(tenures.values(), looks, index),
        *kept_for_names(tenures, operations, index),
        *reclaimed(tenures, operations, index),
        *(found for look in looks for found in torn(look)),
        *(found for look in looks for found in laid_out(look)),
        *(found for each in operations for found in fitting(each)),
    ]
    sorts = list(dict.fromkeys(SORTS.values()))
    return sorted(verdicts, key=lambda verdict: sorts.index(verdict.sort))


def _collect(
    tenures: dict[tuple[Slot, int], Tenure],
    operations: Sequence[Operation],
    looks: Sequence[Look],
) -> Iterator[Verdict]:
    """Fills `tenures` with all that were seen; one generation of a slot has one holder."""

    def saw(tenure: Tenure) -> Verdict | None:
        key = tenure.slot, tenure.generation
        known = tenures.setdefault(key, tenure)
        if known is tenure:
            return None
        if known.attachment != tenure.attachment or (
            known.claim and tenure.claim and known.claim != tenure.claim
        ):
            return Verdict(
                "two-holders", f"{known}, and {tenure}", (*known.seen[:2], *tenure.seen[:2])
            )
        known.claim = known.claim or tenure.claim
        known.node = known.node or tenure.node
        known.seen += tenure.seen
        if tenure.known < known.known:
            known.known, known.seconds = tenure.known, tenure.seconds
        return None

    for each in operations:
        answer = each.answer
        if each.outcome == "ok" and answer and each.kind in ("allocate", "ask", "reserve"):
            claim = each.claim if each.kind == "allocate" else ""
            slot = answer.network, answer.slot
            tenure = Tenure(
                slot,
                answer.generation,
                each.attachment,
                claim,
                each.completed,
                each.ended,
                [each.number],
                answer.pool,
                each.node,
            )
            if found := saw(tenure):
                yield found
    for look in looks:
        for stored in look.slots:
            slot = stored.network, stored.slot
            tenure = Tenure(
                slot,
                stored.generation,
                stored.attachment,
                stored.claim,
                look.completed,
                look.ended,
                pool=stored.pool,
                node=stored.node,
            )
            if found := saw(tenure):
                yield found


def _successions(tenures: Iterable[Tenure], index: Index) -> Iterator[Verdict]:
    """One tenure of a slot after the other, in the order of generations."""
    slots: dict[Slot, list[Tenure]] = defaultdict(list)
    for tenure in tenures:
        slots[tenure.slot].append(tenure)
    for holders in slots.values():
        holders.sort(key=lambda tenure: tenure.generation)
        for before, after in pairwise(holders):
            yield from _succession(before, after, index)


def _succession(before: Tenure, after: Tenure, index: Index) -> Iterator[Verdict]:
    concerned = (*before.seen[:2], *after.seen[:2])
    if not any(each.invoked < after.known for each in index.ending(before)):
        yield Verdict("held-while-given", f"{after}, while held since before: {before}", concerned)
    makers = index.makers(before.attachment, before.claim)
    if before.claim and makers and min(each.invoked for each in makers) > after.known:
        yield Verdict("order", f"{before} came after {after}", concerned)
    pool = ground.BY_NAME.get(before.pool)
    names = index.identities.get(before.attachment), index.identities.get(after.attachment)
    freed = [
        each
        for each in (*index.freeing(before), *index.freeing_unseen(before))
        if each.invoked < after.known
    ]
    if (
        pool is None
        # A reservation rests for nobody, and nobody's rest keeps an admin from one.
        or "" in (before.attachment[0], after.attachment[0])
        or before.attachment == after.attachment
        or (names[0] is not None and names[0] == names[1])
        or not freed
    ):
        return
    rested = after.seconds - min(each.began for each in freed)
    wanted = pool.rest(named=names[0] is not None)
    if rested < wanted - TOLERANCE:
        retained = wanted > pool.cooldown and rested >= pool.cooldown - TOLERANCE
        yield Verdict(
            "retained" if retained else "cooling",
            f"{after}, {rested:.2f} s after the release of {before} was asked for;"
            f" in pool {pool.name} it rests for {wanted} s",
            (*concerned, *(each.number for each in freed)),
        )


def _missing(tenures: Iterable[Tenure], looks: Sequence[Look], index: Index) -> Iterator[Verdict]:
    """What began before a look, and nobody asked to end until after it, is in it."""
    ordered = sorted(looks, key=lambda look: look.invoked)
    begun = [look.invoked for look in ordered]
    stored = [{((s.network, s.slot), s.generation) for s in look.slots} for look in ordered]
    for tenure in tenures:
        end = min((each.invoked for each in index.ending(tenure)), default=None)
        for at in range(bisect_right(begun, tenure.known), len(ordered)):
            if end is not None and ordered[at].completed >= end:
                break
            if (tenure.slot, tenure.generation) not in stored[at]:
                yield Verdict(
                    "missing",
                    f"{tenure}: not in etcd at revision {ordered[at].revision}",
                    tuple(tenure.seen[:4]),
                )
                break


def _repeats(index: Index) -> Iterator[Verdict]:
    """One claim of one attachment has one answer."""
    for attachment, allocations in index.allocations.items():
        first: dict[str, tuple[Operation, Answer]] = {}
        for each in allocations:
            if each.outcome != "ok" or each.answer is None:
                continue
            known, answer = first.setdefault(each.claim, (each, each.answer))
            if _same(answer) != _same(each.answer):
                yield Verdict(
                    "other-answer",
                    f"{'/'.join(attachment)} with claim {each.claim[:8]} has"
                    f" {_same(answer)}, and {_same(each.answer)}",
                    (known.number, each.number),
                )


def _same(answer: Answer) -> tuple[object, ...]:
    return (
        answer.network, answer.slot, answer.generation, answer.ipv4, answer.ipv6, answer.pool
    )  # fmt: skip


def _came_back(
    tenures: Mapping[tuple[Slot, int], Tenure],
    operations: Sequence[Operation],
    looks: Sequence[Look],
    index: Index,
) -> Iterator[Verdict]:
    """After the end of a claim's release was acknowledged, it never holds anything again."""
    dead: dict[tuple[Attachment, str], Operation] = {}
    for each in operations:
        if each.outcome == "ok" and (
            each.kind == "release"
            or (each.kind == "operator" and each.answer and each.answer.released)
        ):
            known = dead.setdefault((each.attachment, each.claim), each)
            if each.completed < known.completed:
                dead[each.attachment, each.claim] = each
        for gone in each.freed:
            tenure = tenures.get(((gone.network, gone.slot), gone.generation))
            if tenure is not None and tenure.claim:
                dead.setdefault((tenure.attachment, tenure.claim), each)
    for (attachment, claim), release in dead.items():
        for each in index.makers(attachment, claim):
            if each.outcome == "ok" and each.invoked > release.completed:
                yield Verdict(
                    "came-back",
                    f"{'/'.join(attachment)} got an address with claim {claim[:8]}, which had"
                    " been released",
                    (release.number, each.number),
                )
    told: set[tuple[Attachment, str]] = set()
    for look in looks:
        for stored in look.slots:
            key = (stored.container, stored.ifname), stored.claim
            release_of = dead.get(key)
            if release_of and release_of.completed < look.invoked and key not in told:
                told.add(key)
                yield Verdict(
                    "came-back",
                    f"{stored.network}/{stored.slot} at generation {stored.generation} is held by"
                    f" {stored.container}/{stored.ifname} with claim {stored.claim[:8]}, which had"
                    f" been released, at revision {look.revision}",
                    (
                        release_of.number,
                        *(each.number for each in index.makers(*key)),
                    ),
                )


def _left(looks: Sequence[Look], index: Index) -> Iterator[Verdict]:
    for look in looks:
        if not look.last:
            continue
        for stored in look.slots:
            attachment = stored.container, stored.ifname
            yield Verdict(
                "left",
                f"{stored.network}/{stored.slot} at generation {stored.generation} is held by"
                f" {stored.container}/{stored.ifname} with claim {stored.claim[:8]} at the end",
                tuple(
                    each.number
                    for each in (
                        *index.allocations.get(attachment, ()),
                        *index.releases.get(attachment, ()),
                    )
                ),
            )
        for left in look.attachments:
            yield Verdict(
                "left",
                f"attachment {left.container}/{left.ifname} stands at the end",
                tuple(
                    each.number for each in index.allocations.get((left.container, left.ifname), ())
                ),
            )


def _refused(tenures: Iterable[Tenure], index: Index) -> Iterator[Verdict]:
    """A tenure was begun by a request that was not surely without effect."""
    for tenure in tenures:
        makers = index.makers(tenure.attachment, tenure.claim)
        if tenure.claim and all(each.outcome == "failed" for each in makers):
            yield Verdict(
                "refused-but-done",
                f"{tenure}, though every request for it failed"
                if makers
                else f"{tenure}, which nobody asked for",
                tuple(each.number for each in makers),
            )
