"""What a node's way to Services should be, and its rules as text."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_plugins.add import add
from cni_plugins.node_config import ServicesSection
from cni_plugins.results import Route
from cni_plugins.services.book import (
    Book,
    OwnRoute,
    Place,
    Segment,
    for_families,
    read_book,
    write_book,
)
from cni_plugins.services.chains import (
    HOOKS,
    KINDS,
    sets_of,
    tables_of,
)
from cni_plugins.services.wanted import (
    LocalPod,
    Seen,
    Wanted,
    lacks_address,
    remembered,
    vmac_mac,
    vmac_name,
    wanted_of,
)
from hostnet.chains import Present, differences, parse, removal_text, restore_text
from netspace.handover import HandedRoute, Handover
from netspace.messages import Network
from tests.unit.cni_bench import Bench, added, invocation
from tests.unit.cni_doubles import NETNS

SECTION = ServicesSection(cidrs=("10.96.0.0/16", "fd00:96::/108"), extra=("172.20.0.0/16",))
GIVEN = {"red": ("10.91.0.250", "fd00:91::fa"), "blue": ("10.92.0.250", None)}
SEEN = Seen(
    kinds={"bond0": "bond", "bond0.910": "vlan", "bond0.920": "vlan", "eth0": ""},
    addresses={"eth0": ("192.168.7.1/24", "fd00:7::1/64")},
    uplinks=("eth0",),
)
ALL_KINDS = frozenset(KINDS)


def network(name: str = "red", **changes: Any) -> Network:
    number = {"red": 910, "blue": 920}[name]
    values: dict[str, Any] = {
        "name": name, "revision": 1, "uid": name, "fabric": "default", "parent": "bond0",
        "vlan": number, "ipv4": f"10.{number // 10}.0.0/24",
        "ipv6": "fd00:91::/64" if name == "red" else None, "gateway4": None, "gateway6": None,
        "mapping": "offset", "mtu": 0, "range": [], "exclude": [], "total": "1", "carved": "0",
        "used": 0, "reserved": 0,
    }  # fmt: skip
    return Network(**{**values, **changes})


def wanted(*networks: Network, seen: Seen = SEEN, book: Book | None = None) -> Wanted:
    known = networks or (network("red"), network("blue"))
    return wanted_of(SECTION, ("east", "node-1"), known, GIVEN, [], seen, book or Book())


class TestVmacs:
    @pytest.mark.parametrize(
        ("parent", "vlan", "name"),
        [("bond0", 910, "vmac910"), ("bond0", None, "vmac0"), ("bond1", 910, "vmac910~a26e6f")],
    )
    def test_the_usual_parents_have_short_names(
        self, parent: str, vlan: int | None, name: str
    ) -> None:
        assert vmac_name(parent, vlan)[:7] == name[:7]
        assert ("~" in vmac_name(parent, vlan)) == (parent != "bond0")

    @given(
        st.text("abcdefghij0123456789.-", min_size=1, max_size=15),
        st.text("abcdefghij0123456789.-", min_size=1, max_size=15),
        st.integers(1, 4094),
        st.integers(1, 4094),
    )
    def test_names_fit_and_are_of_one_vlan_of_one_link(
        self, one: str, other: str, first: int, second: int
    ) -> None:
        assert len(vmac_name(one, first).encode()) <= 15
        same = vmac_name(one, first) == vmac_name(other, second)
        assert same == ((one, first) == (other, second))

    def test_the_mac_is_a_unicast_one_of_our_own_making_and_always_the_same(self) -> None:
        mac = vmac_mac("east", "node-1", "vmac910")
        assert int(mac[:2], 16) & 3 == 2
        assert mac == vmac_mac("east", "node-1", "vmac910")
        assert mac != vmac_mac("east", "node-2", "vmac910")

    def test_each_vlan_has_one_with_the_servers_addresses_in_its_subnets(self) -> None:
        red, blue = wanted().places
        assert (red.name, red.parent) == ("vmac910", "bond0.910")
        assert red.addresses == ("10.91.0.250/24", "fd00:91::fa/64")
        assert (blue.name, blue.addresses) == ("vmac920", ("10.92.0.250/24",))

    def test_two_networks_of_one_vlan_share_it(self) -> None:
        place = wanted(network("red"), network("blue", vlan=910)).places[0]
        assert [segment.network for segment in place.segments] == ["blue", "red"]
        assert len(place.addresses) == 3

    def test_a_network_whose_link_the_node_has_not_gets_none(self) -> None:
        assert wanted(network("red", parent="bond7")).places == ()

    def test_a_vlan_interfaces_own_address_is_taken_with_its_routes(self) -> None:
        route = OwnRoute(destination="10.200.0.0/16", gateway="10.91.0.1")
        seen = Seen(
            SEEN.kinds,
            {**SEEN.addresses, "bond0.910": ("10.91.0.5/24", "fd00:91::5/64", "192.0.2.1/32")},
            {"bond0.910": (route,)},
            SEEN.uplinks,
        )
        assert not lacks_address(network("red"), seen, Book())
        found = wanted(network("red"), seen=seen)
        (place,) = found.places
        assert place.own == place.addresses == ("10.91.0.5/24", "fd00:91::5/64")
        assert place.routes == (route,)
        # Once it has moved the VLAN interface says nothing of it: the book does.
        again = wanted(network("red"), book=found.book)
        assert again.places == found.places

    def test_an_untagged_links_address_stays_and_the_vmac_is_beside_it(self) -> None:
        seen = Seen(SEEN.kinds, {**SEEN.addresses, "eth0": ("10.91.0.5/24",)}, {}, ("eth0",))
        untagged = network("red", parent="eth0", vlan=None)
        assert lacks_address(untagged, seen, Book())
        (place,) = wanted(untagged, seen=seen).places
        # The link below reaches the subnet already.
        assert place.addresses == ("10.91.0.250/32", "fd00:91::fa/64")
        assert place.own == ()

    def test_without_networks_what_is_in_the_book_stays(self) -> None:
        found = wanted()
        assert remembered(found.book, []).places == found.places


class TestPodRoutes:
    def test_the_vmac_is_on_the_link_and_services_and_the_node_behind_it(self) -> None:
        routes = [(route.dst, route.gw) for route in wanted().routes["red"]]
        assert routes == [
            ("10.91.0.250/32", ""),
            ("10.96.0.0/16", "10.91.0.250"),
            ("192.168.7.1/32", "10.91.0.250"),
            ("172.20.0.0/16", "10.91.0.250"),
            ("fd00:91::fa/128", ""),
            ("fd00:96::/108", "fd00:91::fa"),
            ("fd00:7::1/128", "fd00:91::fa"),
        ]

    def test_the_nodes_first_addresses_are_those_it_speaks_from(self) -> None:
        assert wanted().sources == ("192.168.7.1", "fd00:7::1")

    def test_a_pod_of_one_family_gets_that_familys(self) -> None:
        routes = (Route(dst="10.96.0.0/16"), Route(dst="fd00:96::/108"))
        assert for_families(routes, ["fd00::5/64"]) == routes[1:]

    def test_the_book_is_read_again_once_it_changed(self, tmp_path: Path) -> None:
        assert read_book(tmp_path) == Book()
        for book in (wanted().book, wanted(network("blue")).book):
            write_book(tmp_path, book)
            assert read_book(tmp_path) == book
        (tmp_path / "services.json").write_text("{")
        assert read_book(tmp_path) == Book()


PODS = (LocalPod("vmac910", "10.91.0.5", "02:00:00:00:00:05"),)


def rules(kinds: frozenset[str], **services: Any) -> Mapping[str, list[str]]:
    found = wanted(network("red", **services), network("blue"))
    both = Wanted(found.places, PODS, found.routes, found.subnets)
    tables = tables_of(both, 4, kinds)
    return {chain: rules for chains in tables.values() for chain, rules in chains.items()}


class TestChains:
    def test_with_sets(self) -> None:
        found = rules(ALL_KINDS)
        assert found["NETSPACE-SERVICES"] == [
            "-m set --match-set netspace-vlans4 src -m conntrack --ctstate DNAT -j MASQUERADE"
        ]
        assert found["NETSPACE-SOURCES"][:2] == [
            "-i vmac910 -m set --match-set netspace-macs src"
            " -m set ! --match-set netspace-owners4 src,src -j DROP",
            "-i vmac910 -m set --match-set netspace-pods4 src"
            " -m set ! --match-set netspace-owners4 src,src -j DROP",
        ]
        assert found["NETSPACE-FORWARD"] == [
            "-d 10.91.0.0/24 -i vmac910 -j ACCEPT",
            "-s 10.91.0.0/24 -o vmac910 -j ACCEPT",
            "-d 10.92.0.0/24 -i vmac920 -j ACCEPT",
            "-s 10.92.0.0/24 -o vmac920 -j ACCEPT",
            "-i vmac910 -m conntrack --ctstate DNAT -j ACCEPT",
            "-o vmac910 -m conntrack --ctstate DNAT -j ACCEPT",
            "-i vmac920 -m conntrack --ctstate DNAT -j ACCEPT",
            "-o vmac920 -m conntrack --ctstate DNAT -j ACCEPT",
            "-i vmac910 -m set --match-set netspace-vlans4 dst -j DROP",
            "-o vmac910 -m set --match-set netspace-vlans4 src -j DROP",
            "-i vmac920 -m set --match-set netspace-vlans4 dst -j DROP",
            "-o vmac920 -m set --match-set netspace-vlans4 src -j DROP",
        ]

    def test_without_sets_there_is_a_rule_for_each_entry(self) -> None:
        found = rules(frozenset())
        assert found["NETSPACE-SERVICES"] == [
            "-s 10.91.0.0/24 -m conntrack --ctstate DNAT -j MASQUERADE",
            "-s 10.92.0.0/24 -m conntrack --ctstate DNAT -j MASQUERADE",
        ]
        assert found["NETSPACE-SOURCES"] == [
            "-s 10.91.0.5/32 -i vmac910 -m mac ! --mac-source 02:00:00:00:00:05 -j DROP",
            "! -s 10.91.0.5/32 -i vmac910 -m mac --mac-source 02:00:00:00:00:05 -j DROP",
        ]

    def test_of_an_isolated_network_services_come_after_the_refusal(self) -> None:
        found = rules(ALL_KINDS, services="isolated")["NETSPACE-FORWARD"]
        refused = found.index("-i vmac910 -m set --match-set netspace-vlans4 dst -j DROP")
        assert refused < found.index("-i vmac910 -m conntrack --ctstate DNAT -j ACCEPT")
        assert found.index("-d 10.91.0.0/24 -i vmac910 -j ACCEPT") < refused

    def test_the_sets_are_those_that_the_rules_name(self) -> None:
        both = Wanted(wanted().places, PODS, {}, wanted().subnets)
        named = {s.name: s.entries for s in sets_of(both, ALL_KINDS)}
        assert named["netspace-owners4"] == {"10.91.0.5,02:00:00:00:00:05"}
        assert named["netspace-vlans4"] == {"10.91.0.0/24", "10.92.0.0/24"}
        assert named["netspace-vlans6"] == {"fd00:91::/64"}
        for name in named:
            text = " ".join(
                rule
                for family in (4, 6)
                for chains in tables_of(both, family, ALL_KINDS).values()
                for chain in chains.values()
                for rule in chain
            )
            assert name in text


class TestRestoring:
    TABLES = tables_of(wanted(), 4, ALL_KINDS)
    CHAIN = "".join(f"-A NETSPACE-SERVICES {r}\n" for r in TABLES["nat"]["NETSPACE-SERVICES"])

    def present(self, postrouting: str = "", chain: str | None = None) -> Present:
        """A table nat with these rules, and the other tables as they should be."""
        chain = self.CHAIN if chain is None else chain
        heads = ":POSTROUTING ACCEPT [0:0]\n:NETSPACE-SERVICES - [0:0]\n"
        text = f"*nat\n{heads}{postrouting}{chain}COMMIT\n"
        tables = parse(text)
        for table, built_in, ours in HOOKS:
            if table != "nat":
                tables[table] = {built_in: [f"-j {ours}"], **self.TABLES[table]}
        return Present(tables)

    HOOK = "-A POSTROUTING -j NETSPACE-SERVICES\n"

    def test_nothing_where_nothing_differs(self) -> None:
        present = self.present(self.HOOK)
        assert restore_text(self.TABLES, HOOKS, present) == ""
        assert differences(self.TABLES, HOOKS, present) == []

    def test_a_flushed_chain_is_written_whole(self) -> None:
        assert restore_text(self.TABLES, HOOKS, self.present(self.HOOK, "")) == (
            f"*nat\n:NETSPACE-SERVICES - [0:0]\n{self.CHAIN}COMMIT\n"
        )

    @pytest.mark.parametrize(
        ("rules", "text"),
        [
            ("", "-I POSTROUTING 1 -j NETSPACE-SERVICES\n"),
            (
                "-A POSTROUTING -s 10.0.0.0/8 -j MASQUERADE\n" + HOOK,
                "-D POSTROUTING -j NETSPACE-SERVICES\n-I POSTROUTING 1 -j NETSPACE-SERVICES\n",
            ),
            (
                HOOK + HOOK,
                "-D POSTROUTING -j NETSPACE-SERVICES\n-D POSTROUTING -j NETSPACE-SERVICES\n"
                "-I POSTROUTING 1 -j NETSPACE-SERVICES\n",
            ),
        ],
        ids=["missing", "behind a verdict", "twice"],
    )
    def test_a_hook_that_is_wrong_is_put_first(self, rules: str, text: str) -> None:
        assert restore_text(self.TABLES, HOOKS, self.present(rules)) == f"*nat\n{text}COMMIT\n"

    def test_a_hook_behind_other_programs_chains_is_left_there(self) -> None:
        """Two programs that both want to be first would never come to rest."""
        present = self.present("-A POSTROUTING -j KUBE-POSTROUTING\n" + self.HOOK)
        assert restore_text(self.TABLES, HOOKS, present) == ""

    def test_taking_away_names_ours_alone(self) -> None:
        text = removal_text(HOOKS, self.present("-A POSTROUTING -j KUBE-POSTROUTING\n" + self.HOOK))
        assert all("NETSPACE" in line for line in text.splitlines() if line[0] == "-")
        assert removal_text(HOOKS, Present({"nat": {"POSTROUTING": ["-j KUBE-POSTROUTING"]}})) == ""

    def test_counters_and_upper_case_macs_are_no_difference(self) -> None:
        saved = (
            "*raw\n:X - [0:0]\n[3:180] -A X -m mac --mac-source 02:AB:00:00:00:05 -j DROP\nCOMMIT\n"
        )
        assert parse(saved) == {"raw": {"X": ["-m mac --mac-source 02:ab:00:00:00:05 -j DROP"]}}


def test_a_place_is_what_the_book_says_it_is() -> None:
    place = Place(name="vmac910", parent="bond0.910", mac="02:00:00:00:00:01")
    assert Book(places=(place,)).segment("red") is None


def test_add_gives_a_pod_the_routes_that_the_agent_wrote_down(bench: Bench) -> None:
    routes = (Route(dst="10.9.0.250/32"), Route(dst="10.96.0.0/16", gw="10.9.0.250"))
    network = bench.ipam.network.name
    write_book(bench.host().records.folder, Book(routes={network: routes}))
    result = added(bench)
    assert bench.wiring.links[NETNS, "eth0"].routes >= {
        ("10.9.0.250/32", ""),
        ("10.96.0.0/16", "10.9.0.250"),
    }
    assert [route.dst for route in result.routes] == ["0.0.0.0/0", "::/0"]


@pytest.mark.parametrize("local", [("10.9.0.0/24",), ("10.77.0.0/16",)])
def test_add_gives_a_federated_pod_the_routes_that_are_handed_over(
    bench: Bench, local: tuple[str, ...]
) -> None:
    """By itself, with or without the agent: it reads the file."""
    network = bench.ipam.network.name
    segment = Segment(network=network, ipv4="10.9.0.0/24", address4="10.9.0.250")
    place = Place(name="vmac0", parent="up0", mac="", segments=(segment,))
    write_book(bench.host().records.folder, Book(places=(place,)))
    routes = (
        HandedRoute(destination="10.2.0.0/16", mtu=1400, advmss=1360),
        HandedRoute(destination="fd00:2::/48"),
    )
    file = bench.folder / "federation.json"
    file.write_bytes(msgspec.json.encode(Handover(routes=routes, local=local)))
    asyncio.run(add(bench.host(handover=file), invocation()))
    given = bench.wiring.links[NETNS, "eth0"].routes
    assert (("10.2.0.0/16", "10.9.0.250") in given) == (local == ("10.9.0.0/24",))
    assert "fd00:2::/48" not in {destination for destination, _ in given}
