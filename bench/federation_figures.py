"""What the bench of federations measures, and what each figure is held against."""

from __future__ import annotations

from collections.abc import Callable

from bench.figures import Goal, Medians, Row, most, of


def _exactly(name: str, value: float) -> Goal:
    found: Callable[[Medians], float | None] = lambda medians: medians.get(name)  # noqa: E731
    return Goal(f"exactly {value:g}", found, least=value, most=value)


_TWO = Goal(
    "at least 1.9 of one", of("throughput_2_gateways_mbit", "throughput_1_gateway_mbit"), least=1.9
)


def _none(name: str) -> Row:
    return Row(name, "packets", 0, (_exactly(name, 0),))


FEDERATION_ROWS = (
    Row("outer_headers", "headers", 0, (_exactly("outer_headers", 1),)),
    _none("clear_packets"),
    Row("esp_overhead_bytes", "bytes", 0, (most("esp_overhead_bytes", 60, "bytes"),)),
    Row("vxlan_overhead_bytes", "bytes", 0, (most("vxlan_overhead_bytes", 50, "bytes"),)),
    Row("gateway_kill_gap_ms", "ms", 0, (most("gateway_kill_gap_ms", 1500, "ms"),)),
    _none("gateway_kill_other_flows_lost"),
    _none("handover_lost"),
    _none("rekey_lost"),
    Row("throughput_1_gateway_mbit", "Mbit/s", 1),
    Row("throughput_2_gateways_mbit", "Mbit/s", 1, (_TWO,)),
    Row("flow_share_max", "", 2, (most("flow_share_max", 0.6, "of the flows"),)),
    Row("node_join_ms_of_200", "ms", 0, (most("node_join_ms_of_200", 2000, "ms"),)),
    Row("plan_ms_5000_nodes", "ms", 0, (most("plan_ms_5000_nodes", 1000, "ms"),)),
    Row("plan_rss_mib", "MiB", 0, (most("plan_rss_mib", 500, "MiB"),)),
    _none("leader_kill_lost"),
)
"""Throughput is bounded by the gateways' shaped links, loss is counted in datagrams."""
