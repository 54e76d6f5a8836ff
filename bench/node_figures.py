"""What the bench of the node measures, and what each figure is held against: ours beside the
reference plugins', on the same machine in the same run."""

from __future__ import annotations

from bench.figures import Goal, Row, most, of


def _pair(
    name: str,
    unit: str,
    digits: int,
    *goals: Goal,
    most: float | None = None,
    least: float | None = None,
) -> tuple[Row, Row]:
    bound = f"at most {most:g}" if most is not None else f"at least {least:g}"
    value = of(f"our_{name}", f"ref_{name}")
    beside = Goal(f"{bound} of the reference", value, least=least, most=most)
    return Row(f"ref_{name}", unit, digits), Row(f"our_{name}", unit, digits, (beside, *goals))


RATIO = "{}_our_to_ref"
"""The name of the figure that says what ours is to the reference in each pair of rounds."""


def _rounds(
    name: str,
    unit: str,
    digits: int,
    words: str,
    *,
    most: float | None = None,
    least: float | None = None,
) -> tuple[Row, ...]:
    """Figures of pairs of short rounds, of which each pair is compared: so what else the machine
    does, and that changes single rounds tenfold, is in both."""
    ratio = RATIO.format(name)
    goal = Goal(words, lambda found: found.get(ratio), least=least, most=most)
    return (
        Row(f"ref_{name}", unit, digits),
        Row(f"our_{name}", unit, digits),
        Row(ratio, "", 3, (goal,)),
    )


MEMORY = "our_agent_rss_mib"
GROWTH = 1.02
"""The agent's memory after five times as many pods: a page here and there is no growth."""

_OWN = Goal("at most 1.2 of our add_v4", of("our_add_dual_ms", "our_add_v4_ms"), most=1.2)
_HELD = Goal(
    "at most 1.2 of an empty node's", of("our_add_v4_ms_held_200", "our_add_v4_ms"), most=1.2
)
_GROWTH = Goal("at most 1.02 of that after 200", of(f"{MEMORY}_1000", f"{MEMORY}_200"), most=GROWTH)

NODE_ROWS = (
    *_pair("add_v4_ms", "ms", 2, most=1.0),
    *_pair("add_dual_ms", "ms", 2, _OWN, most=0.02),
    Row("our_add_v4_ms_held_200", "ms", 2, (_HELD,)),
    *_pair("burst_dual_s", "s", 2, most=0.1),
    *_pair("del_ms", "ms", 2, most=0.95),
    *_pair("version_ms", "ms", 2, most=0.5),
    *_pair("cpu_ms_per_add", "ms", 2, most=1.0),
    Row(f"{MEMORY}_200", "MiB", 1, (most(f"{MEMORY}_200", 90, "MiB"),)),
    Row(f"{MEMORY}_1000", "MiB", 1, (most(f"{MEMORY}_1000", 90, "MiB"), _GROWTH)),
    *_rounds("pod_to_pod_mbit", "Mbit/s", 0, "at least 0.97", least=0.97),
    *_rounds("pod_to_pod_rtt_us", "µs", 2, "at most 1.03", most=1.03),
)
