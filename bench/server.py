"""`./run bench server`: what one server does in a second, what it takes for it, and how long nobody
leads when it is lost, each beside its goal.

It runs real processes on loopback: etcd, netspace-server, wrk. They end with it, and the folder of
their files is removed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench import figures, machine
from bench.figures import NAMES, Figures, aligned
from bench.load_wrk import LoadFailed
from bench.place import Failed
from bench.rows import QUICK, WHOLE, Bench, Scale
from lab import processes, programs
from lab.etcd import EtcdError
from netspace.problems import Problem


def main() -> None:
    parser = argparse.ArgumentParser(prog="./run bench server", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw figures, too")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes and one round: does it run at all?"
    )
    parser.add_argument(
        "--rows", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=", ".join(NAMES)
    )
    asked = parser.parse_args()
    processes.end_on_signals()
    scale = QUICK if asked.quick else WHOLE
    try:
        found = asyncio.run(run(scale, asked.rows))
    except (Failed, LoadFailed, EtcdError, Problem, TimeoutError) as error:
        sys.exit(f"./run bench server: {error or f'not done in {scale.bound:.0f} s'}")
    told = ", ".join(f"{key} {value}" for key, value in found.machine.items())
    besides = ", ".join(f"{key} {value:,.0f}" for key, value in found.besides.items())
    print(f"\n{aligned(found.lines())}\n\nmachine: {told}\nbesides: {besides}")
    if asked.json:
        found.write(asked.json)
    if found.missed:
        print(f"missed: {', '.join(found.missed)}")


async def run(scale: Scale, rows: Sequence[str]) -> Figures:
    """Measures the rows at a scale. Raises `TimeoutError` after `scale.bound` seconds."""
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:5.0f} s  {text}", file=sys.stderr, flush=True)

    programs.STATE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=programs.STATE) as name:
        folder = Path(name)
        found = Figures(machine.describe(folder), judged=scale is WHOLE)
        say(f"{len(rows)} rows, {scale.rounds} rounds; takes {scale.usual}")
        async with asyncio.timeout(scale.bound), Bench(folder, scale, found, say) as bench:
            await bench.measure([name for name in figures.NAMES if name in rows])
    return found


if __name__ == "__main__":
    main()
