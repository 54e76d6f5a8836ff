"""Pods on macvlan and other clusters, over two VLANs on one card."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import handed_cases
from tests.handed_cases import Rig, rig_in


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    yield from rig_in(tmp_path_factory.mktemp("handed"), tagged=True)


def test_pods_on_vlans_get_routes_to_other_clusters_use_them_and_lose_them(rig: Rig) -> None:
    handed_cases.test_running_pods_get_the_routes_by_their_vmac_and_lose_them(rig)
    handed_cases.test_federated_traffic_passes_the_node_both_ways(rig)
    handed_cases.test_a_gateway_reaches_the_pods_of_other_nodes_by_its_vmac(rig)
