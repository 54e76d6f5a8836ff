"""`./run bench node`: what a pod's interface costs, from the runtime's point of view, beside the
reference plugins `macvlan` and `host-local` on the same parent link in the same run.

It runs real processes (etcd, netspace-server, two agents) and namespaces of its own; they end with
it, and the folder of their files is removed.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path

from bench import machine
from bench.figures import Figures, aligned
from bench.node_figures import NODE_ROWS
from bench.node_place import Place
from bench.node_rows import QUICK, WHOLE, Bench, Scale
from bench.place import Failed
from hostnet import KernelError, run_in
from lab import launcher, processes, programs
from lab.etcd import EtcdError
from lab.server import ServerError
from netspace.problems import Problem


def main() -> None:
    parser = argparse.ArgumentParser(prog="./run bench node", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw figures, too")
    parser.add_argument(
        "--quick", action="store_true", help="a few calls of each kind: does it run at all?"
    )
    asked = parser.parse_args()
    processes.end_on_signals()
    try:
        found = run(QUICK if asked.quick else WHOLE)
    except (
        EtcdError,
        Failed,
        KernelError,
        Problem,
        ServerError,
        TimeoutError,
        launcher.BuildError,
        programs.ProgramMissing,
    ) as error:
        sys.exit(f"./run bench node: {error}")
    told = ", ".join(f"{key} {value}" for key, value in found.machine.items())
    print(f"\n{aligned(found.lines())}\n\nmachine: {told}")
    if asked.json:
        found.write(asked.json)
    if found.missed:
        print(f"missed: {', '.join(found.missed)}")


def run(scale: Scale) -> Figures:
    """Measures everything at a scale. Raises `TimeoutError` after `scale.bound` seconds."""
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:5.0f} s  {text}", file=sys.stderr, flush=True)

    def too_long(_number: int, _frame: object) -> None:
        raise TimeoutError(f"not done in {scale.bound:.0f} s")

    programs.STATE.mkdir(exist_ok=True)
    signal.signal(signal.SIGALRM, too_long)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=programs.STATE) as name:
        folder = Path(name)
        found = Figures(machine.describe(folder), judged=scale is WHOLE, rows=NODE_ROWS)
        say(f"takes {scale.usual}")
        signal.setitimer(signal.ITIMER_REAL, scale.bound)
        try:
            with Place(folder) as place:
                bench = Bench(place, scale, found, say)
                run_in(place.node.netns, lambda _: bench.measure())
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    return found


if __name__ == "__main__":
    main()
