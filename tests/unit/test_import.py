"""What other address plugins leave, completed, and planned against what the server has."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netspace.messages import AddressEntry
from netspace.problems import Problem
from netspacectl.taking_over import carrying, plan, sources
from netspacectl.taking_over.found import Found, KnownPod, Sandbox, completed
from netspacectl.taking_over.plan import Known, Row
from tests.unit.netspacectl_double import entry, network, pool


def encoded(*items: dict[str, Any], kind: str = "List") -> bytes:
    return json.dumps({"apiVersion": "v1", "kind": kind, "items": items}).encode()


def endpoint(**detail: Any) -> dict[str, Any]:
    return {
        "kind": "SpiderEndpoint",
        "metadata": {"name": "web-0", "namespace": "team-a"},
        "status": {"current": {"uid": "u-1", "node": "node-1", "ips": [detail]}},
    }


def spider_pool(**allocated: dict[str, str]) -> dict[str, Any]:
    return {
        "kind": "SpiderIPPool",
        "metadata": {"name": "blue"},
        "status": {"allocatedIPs": json.dumps(allocated)},
    }


def where_pool(range_: str, **allocations: dict[str, str]) -> dict[str, Any]:
    return {
        "kind": "IPPool",
        "metadata": {"name": "blue", "namespace": "kube-system"},
        "spec": {"range": range_, "allocations": allocations},
    }


class TestHostLocal:
    def test_each_file_is_an_address_of_a_container(self) -> None:
        files = [
            ("last_reserved_ip.0", b"10.91.0.5"),
            ("lock", b""),
            ("10.91.0.5", b"c0ffee\r\neth0"),
            ("fd00:91::5", b"c0ffee\r\neth0"),
        ]
        found = completed(sources.host_local(files, "node-1"), None, ())
        assert [(each.addresses, each.container, each.ifname, each.node) for each in found] == [
            (("10.91.0.5", "fd00:91::5"), "c0ffee", "eth0", "node-1")
        ]

    def test_one_of_an_old_version_names_no_interface(self) -> None:
        found = sources.host_local([("10.91.0.5", b"c0ffee\n")], "node-1")
        assert (found[0].container, found[0].ifname) == ("c0ffee", "")

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("notes.txt", b"c0ffee\neth0"),
            ("10.91.0.5", b""),
            ("10.91.0.5", b"a b c"),
            ("10.91.0.5", b"../../etc\neth0"),
            ("10.91.0.5", b"c0ffee\nan-interface-of-a-name-too-long"),
        ],
    )
    def test_what_is_no_such_file_is_named(self, name: str, content: bytes) -> None:
        with pytest.raises(Problem, match=name):
            sources.host_local([(name, content)], "node-1")


class TestSpiderpool:
    def test_endpoints_name_pod_node_and_interface(self) -> None:
        content = encoded(endpoint(interface="net1", ipv4="10.91.0.5/24", ipv6="fd00:91::5/64"))
        (found,) = sources.spiderpool(content, "x")
        assert found.addresses == ("10.91.0.5", "fd00:91::5")
        assert (found.name, found.uid, found.node) == (("team-a", "web-0"), "u-1", "node-1")
        assert found.ifname == "net1"

    def test_pools_add_what_no_endpoint_has(self) -> None:
        content = encoded(
            endpoint(interface="eth0", ipv4="10.91.0.5/24"),
            spider_pool(
                **{
                    "10.91.0.5": {"interface": "eth0", "pod": "team-a/web-0", "podUid": "u-1"},
                    "10.91.0.6": {"interface": "eth0", "pod": "team-a/web-1", "podUid": "u-2"},
                }
            ),
        )
        found = sources.spiderpool(content, "x")
        assert [each.addresses for each in found] == [("10.91.0.5",), ("10.91.0.6",)]
        assert found[1].name == ("team-a", "web-1")

    def test_a_pool_without_allocations_and_a_single_object_are_taken(self) -> None:
        item = {"kind": "SpiderIPPool", "metadata": {"name": "blue"}, "status": {}}
        assert sources.spiderpool(json.dumps(item).encode(), "x") == []


class TestWhereabouts:
    def test_allocations_are_offsets_from_the_ranges_address(self) -> None:
        content = encoded(
            where_pool(
                "10.91.0.0/24",
                **{"5": {"id": "c0ffee", "podref": "team-a/web-0", "ifname": "net1"}},
            ),
            where_pool("fd00:91::/64", **{"18446744073709551615": {"id": "c1", "podref": "a/b"}}),
            {"kind": "OverlappingRangeIPReservation", "metadata": {"name": "10.91.0.5"}},
        )
        four, six = sources.whereabouts(content, "x")
        assert (four.addresses, four.container, four.name) == (
            ("10.91.0.5",),
            "c0ffee",
            ("team-a", "web-0"),
        )
        assert six.addresses == ("fd00:91::ffff:ffff:ffff:ffff",)

    @pytest.mark.parametrize("offset", ["-1", "x", "4294967296"])
    def test_an_offset_that_leads_nowhere_is_named(self, offset: str) -> None:
        content = encoded(where_pool("10.91.0.0/24", **{offset: {"id": "c", "podref": "a/b"}}))
        with pytest.raises(Problem, match="offset"):
            sources.whereabouts(content, "x")


class TestTables:
    def test_the_header_names_the_columns(self) -> None:
        text = "\ufeffpod,ipv6,namespace,ipv4\nweb-0,fd00:91::5,team-a,10.91.0.5\n\n"
        (found,) = sources.table(text.encode(), "a.csv")
        assert found.addresses == ("10.91.0.5", "fd00:91::5")
        assert found.name == ("team-a", "web-0")

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("", "empty"),
            ("pod,node\n", "first line"),
            ("ipv4,colour\n", "first line"),
            ("ipv4,ipv4\n", "first line"),
            ("ipv4,pod\n10.91.0.5\n", "line 2: it has 1 cells"),
            ("ipv4,pod\n,web-0\n", "names no address"),
            ("ipv4\n10.91.0.500\n", "10.91.0.500"),
            ("ipv4,ipv6\n10.91.0.5,10.91.0.6\n", "one family"),
            ("ipv4,namespace\n10.91.0.5,../x\n", "no namespace"),
        ],
    )
    def test_what_is_wrong_is_named_with_its_line(self, text: str, why: str) -> None:
        with pytest.raises(Problem, match=why):
            sources.table(text.encode(), "a.csv")


@given(st.binary(max_size=200))
def test_whatever_is_read_is_refused_in_words_or_taken(content: bytes) -> None:
    for read in (sources.spiderpool, sources.whereabouts, sources.table, sources.pods):
        try:
            read(content, "x")
        except Problem as problem:
            assert problem.code == "invalid"


class TestCompletion:
    WEB = KnownPod(
        namespace="team-a", name="web-0", uid="u-1", node="node-1", over=False,
        addresses=("10.91.0.5",),
    )  # fmt: skip
    SANDBOX = Sandbox(container="c0ffee", namespace="team-a", name="web-0", uid="u-1")

    def one(self, *pods: KnownPod, sandboxes: Sequence[Sandbox] = (), **parts: Any) -> Found:
        found = Found(where="x", addresses=("10.91.0.5",), **parts)
        known = {(pod.namespace, pod.name): pod for pod in pods}
        return completed([found], known if pods else None, sandboxes)[0]

    def test_a_containers_pod_is_its_sandboxs(self) -> None:
        found = self.one(container="c0ffee", sandboxes=(self.SANDBOX,))
        assert (found.name, found.uid) == (("team-a", "web-0"), "u-1")

    def test_a_pods_container_is_its_sandboxs_and_node_and_interface_the_pods(self) -> None:
        found = self.one(self.WEB, namespace="team-a", pod="web-0", sandboxes=(self.SANDBOX,))
        assert (found.container, found.node, found.ifname) == ("c0ffee", "node-1", "eth0")

    def test_a_sandbox_of_another_pod_of_that_name_is_not_its(self) -> None:
        other = Sandbox(container="c1", namespace="team-a", name="web-0", uid="u-0")
        found = self.one(self.WEB, namespace="team-a", pod="web-0", sandboxes=(other,))
        assert found.container == ""

    @pytest.mark.parametrize(
        ("parts", "why"),
        [
            ({"pod": "web-1"}, "its pod is gone"),
            ({"pod": "web-0", "uid": "u-0"}, "another one now"),
            ({"pod": "web-0", "node": "node-2"}, "runs on node node-1"),
        ],
    )
    def test_an_address_of_a_pod_that_is_no_more_is_left_out(
        self, parts: dict[str, Any], why: str
    ) -> None:
        assert why in self.one(self.WEB, namespace="team-a", **parts).gone

    def test_pods_that_have_finished_hold_nothing(self) -> None:
        item = {
            "kind": "Pod",
            "metadata": {"name": "web-0", "namespace": "team-a", "uid": "u-1"},
            "spec": {"nodeName": "node-1"},
            "status": {"phase": "Succeeded", "podIPs": [{"ip": "10.91.0.5"}]},
        }
        pods = sources.pods(encoded(item), "x")
        assert pods["team-a", "web-0"].over
        found = Found(where="x", addresses=("10.91.0.5",), namespace="team-a", pod="web-0")
        assert completed([found], pods, ())[0].gone == "its pod has finished"

    def test_a_sandbox_that_is_not_ready_is_none(self) -> None:
        listed = {
            "items": [
                {"id": "c1", "metadata": {"name": "a", "namespace": "b", "uid": "c"},
                 "state": state, "labels": {}}
                for state in ("SANDBOX_READY", "SANDBOX_NOTREADY")
            ]
        }  # fmt: skip
        assert len(sources.sandboxes(json.dumps(listed).encode(), "x")) == 1


FREE = entry(
    slot="5", ipv4="10.91.0.5", ipv6="fd00:91::5", state="never", generation=None, node=None,
    namespace=None, pod=None, uid=None, container=None, ifname=None,
)  # fmt: skip
WEB: dict[str, Any] = {
    "where": "x",
    "addresses": ("10.91.0.5",),
    "namespace": "team-a",
    "pod": "web-0",
    "uid": "u-1",
    "node": "node-1",
    "container": "c0ffee",
    "ifname": "eth0",
}


def changed(**fields: Any) -> AddressEntry:
    return AddressEntry(**{**{f: getattr(FREE, f) for f in FREE.__struct_fields__}, **fields})


def known(*entries: AddressEntry | Problem, **pools: Any) -> Known:
    by_address: dict[str, AddressEntry | Problem] = {"10.91.0.5": entries[0] if entries else FREE}
    for each in entries:
        if isinstance(each, AddressEntry):
            by_address |= {str(each.ipv4): each, str(each.ipv6): each}
    return Known(
        entries=by_address,
        networks={"vlan910": network()},
        pools={"tenant-a": pool(**pools)},
    )


def planned(there: Known, *found: Found) -> list[Row]:
    return plan.rows(found or [Found(**WEB)], there)


class TestPlan:
    def test_what_is_known_to_the_end_is_attached_as_the_plugin_would_ask(self) -> None:
        there = known()
        (row,) = planned(there)
        assert row.action == "attach"
        request = plan.attaching(row, there, lambda: "0" * 32)
        assert (request.selection.netspace, request.selection.ip) == ("tenant-a", ("10.91.0.5",))
        assert request.selection.families == ("ipv4",)
        assert (request.pod.name, request.node) == ("web-0", "node-1")
        assert request.note == "imported: team-a/web-0"

    def test_in_an_application_pool_the_application_is_named(self) -> None:
        there = known(kind="application")
        request = plan.attaching(planned(there)[0], there, lambda: "0" * 32)
        assert (request.selection.netspace, request.selection.application) == (None, "tenant-a")

    @pytest.mark.parametrize("part", ["container", "ifname", "node"])
    def test_what_is_not_known_to_the_end_is_reserved_and_says_what_lacks(self, part: str) -> None:
        (row,) = planned(known(), Found(**{**WEB, part: ""}))
        assert (row.action, row.why) == (
            "reserve",
            f"{'interface' if part == 'ifname' else part} not known",
        )
        assert plan.reserving(row).note == "imported: team-a/web-0"

    @pytest.mark.parametrize(
        ("fields", "why"),
        [
            ({"state": "used", "container": "c1", "pod": "x", "namespace": "y"}, "held by y/x"),
            ({"state": "reserved", "note": "printer"}, "reserved (printer)"),
            ({"state": "cooling", "cooldown_left": 3.0}, "rests for 3s"),
            ({"pool": None}, "lies in no pool"),
            ({"slot": "1", "pool": None}, "a gateway's"),
            ({"ipv6": "fd00:91::6"}, "is not of its slot"),
        ],
    )
    def test_what_contradicts_the_server_is_a_conflict(
        self, fields: dict[str, Any], why: str
    ) -> None:
        found = Found(**{**WEB, "addresses": ("10.91.0.5", "fd00:91::5")})
        (row,) = planned(known(changed(**fields)), found)
        assert row.action == "conflict"
        assert why in row.why

    def test_a_namespace_that_the_pool_does_not_list_is_a_conflict(self) -> None:
        (row,) = planned(known(namespaces=["team-b"]))
        assert (row.action, row.why) == (
            "conflict",
            "pool tenant-a does not list namespace team-a",
        )
        assert planned(known(namespaces=["*"]))[0].action == "attach"

    def test_an_address_of_no_network_is_a_conflict(self) -> None:
        (row,) = planned(known(Problem("not-found", "it is in no network")))
        assert (row.action, row.why) == ("conflict", "it is in no network")

    def test_what_was_done_before_is_there(self) -> None:
        used = changed(state="used", container="c0ffee", ifname="eth0", node="node-1")
        assert planned(known(used))[0].action == "there"
        reserved = changed(state="reserved", note="imported: team-a/web-0")
        assert planned(known(reserved))[0].action == "there"

    def test_its_own_rest_does_not_bind_the_pod(self) -> None:
        resting = changed(
            state="cooling", cooldown_left=3.0, namespace="team-a", pod="web-0", ifname="eth0"
        )
        assert planned(known(resting))[0].action == "attach"

    def test_the_same_address_twice_is_a_conflict_of_both(self) -> None:
        other = Found(**{**WEB, "pod": "web-1", "container": "c1"})
        rows = planned(known(), Found(**WEB), other)
        assert [(row.action, row.why) for row in rows] == [
            ("conflict", "10.91.0.5 was found twice")
        ] * 2

    def test_one_of_a_pod_that_is_gone_does_not_count(self) -> None:
        rows = planned(known(), Found(**WEB), Found(**{**WEB, "pod": "old", "gone": "it is gone"}))
        assert [row.action for row in rows] == ["attach", "left out"]

    def test_two_interfaces_on_one_slot_are_a_conflict_of_both(self) -> None:
        six = Found(**{**WEB, "addresses": ("fd00:91::5",), "pod": "web-1", "container": "c1"})
        rows = planned(known(FREE), Found(**WEB), six)
        assert [row.action for row in rows] == ["conflict", "conflict"]
        assert "belong to two interfaces" in rows[0].why

    def test_two_addresses_of_one_family_on_an_interface_are_a_conflict(self) -> None:
        second = changed(slot="6", ipv4="10.91.0.6", ipv6="fd00:91::6")
        rows = planned(
            known(FREE, second), Found(**WEB), Found(**{**WEB, "addresses": ("10.91.0.6",)})
        )
        assert [row.action for row in rows] == ["conflict", "conflict"]
        assert "an attachment holds one" in rows[0].why


class TestGone:
    def pods(self, **changes: Any) -> dict[str, KnownPod]:
        values = {"namespace": "team-a", "name": "web-0", "uid": "u-1", "node": "n",
                  "over": False, "addresses": (), **changes}  # fmt: skip
        pod = KnownPod(**values)
        return carrying.by_note({(pod.namespace, pod.name): pod})

    def test_only_what_was_imported_for_a_pod_that_is_no_more(self) -> None:
        held = changed(state="used", uid="u-1", note="imported: team-a/web-0")
        assert carrying.gone(held, self.pods()) is None
        assert carrying.gone(held, self.pods(uid="u-2")) is not None
        assert carrying.gone(held, self.pods(over=True)) is not None
        assert carrying.gone(held, self.pods(name="web-00")) == "its pod is gone"

    def test_not_where_nobody_knows_whose_it_is(self) -> None:
        assert carrying.gone(changed(state="reserved", note="imported: c0ffee"), {}) is None

    def test_a_long_name_is_known_by_its_beginning(self) -> None:
        pods = self.pods(name="w" * 253)
        note = Row(action="attach", addresses=(), namespace="team-a", pod="w" * 253).note
        assert len(note) == plan.MAX_NOTE
        assert carrying.gone(changed(state="reserved", note=note), pods) is None
