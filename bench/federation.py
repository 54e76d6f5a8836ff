"""`./run bench federation`: what joining clusters costs, and what is lost when something fails.

It runs the three clusters of `lab/federation`, real processes and namespaces of their own, where
the kernel has bonds, VLANs and ESP: else in the lab kernel. They end with it.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import time
from pathlib import Path

from bench import machine
from bench.federation_figures import FEDERATION_ROWS
from bench.federation_rows import CLUSTERS, QUICK, WHOLE, Bench, Scale
from bench.figures import Figures, aligned
from bench.place import Failed
from hostnet import KernelError
from lab import processes, programs
from lab.charon import CharonError
from lab.etcd import EtcdError
from lab.federation.autopsy import write as write_autopsy
from lab.federation.place import FederatedPlace
from lab.federation.traffic import TrafficError
from lab.place import FOLDER, PlaceError
from lab.runtime import CniError
from lab.topology import TopologyError
from netspace.problems import Problem


def main() -> None:
    parser = argparse.ArgumentParser(prog="./run bench federation", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw figures, too")
    parser.add_argument(
        "--quick", action="store_true", help="a little of each kind: does it run at all?"
    )
    parser.add_argument(
        "--autopsy",
        type=Path,
        metavar="FOLDER",
        help="where it does not come to its end, write there what every node had",
    )
    asked = parser.parse_args()
    processes.end_on_signals()
    # What the parts of a node say of their work is for their own log.
    logging.disable(logging.WARNING)
    found = Figures({}, judged=not asked.quick, rows=FEDERATION_ROWS)
    failure = ""
    try:
        run(QUICK if asked.quick else WHOLE, found, asked.autopsy)
    except (
        CharonError,
        CniError,
        EtcdError,
        Failed,
        KernelError,
        PlaceError,
        Problem,
        TimeoutError,
        TopologyError,
        TrafficError,
        programs.ProgramMissing,
    ) as error:
        failure = f"./run bench federation: {error}"
    told = ", ".join(f"{key} {value}" for key, value in found.machine.items())
    besides = ", ".join(f"{key} {value:,.1f}" for key, value in found.besides.items())
    print(f"\n{aligned(found.lines())}\n\nmachine: {told}\nbesides: {besides}")
    if asked.json:
        found.write(asked.json)
    if failure:
        # What was measured before stands above.
        sys.exit(failure)
    if found.missed:
        print(f"missed: {', '.join(found.missed)}")


def run(scale: Scale, found: Figures, autopsy: Path | None = None) -> None:
    """Measures everything at a scale. Raises `TimeoutError` after `scale.bound` seconds. `autopsy`:
    the folder for what is there to be seen where it fails."""
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:5.0f} s  {text}", file=sys.stderr, flush=True)

    def too_long(_number: int, _frame: object) -> None:
        raise TimeoutError(f"not done in {scale.bound:.0f} s")

    signal.signal(signal.SIGALRM, too_long)
    with FederatedPlace(CLUSTERS) as lab:
        found.machine = machine.describe(FOLDER)
        say(f"takes {scale.usual}")
        signal.setitimer(signal.ITIMER_REAL, scale.bound)
        try:
            Bench(lab, scale, found, say).measure(FOLDER)
        except Exception:
            signal.setitimer(signal.ITIMER_REAL, 0)
            if autopsy is not None:
                write_autopsy(lab, autopsy)
                say(f"what every node had is in {autopsy}")
            raise
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    main()
