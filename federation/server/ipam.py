"""What the IPAM server of a Netspace cluster says: the ranges of pools and networks, and which
addresses are on which node.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ipam_server.client import Client
from netspace.messages import AddressEntry, Network, Pool
from netspace.slots import SlotMap

PAGE = 1000
"""Addresses in one answer."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Spans by pool and by network; addresses by node."""

    pools: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    networks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    pods: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


async def read(client: Client, cluster: str, *, pods: bool) -> Plan:
    """As it is now; raises `Problem`. A network's ranges are those of its pools, not its subnet.
    `pods`: whether addresses are asked for too."""
    found = {network.name: network for network in await client.networks(cluster)}
    pools: dict[str, tuple[str, ...]] = {}
    networks: dict[str, tuple[str, ...]] = dict.fromkeys(found, ())
    for pool in await client.pools(cluster):
        if pool.network not in found:
            continue  # made between the two answers
        spans = both_families(found[pool.network], pool)
        pools[pool.name] = spans
        networks[pool.network] += spans
    held: dict[str, list[str]] = {}
    after: str | None = None
    while pods:
        page = await client.addresses(cluster, state="used", limit=PAGE, after=after)
        for entry in page.items:
            if entry.node is not None:
                held.setdefault(entry.node, []).extend(_addresses(entry))
        after = page.next
        if after is None:
            break
    return Plan(pools, networks, {node: tuple(each) for node, each in held.items()})


def both_families(network: Network, pool: Pool) -> tuple[str, ...]:
    """A pool's spans in each family that its network has."""
    mapping = SlotMap.of(network.ipv4, network.ipv6, network.mapping)
    spans: list[str] = []
    for first, last in mapping.parse_ranges(pool.ranges).intervals:
        for address in (mapping.ipv4_of, mapping.ipv6_of):
            low, high = address(first), address(last)
            if low is not None and high is not None:
                spans.append(f"{low}-{high}")
    return tuple(spans)


def _addresses(entry: AddressEntry) -> list[str]:
    return [address for address in (entry.ipv4, entry.ipv6) if address is not None]
