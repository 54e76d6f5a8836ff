"""The address plan as text: clusters, networks below them, pools as a tree with their figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from netspacectl.address_plan.figures import NetworkFigures, Plan, PoolFigures
from netspacectl.text import NOTHING, listed, printable

HEAD: Final = ("POOL", "KIND", "SIZE", "USED", "COOLING", "RETAINED", "FREE", "USE", "RANGES")
RIGHT: Final = (False, False, True, True, True, True, True, True, False)
MAX_EXACT: Final = 10**12
ENOUGH: Final = 4
"""Ranges that are shown in one place."""
Row = tuple[str, ...]


def number(value: int | str) -> str:
    """A count; from 10^12 on shortened: a /64 has more digits than anybody reads."""
    count = int(value)
    return str(count) if count < MAX_EXACT else f"{count:.2e}".replace("e+", "e")


def few(ranges: Sequence[str]) -> str:
    """The first ranges, and how many more there are."""
    rest = f" and {len(ranges) - ENOUGH} more" if len(ranges) > ENOUGH else ""
    return printable(listed(ranges[:ENOUGH])) + rest


def percent(share: float) -> str:
    """A share in whole percent; neither 0 nor 100 unless it is."""
    whole = round(share * 100)
    if (whole == 0 and share > 0) or (whole == 100 and share < 1):
        return "<1 %" if whole == 0 else ">99 %"
    return f"{whole} %"


def lines(plan: Plan) -> Iterator[str]:
    """The whole text; columns stand below each other throughout."""
    tables = {
        id(network): _rows(network) for cluster in plan.clusters for network in cluster.networks
    }
    rows = [HEAD, *(row for table in tables.values() for row in table)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(HEAD))]
    if not plan.clusters:
        yield "no clusters"
    for cluster in plan.clusters:
        known = cluster.cluster
        if cluster is not plan.clusters[0]:
            yield ""
        used = f"{known.used} addresses in use" if known.used != 1 else "1 address in use"
        yield f"cluster {known.name}: {used}, led by {known.leader or 'nobody'}"
        for network in cluster.networks:
            yield ""
            yield from (f"  {line}" for line in _headings(network))
            yield from (f"    {_line(row, widths)}" for row in (HEAD, *tables[id(network)]))
    unused = [fabric.name for fabric in plan.fabrics if not fabric.members]
    if unused:
        yield ""
        yield f"fabrics without networks: {listed(unused)}"


def segment(network: NetworkFigures) -> str:
    """Where the network lies: VLAN, link, fabric."""
    known = network.network
    vlan = "untagged" if known.vlan is None else f"VLAN {known.vlan}"
    return printable(f"{vlan} on {known.parent}, fabric {known.fabric}")


def gateways(network: NetworkFigures) -> str:
    """The network's gateways, or that there are none."""
    known = [text for text in (network.network.gateway4, network.network.gateway6) if text]
    if not known:
        return "no gateway"
    return f"gateway{'s' if len(known) > 1 else ''} {listed(known)}"


def _headings(network: NetworkFigures) -> Iterator[str]:
    known = network.network
    subnets = " + ".join(text for text in (known.ipv4, known.ipv6) if text)
    mapping = f", mapping {known.mapping}" if known.ipv4 and known.ipv6 else ""
    yield f"network {known.name}: {segment(network)}: {subnets}{mapping}"
    parts = [gateways(network)]
    if known.owner is not None:
        parts.append("Kubernetes looks after it")
    if known.exclude:
        parts.append(f"excluded {few(known.exclude)}")
    if known.range:
        parts.append(f"only {few(known.range)}")
    yield f"  {printable('; '.join(parts))}"


def _rows(network: NetworkFigures) -> list[Row]:
    rows = list(_pool_rows(network.pools, ""))
    free = network.free.size
    summary = f"largest block {number(network.largest)}"
    if free:
        summary += f", fragmentation {percent(network.fragmentation)}"
    rows.append(
        (
            "└─ (total pool)",
            NOTHING,
            number(free),
            number(network.held),
            "0",
            "0",
            number(max(0, free - network.held)),
            percent(network.held / free) if free else NOTHING,
            summary,
        )
    )
    return rows


def _pool_rows(pools: Sequence[PoolFigures], indent: str, nested: bool = False) -> Iterator[Row]:
    for figures in pools:
        pool = figures.pool
        last = nested and figures is pools[-1]
        yield (
            f"{indent}{'└─' if last else '├─'} {pool.name}",
            pool.kind + (" (Kubernetes)" if pool.owner else ""),
            number(pool.size),
            number(pool.used),
            number(pool.cooling),
            number(pool.retained),
            number(pool.free),
            percent(figures.share) if int(pool.size) else NOTHING,
            few(pool.ranges),
        )
        yield from _pool_rows(figures.nested, f"{indent}{'   ' if last else '│  '}", True)


def _line(row: Row, widths: Sequence[int]) -> str:
    cells = [
        text.rjust(width) if right else text.ljust(width)
        for text, width, right in zip(row, widths, RIGHT, strict=True)
    ]
    return "  ".join(cells).rstrip()
