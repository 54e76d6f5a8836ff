"""The file between a node's two agents: what is read of it, and what pods get of it."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import msgspec
import pytest

from cni_plugins.results import Route
from cni_plugins.services.book import Segment
from cni_plugins.services.handed import federated, read_handed, stamp_of
from federation.desired import DesiredNode, PodRoute
from federation.node.handover import handed
from netspace.handover import HandedRoute, Handover, decode

SEGMENT = Segment(
    network="red", ipv4="10.91.0.0/24", ipv6="fd00:91::/64", address4="10.91.0.250",
    address6="fd00:91::fa",
)  # fmt: skip
HANDED = Handover(
    routes=(
        HandedRoute(destination="10.2.0.0/16", mtu=1400, advmss=1360),
        HandedRoute(destination="fd00:2::/48", mtu=1400),
    ),
    local=("10.91.0.0/24",),
)


class TestFile:
    def test_what_is_gone_or_empty_is_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "federation.json"
        assert not read_handed(path) and stamp_of(path) is None
        path.write_bytes(b"")
        assert not read_handed(path)

    def test_another_file_is_read_anew_and_the_same_is_not(self, tmp_path: Path) -> None:
        path = tmp_path / "federation.json"
        path.write_bytes(msgspec.json.encode(HANDED))
        first = read_handed(path)
        assert first == HANDED and read_handed(path) is first
        path.write_bytes(msgspec.json.encode(Handover(routes=HANDED.routes[:1])))
        assert read_handed(path).routes == HANDED.routes[:1]

    def test_what_cannot_be_read_leaves_what_was(self, tmp_path: Path) -> None:
        path = tmp_path / "federation.json"
        path.write_bytes(msgspec.json.encode(HANDED))
        assert read_handed(path) == HANDED
        path.write_bytes(b"nonsense")
        assert read_handed(path) == HANDED
        path.unlink()
        assert not read_handed(path)

    @pytest.mark.parametrize(
        "data",
        [
            b"{",
            b"[]",
            b"\xff",
            b'{"routes": [{}]}',
            b'{"routes": [{"destination": "all"}]}',
            b'{"routes": [{"destination": "10.0.0.1/8"}]}',
            b'{"routes": [{"destination": "10.0.0.0/8", "mtu": 65536}]}',
            b'{"local": ["10.0.0.0/33"]}',
        ],
    )
    def test_what_is_no_hand_over_is_refused(self, data: bytes) -> None:
        with pytest.raises(ValueError):
            decode(data)

    def test_what_one_agent_writes_the_other_reads(self) -> None:
        routes = (PodRoute(ip_network("10.2.0.0/16"), 1400, 1360),)
        local = (ip_network("10.91.0.0/24"),)
        written = handed(DesiredNode(pod_routes=routes, local=local))
        assert decode(msgspec.json.encode(written)) == written
        assert written.routes == HANDED.routes[:1] and written.local == HANDED.local
        assert not handed(DesiredNode(local=local))


class TestPods:
    def test_a_federated_address_gets_its_familys_routes_by_the_vmac(self) -> None:
        addresses = ["10.91.0.5/24", "fd00:91::5/64"]
        expected = Route(dst="10.2.0.0/16", gw="10.91.0.250", mtu=1400, advmss=1360)
        assert federated(HANDED, SEGMENT, addresses) == (expected,)

    def test_both_families_where_both_are_federated(self) -> None:
        both = msgspec.structs.replace(HANDED, local=("10.91.0.0/24", "fd00:91::/64"))
        found = federated(both, SEGMENT, ["10.91.0.5/24", "fd00:91::5/64"])
        assert [route.gw for route in found] == ["10.91.0.250", "fd00:91::fa"]

    def test_an_address_outside_the_federated_ranges_gets_none(self) -> None:
        assert federated(HANDED, SEGMENT, ["10.92.0.5/24"]) == ()

    def test_without_a_vmac_there_is_no_way(self) -> None:
        assert federated(HANDED, None, ["10.91.0.5/24"]) == ()
        bare = msgspec.structs.replace(SEGMENT, address4=None)
        assert federated(HANDED, bare, ["10.91.0.5/24"]) == ()
