"""What is kept for names, and what is taken back from nodes that lost their pods."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from soak import ground
from soak.history import Operation
from soak.tenures import TOLERANCE, Index, Slot, Tenure
from soak.verdicts import Verdict

NO_MORE = frozenset({"pool-exhausted", "pool-cooling"})
"""Problems that say that there is no address, though one is kept."""


def kept_for_names(
    tenures: Mapping[tuple[Slot, int], Tenure], operations: Sequence[Operation], index: Index
) -> Iterator[Verdict]:
    """A name gets the address that is retained for it. Said only where it is certain which one that
    is: everything else under this name was over before that address was asked for."""
    reserved = {each.ifname for each in operations if each.kind == "reserve"}
    for asked in operations:
        pool = ground.BY_NAME.get(asked.pool)
        if asked.kind != "allocate" or asked.identity is None or asked.ip or not asked.completed:
            continue
        if pool is None or pool.retention <= pool.cooldown:
            continue
        if asked.outcome != "ok" and asked.code not in NO_MORE:
            continue
        if asked.answer is not None and asked.answer.how == "repeated":
            # It was given at an earlier time, perhaps before its own was free.
            continue
        last = _last(asked, index)
        if last is None or last.answer is None:
            continue
        held = last.answer
        tenure = tenures.get(((held.network, held.slot), held.generation))
        if tenure is None or f"{held.network}/{held.slot}" in reserved:
            continue
        first = min((each.began for each in index.freeing(tenure)), default=asked.ended)
        if asked.ended > first + pool.retention - TOLERANCE:
            continue
        got = asked.answer
        if got is None or (got.network, got.slot) != tenure.slot:
            yield Verdict(
                "not-returned",
                f"{'/'.join(asked.identity)} got {got.slot if got else asked.code} of pool"
                f" {pool.name} {asked.ended - first:.2f} s after it released {tenure}, which is"
                f" retained for {pool.retention} s",
                (last.number, asked.number),
            )


def _last(asked: Operation, index: Index) -> Operation | None:
    """What the name was given last, if nothing else of it can have come since."""
    assert asked.identity is not None
    others = [
        each
        for each in index.named[asked.identity]
        if (each.attachment, each.claim) != (asked.attachment, asked.claim)
        and each.outcome != "failed"
        and each.pool == asked.pool
        and each.invoked < asked.completed
    ]
    if not others:
        return None
    last = max(others, key=lambda each: each.invoked)
    if last.outcome != "ok" or last.removed or not _over(last, asked.invoked, index):
        return None
    same = last.attachment, last.claim
    before = min(each.invoked for each in others if (each.attachment, each.claim) == same)
    for each in others:
        if (each.attachment, each.claim) != same and not _over(each, before, index):
            return None
    if any(each.outcome != "ok" for each in others if (each.attachment, each.claim) == same):
        return None
    return last


def _over(given: Operation, by: int, index: Index) -> bool:
    """Whether what was given was released, and that acknowledged, by a tick."""
    return 0 < given.completed < by and any(
        each.kind == "release"
        and each.outcome == "ok"
        and each.completed < by
        and each.invoked > given.completed
        and each.claim == given.claim
        for each in index.releases.get(given.attachment, ())
    )


def reclaimed(
    tenures: Mapping[tuple[Slot, int], Tenure], operations: Sequence[Operation], index: Index
) -> Iterator[Verdict]:
    """What is reclaimed was proved gone; its release finds nothing afterwards."""
    for round_ in operations:
        for freed in round_.freed:
            tenure = tenures.get(((freed.network, freed.slot), freed.generation))
            if tenure is None:
                continue
            proof = index.proof(tenure)
            if proof is None or proof.invoked > round_.completed:
                yield Verdict(
                    "reclaimed-alive",
                    f"{tenure} was reclaimed; its node had not reported twice that it was gone",
                    (*tenure.seen[:2], round_.number),
                )
            for each in index.releases.get(tenure.attachment, ()):
                if (
                    each.kind == "release"
                    and each.invoked > round_.completed
                    and each.claim == tenure.claim
                    and each.answer is not None
                    and each.answer.released
                ):
                    yield Verdict(
                        "late-release",
                        f"a release of {tenure} freed something after that had been reclaimed",
                        (round_.number, each.number),
                    )
