"""A federation's chains and sets as text: what they say, and when they are hooked again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.desired import (
    Accept,
    DesiredNode,
    Exposure,
    Flows,
    Network,
    Path,
    Tunnel,
    Vxlan,
)
from federation.node.chains import (
    HOOKS,
    PREFIX,
    Able,
    leads_away,
    names_sctp,
    sets_of,
    tables_of,
    wanted_at_all,
)
from federation.plan.hashing import bytecode
from hostnet.chains import Family, Present, parse, removal_text, restore_text

LOCAL = (ip_network("10.1.0.0/16"), ip_network("fd00:1::/48"))
REMOTE = (ip_network("10.2.0.0/16"), ip_network("fd00:2::/48"))
THIRD = (ip_network("10.3.0.0/16"),)
MASK = 0x00F00000
BOTH: tuple[Family, Family] = (4, 6)


def program(buckets: Sequence[int], family: Family) -> str:
    return "1,6 0 0 " + str(sum(1 << each for each in buckets))


def node(**changes: object) -> DesiredNode:
    values: dict[str, object] = {
        "mark": MASK,
        "local": LOCAL,
        "remote": (*REMOTE, *THIRD),
        "flows": (Flows("f", "b", LOCAL, REMOTE, (1, 2) * 32),),
        "exposures": (
            Exposure("f", "b", remote=REMOTE),
            Exposure("f", "c", ours=(("tcp", 80, 80), ("udp", 53, 60)), remote=THIRD),
        ),
        "peers": ("192.0.2.1", "2001:db8::1"),
        "ports": (500, 4500, 4791),
        "mss": ((REMOTE[0], 1406), (REMOTE[1], 1386), (THIRD[0], 1406)),
        "accepts": (Accept("f", "b", "", "192.0.2.9", 1),),
    }
    return DesiredNode(**{**values, **changes})  # type: ignore[arg-type]


def rules(
    wanted: DesiredNode, table: str, chain: str, family: Family = 4, *, sets: bool = False
) -> list[str]:
    return tables_of(wanted, family, Able(sets=sets), program)[table][chain]


class TestWhatTheySay:
    def test_both_directions_are_neither_tracked_nor_translated(self) -> None:
        for table, what in (("raw", "-j CT --notrack"), ("nat", "-j ACCEPT")):
            said = rules(node(), table, "NETSPACE-FED")
            assert f"-s 10.1.0.0/16 -d 10.2.0.0/16 {what}" in said
            assert f"-s 10.2.0.0/16 -d 10.1.0.0/16 {what}" in said

    def test_a_flows_bucket_chooses_the_mark_in_our_bits_alone(self) -> None:
        cleared, first, second = rules(node(), "mangle", "NETSPACE-FED")
        between = "-s 10.1.0.0/16 -d 10.2.0.0/16"
        assert cleared == f"{between} -j MARK --set-xmark 0x0/0xf00000"
        one, other = program(range(0, 64, 2), 4), program(range(1, 64, 2), 4)
        assert first == f'{between} -m bpf --bytecode "{one}" -j MARK --set-xmark 0x100000/0xf00000'
        assert (
            second == f'{between} -m bpf --bytecode "{other}" -j MARK --set-xmark 0x200000/0xf00000'
        )

    def test_one_gateway_alone_needs_no_program(self) -> None:
        flows = Flows("f", "b", LOCAL, REMOTE, (3,) * 64)
        said = rules(node(flows=(flows,)), "mangle", "NETSPACE-FED")
        assert said[1:] == ["-s 10.1.0.0/16 -d 10.2.0.0/16 -j MARK --set-xmark 0x300000/0xf00000"]

    def test_a_kernel_without_ports_of_sctp_names_none_and_refuses_what_is_exposed_so(self) -> None:
        spans = ("sctp", 9, 9), ("tcp", 80, 80)
        wanted = node(exposures=(Exposure("f", "c", spans, spans, THIRD),))
        assert names_sctp(wanted) and not names_sctp(node())
        for able in (Able(sets=False), Able(sets=False, sctp=False)):
            for chain in ("NETSPACE-FED", "NETSPACE-FED-IN"):
                said = tables_of(wanted, 4, able, program)["filter"][chain]
                assert any("-m sctp" in rule for rule in said) is able.sctp
                assert any("--dport 80" in rule for rule in said)
                assert said[-1] == "-s 10.3.0.0/16 -d 10.1.0.0/16 -j DROP"

    def test_without_a_usable_gateway_nothing_is_marked(self) -> None:
        flows = Flows("f", "b", LOCAL, REMOTE, (0,) * 64)
        (only,) = rules(node(flows=(flows,)), "mangle", "NETSPACE-FED")
        assert only.endswith("--set-xmark 0x0/0xf00000")

    def test_a_kernel_without_programs_sends_all_by_the_gateway_of_most_buckets(self) -> None:
        flows = Flows("f", "b", LOCAL, REMOTE, (1,) * 20 + (2,) * 44)
        tables = tables_of(node(flows=(flows,)), 4, Able(sets=False, buckets=False), program)
        said = tables["mangle"]["NETSPACE-FED"]
        assert len(said) == 2 and said[1].endswith("-j MARK --set-xmark 0x200000/0xf00000")

    def test_segments_are_clamped_in_syn_and_in_syn_ack(self) -> None:
        said = rules(node(), "mangle", "NETSPACE-FED-MSS")
        clamp = "-p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --set-mss 1406"
        for where in ("10.2.0.0/16", "10.3.0.0/16"):
            assert f"-d {where} {clamp}" in said
            assert f"-s {where} {clamp}" in said

    def test_where_all_is_exposed_all_passes(self) -> None:
        said = rules(node(), "filter", "NETSPACE-FED")
        assert "-s 10.2.0.0/16 -d 10.1.0.0/16 -j ACCEPT" in said
        assert "-s 10.1.0.0/16 -d 10.2.0.0/16 -j ACCEPT" in said

    def test_of_what_is_not_exposed_only_answers_pass(self) -> None:
        said = [rule for rule in rules(node(), "filter", "NETSPACE-FED") if "-s 10.3" in rule]
        between = "-s 10.3.0.0/16 -d 10.1.0.0/16"
        assert f"{between} -p tcp -m tcp --dport 80 -j ACCEPT" in said
        assert f"{between} -p udp -m udp --dport 53:60 -j ACCEPT" in said
        assert f"{between} -p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -j ACCEPT" in said
        assert said[-1] == f"{between} -j DROP"
        assert not any(rule == f"{between} -j ACCEPT" for rule in said)

    def test_datagrams_from_ports_they_expose_are_answers(self) -> None:
        exposure = Exposure("f", "c", (("tcp", 80, 80),), (("udp", 53, 53),), THIRD)
        said = rules(node(exposures=(exposure,)), "filter", "NETSPACE-FED")
        assert "-s 10.3.0.0/16 -d 10.1.0.0/16 -p udp -m udp --sport 53 -j ACCEPT" in said
        assert not any("32768" in rule for rule in said)

    def test_the_node_takes_peers_tunnels_and_probes_and_opens_nothing_else(self) -> None:
        said = rules(node(), "filter", "NETSPACE-FED-IN")
        assert "-s 192.0.2.1/32 -p udp -m udp --dport 4500 -j ACCEPT" in said
        assert "-s 192.0.2.1/32 -p esp -j ACCEPT" in said
        # What pods may reach of pods, the node's own rules still decide for the node.
        assert "-s 10.3.0.0/16 -d 10.1.0.0/16 -p tcp -m tcp --dport 80 -j RETURN" in said
        opened = [rule for rule in said if rule.endswith("ACCEPT") and "10.2" in rule]
        assert all("tcp-flags" in rule or "icmp" in rule or "32768" in rule for rule in opened)

    def test_probes_over_a_vxlan_device_are_taken(self) -> None:
        device = Vxlan("f", "nsf00000001", 7, 4789, "192.0.2.9", "02:00:00:00:00:01", 1450, ())
        said = rules(node(vxlans=(device,)), "filter", "NETSPACE-FED-IN", 6)
        assert "-s fe80::/10 -i nsf00000001 -p udp -m udp --dport 4791 -j ACCEPT" in said

    def test_without_ipsec_no_esp_is_taken(self) -> None:
        said = rules(node(accepts=(), tunnels=()), "filter", "NETSPACE-FED-IN")
        assert not any("esp" in rule for rule in said)
        tunnel = Tunnel(Path("f", "b", "n"), "192.0.2.9", "192.0.2.1", 1, 1, True)
        said = rules(node(accepts=(), tunnels=(tunnel,)), "filter", "NETSPACE-FED-IN")
        assert any("esp" in rule for rule in said)

    @pytest.mark.parametrize("family", BOTH)
    def test_each_family_has_its_own_addresses_alone(self, family: Family) -> None:
        for sets in (True, False):
            for chains in tables_of(node(), family, Able(sets=sets), program).values():
                for rule in (rule for said in chains.values() for rule in said):
                    assert not re.search(r"fd00|2001" if family == 4 else r"10\.\d", rule)

    def test_a_node_without_federations_needs_no_chains(self) -> None:
        assert not wanted_at_all(DesiredNode())
        assert sets_of(DesiredNode(), Able()) == []


class TestSets:
    def test_rules_name_only_sets_that_there_are(self) -> None:
        names = {each.name for each in sets_of(node(), Able())}
        for family in BOTH:
            for chains in tables_of(node(), family, Able(), bytecode).values():
                for rule in (rule for said in chains.values() for rule in said):
                    assert set(re.findall(r"--match-set (\S+)", rule)) <= names
        assert all(name.startswith(PREFIX) and len(name) < 32 for name in names)

    def test_their_entries_are_of_their_family(self) -> None:
        for each in sets_of(node(), Able()):
            assert all((":" in entry) == (each.family == 6) for entry in each.entries)

    def test_what_one_peer_brings_changes_no_others_set(self) -> None:
        def by_name(wanted: DesiredNode) -> dict[str, frozenset[str]]:
            return {each.name: each.entries for each in sets_of(wanted, Able())}

        alone = node(remote=REMOTE, exposures=node().exposures[:1], mss=node().mss[:2])
        before, after = by_name(alone), by_name(node())
        changed = {name for name in before if before[name] != after[name]}
        assert changed == {f"{PREFIX}r4", f"{PREFIX}m1406-4"}


class TestHooks:
    TABLES = tables_of(node(), 4, Able(sets=False), program)

    def present(self, **heads: str) -> Present:
        """All as it should be, but for what stands ahead in a built-in chain."""
        tables: dict[str, dict[str, list[str]]] = {}
        for table, built_in, chain in HOOKS:
            tables.setdefault(table, {**self.TABLES[table]})[built_in] = [f"-j {chain}"]
        for place, rule in heads.items():
            table, built_in = place.split("_")
            tables[table][built_in].insert(0, rule)
        return Present(tables)

    def test_nothing_where_all_is_right(self) -> None:
        assert restore_text(self.TABLES, HOOKS, self.present(), leads_away) == ""

    @pytest.mark.parametrize(
        "rule",
        [
            "-j KUBE-FORWARD",
            "-m conntrack --ctstate INVALID -j DROP",
            "-j cali-FORWARD",
            "-g X",
            "-j RETURN",
        ],
    )
    def test_what_may_end_a_packet_does_not_stay_ahead(self, rule: str) -> None:
        text = restore_text(self.TABLES, HOOKS, self.present(filter_FORWARD=rule), leads_away)
        assert text == "*filter\n-D FORWARD -j NETSPACE-FED\n-I FORWARD 1 -j NETSPACE-FED\nCOMMIT\n"

    @pytest.mark.parametrize("rule", ["-j NETSPACE-FORWARD", "-j LOG", "-m comment --comment x"])
    def test_what_harms_nothing_stays_ahead(self, rule: str) -> None:
        assert not restore_text(self.TABLES, HOOKS, self.present(filter_FORWARD=rule), leads_away)

    def test_one_chain_may_hang_on_two_hooks(self) -> None:
        present = self.present()
        present.tables["raw"]["OUTPUT"].clear()
        text = restore_text(self.TABLES, HOOKS, present, leads_away)
        assert text == "*raw\n-I OUTPUT 1 -j NETSPACE-FED\nCOMMIT\n"

    def test_taking_away_names_ours_alone_and_each_once(self) -> None:
        text = removal_text(HOOKS, self.present(filter_FORWARD="-j KUBE-FORWARD"))
        assert all("NETSPACE-FED" in line for line in text.splitlines() if line[0] == "-")
        assert text.count("-X NETSPACE-FED\n") == 4
        assert "-D INPUT -j NETSPACE-FED-IN\n" in text

    @given(st.lists(st.sampled_from(["-j A", "-j NETSPACE-FED", "-j ACCEPT", "-j LOG"])))
    def test_whatever_was_done_to_a_chain_one_text_puts_it_right(self, rules: list[str]) -> None:
        present = self.present()
        present.tables["filter"]["FORWARD"] = list(rules)
        text = restore_text(self.TABLES, HOOKS, present, leads_away)
        for line in text.splitlines():
            verb, _, rule = line.partition(" FORWARD ")
            if verb == "-D":
                present.tables["filter"]["FORWARD"].remove(rule)
            elif verb == "-I":
                present.tables["filter"]["FORWARD"].insert(0, rule.removeprefix("1 "))
        assert restore_text(self.TABLES, HOOKS, present, leads_away) == ""
        left = [rule for rule in present.tables["filter"]["FORWARD"] if "FED" not in rule]
        assert left == [rule for rule in rules if "FED" not in rule]


@given(st.sets(st.sampled_from([f"10.{n}.0.0/16" for n in range(8)]), min_size=1))
def test_a_table_says_of_every_range_what_it_says_of_one(ranges: set[str]) -> None:
    remote: tuple[Network, ...] = tuple(map(ip_network, sorted(ranges)))
    wanted = DesiredNode(local=LOCAL, remote=remote)
    said = tables_of(wanted, 4, Able(sets=False), program)["raw"]["NETSPACE-FED"]
    assert len(said) == 2 * len(ranges)
    assert parse(":X - [0:0]") == {}
