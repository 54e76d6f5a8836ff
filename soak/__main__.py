"""The command line of the soak: `./run soak`."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from lab import programs
from lab.etcd import EtcdError
from soak import course
from soak.checker import check
from soak.history import History, Operation, load
from soak.verdicts import Verdict, summary

SHOWN = 20
"""Verdicts that are printed; the file of the history has what all were made from."""

OPERATIONS_SHOWN = 14


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="./run soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5, help="how long there are faults")
    parser.add_argument("--seed", type=int, help="chooses what is done; otherwise random")
    parser.add_argument("--servers", type=int, default=3)
    parser.add_argument("--members", type=int, default=3, help="members of etcd")
    parser.add_argument("--check", type=Path, metavar="FILE", help="judge a history again")
    given = parser.parse_args(arguments)
    if given.check is not None:
        try:
            return judge(load(given.check), given.check)
        except (OSError, msgspec.DecodeError) as error:
            print(f"./run soak: {error}", file=sys.stderr)
            return 2
    seed = random.randrange(2**32) if given.seed is None else given.seed
    history = course.new_history(seed, given.minutes, given.servers, given.members)
    kept = programs.STATE / "soak" / f"{seed}"
    print(
        f"soak: seed {seed}, {given.minutes:g} minutes, {given.servers} servers,"
        f" {given.members} etcd members, {course.CLIENTS} clients",
        flush=True,
    )
    stuck = ""
    with tempfile.TemporaryDirectory(prefix="netspace-soak-") as name:
        folder = Path(name)
        try:
            asyncio.run(course.run(history, folder, lambda line: print(line, flush=True)))
        except (course.Stuck, EtcdError) as error:
            stuck = str(error)
        finally:
            history.save(kept / "history.jsonl")
            keep_logs(folder, kept)
    if stuck:
        print(f"soak: {stuck}")
        print(f"soak: seed {seed}; what the servers said is in {kept}")
    status = judge(history, kept / "history.jsonl")
    return 1 if stuck else status


def judge(history: History, path: Path) -> int:
    """Says what the history shows; the exit status."""
    verdicts = check(history.operations, history.looks)
    for line in course.counts(history):
        print(line)
    for verdict in verdicts[:SHOWN]:
        print("\n".join(explained(verdict, history.operations)))
    if len(verdicts) > SHOWN:
        print(f"... and {len(verdicts) - SHOWN} more")
    if verdicts:
        print(f"soak: seed {history.setting.seed}; the whole history is {path}")
    print(summary(history.operations, verdicts), flush=True)
    return 1 if verdicts else 0


def explained(verdict: Verdict, operations: Sequence[Operation]) -> list[str]:
    """A verdict and the operations it was made from."""
    lines = [f"{verdict.sort}: {verdict.rule}: {verdict.says}"]
    numbers = sorted(set(verdict.operations))
    lines += [f"    {told(operations[number])}" for number in numbers[:OPERATIONS_SHOWN]]
    if len(numbers) > OPERATIONS_SHOWN:
        lines.append(f"    ... {len(numbers) - OPERATIONS_SHOWN} more")
    return lines


def told(each: Operation) -> str:
    """An operation in one line; times are seconds of the machine's monotonic clock."""
    words = [
        f"#{each.number}",
        f"{each.began:.3f} to {each.ended:.3f}",
        f"client {each.client}",
        each.kind,
        f"{each.container}/{each.ifname}",
        f"claim {each.claim[:8]}",
        f"{each.namespace}/{each.pod or '-'}",
    ]
    if each.generation is not None:
        words.append(f"generation {each.generation}")
    if each.removed:
        words.append(f"removed {','.join(each.removed)}")
    if each.what or each.pool:
        words.append(" ".join(filter(None, ("pool", each.pool, each.what))))
    if each.kind == "report":
        live = ",".join(one.container for one in each.live) or "nothing"
        words.append(f"{each.node} at revision {each.seen} has {live}")
    if each.freed:
        words.append(f"freed {','.join(f'{one.container}/{one.ifname}' for one in each.freed)}")
    words.append(f"-> {each.outcome or 'under way'} {each.code}".rstrip())
    if each.answer is not None and each.kind in ("allocate", "ask"):
        answer = each.answer
        words.append(f"{answer.network}/{answer.slot} generation {answer.generation} {answer.how}")
    elif each.answer is not None:
        words.append("released" if each.answer.released else "nothing was held")
    return " ".join(words)


def keep_logs(folder: Path, kept: Path) -> None:
    """What servers and members said."""
    for log in (*folder.glob("server-*/log"), *folder.glob("etcd-*/etcd.log")):
        (kept / f"{log.parent.name}.log").write_bytes(log.read_bytes())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
