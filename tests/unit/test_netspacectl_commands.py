"""What the commands ask the server, and what they show of its answers."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from netspace.kubernetes import NamespaceDefault
from netspace.messages import (
    ChangeNetwork,
    ChangePool,
    ClusterStatus,
    Elastic,
    LinkReport,
    NewNetwork,
    NewPool,
    Node,
    OperatorRelease,
    Reserve,
    ResizePool,
    Selection,
    ServerStatus,
    Status,
    StoreMember,
    Tenancy,
)
from netspace.problems import Problem
from tests.unit.netspacectl_double import MemoryClient, Terminal, entry, network, pool

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def client() -> MemoryClient:
    client = MemoryClient("east")
    client.network_table["vlan910"] = network()
    client.pool_table["tenant-a"] = pool()
    client.entries = [entry()]
    return client


@pytest.fixture
def terminal(client: MemoryClient, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    for name in ("NETSPACE_SERVER", "NETSPACE_CLUSTER"):
        monkeypatch.delenv(name, raising=False)
    return Terminal(client)


def answers(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


class TestWhomItAsks:
    def test_without_a_word_the_local_socket_and_the_only_cluster(self, terminal: Terminal) -> None:
        assert terminal.run("pool", "list") == 0
        assert terminal.servers == [("unix:///run/netspace/server.sock",)]
        assert terminal.client.asked == [("clusters",), ("pools", "east")]

    def test_several_clusters_must_be_told_apart(self, terminal: Terminal, capsys: Capture) -> None:
        terminal.client.cluster_names = ["west", "east"]
        assert terminal.run("pool", "list") == 2
        assert "2 clusters: name one with -c (east, west)" in capsys.readouterr().err
        assert terminal.run("pool", "list", "-c", "west") == 0
        assert terminal.client.asked[-1] == ("pools", "west")

    def test_no_cluster_at_all_is_not_found(self, terminal: Terminal, capsys: Capture) -> None:
        terminal.client.cluster_names = []
        assert terminal.run("pool", "list") == 3
        assert "cluster create NAME" in capsys.readouterr().err

    def test_options_stand_before_the_noun_or_after_the_verb_and_the_later_counts(
        self, terminal: Terminal
    ) -> None:
        assert terminal.run("-c", "one", "pool", "list") == 0
        assert terminal.run("-c", "one", "pool", "list", "-c", "two") == 0
        assert [asked[1] for asked in terminal.client.asked] == ["one", "two"]

    def test_the_environment_names_servers_and_cluster_and_words_overrule_it(
        self, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("NETSPACE_SERVER", "http://127.0.0.1:1 http://127.0.0.1:2")
        monkeypatch.setenv("NETSPACE_CLUSTER", "west")
        assert terminal.run("pool", "list") == 0
        assert terminal.run("pool", "list", "-c", "east", "--server", "unix:///run/x") == 0
        assert terminal.servers == [
            ("http://127.0.0.1:1", "http://127.0.0.1:2"),
            ("unix:///run/x",),
        ]
        assert [asked[1] for asked in terminal.client.asked] == ["west", "east"]


class TestOutput:
    def test_json_is_the_message_and_a_list_an_array(
        self, terminal: Terminal, capsys: Capture
    ) -> None:
        assert terminal.run("pool", "list", "-o", "json") == 0
        assert json.loads(capsys.readouterr().out) == [msgspec.to_builtins(pool())]
        assert terminal.run("pool", "show", "tenant-a", "-o", "json") == 0
        assert json.loads(capsys.readouterr().out) == msgspec.to_builtins(pool())

    def test_yaml_says_the_same_and_keeps_sizes_texts(
        self, terminal: Terminal, capsys: Capture
    ) -> None:
        assert terminal.run("-o", "yaml", "network", "list") == 0
        assert yaml.safe_load(capsys.readouterr().out) == [msgspec.to_builtins(network())]
        assert terminal.run("-o", "yaml", "network", "show", "vlan910") == 0
        assert yaml.safe_load(capsys.readouterr().out)["total"] == "254"

    @pytest.mark.parametrize("output", ["json", "yaml"])
    def test_an_empty_list_is_an_empty_array(
        self, terminal: Terminal, capsys: Capture, output: str
    ) -> None:
        assert terminal.run("fabric", "list", "-o", output) == 0
        assert capsys.readouterr().out == "[]\n"

    def test_pools_show_kind_network_parent_and_use(
        self, terminal: Terminal, capsys: Capture
    ) -> None:
        assert terminal.run("pool", "list") == 0
        header, row = (line.split() for line in capsys.readouterr().out.splitlines())
        assert dict(zip(header, row, strict=True)) == {
            "POOL": "tenant-a",
            "KIND": "netspace",
            "NETWORK": "vlan910",
            "PARENT": "-",
            "SIZE": "64",
            "USED": "3",
            "COOLING": "1",
            "RETAINED": "0",
            "FREE": "60",
            "OWNER": "-",
            "NAMESPACES": "team-a",
        }

    def test_an_address_shows_who_held_it_and_when(
        self, terminal: Terminal, capsys: Capture
    ) -> None:
        since = "2026-01-02T03:04:05+00:00"
        terminal.client.tenancies = [
            Tenancy(since=since, until=None, namespace="team-a", pod="web-0", node="node-1"),
            Tenancy(since=None, until=since, note="printer"),
        ]
        assert terminal.run("address", "history", "10.91.0.16") == 0
        table = capsys.readouterr().out.partition("\n\n")[2]
        rows = [line.split() for line in table.splitlines()]
        assert rows == [
            ["SINCE", "UNTIL", "POD", "UID", "NODE", "NOTE"],
            [since, "-", "team-a/web-0", "-", "node-1", "-"],
            ["-", since, "-", "-", "-", "printer"],
        ]

    def test_namespaces_show_what_they_choose(self, terminal: Terminal, capsys: Capture) -> None:
        terminal.client.defaults = [
            NamespaceDefault(
                namespace="shop",
                revision=9,
                selection=Selection(application="orders-db", families=("ipv6",)),
            )
        ]
        assert terminal.run("namespace", "list") == 0
        header, row = (line.split() for line in capsys.readouterr().out.splitlines())
        assert dict(zip(header, row, strict=True)) == {
            "NAMESPACE": "shop",
            "NETSPACE": "-",
            "APPLICATION": "orders-db",
            "FAMILIES": "ipv6",
        }

    def test_nodes_show_why_they_are_fenced(self, terminal: Terminal, capsys: Capture) -> None:
        terminal.client.node_table = {
            "node-9": Node(
                name="node-9", version=None, reported=False, links=[], used=2, fenced="deleted"
            )
        }
        assert terminal.run("node", "list") == 0
        header, row = (line.split() for line in capsys.readouterr().out.splitlines())
        assert dict(zip(header, row, strict=True))["FENCED"] == "deleted"
        assert terminal.run("node", "unfence", "node-9") == 0
        assert capsys.readouterr().out == "node node-9 is not fenced\n"

    @pytest.mark.parametrize(("noun", "name"), [("network", "vlan910"), ("pool", "tenant-a")])
    def test_a_thing_is_handed_over_and_back(
        self, terminal: Terminal, capsys: Capture, noun: str, name: str
    ) -> None:
        for to, owner in (("kubernetes", "kubernetes"), ("people", None)):
            assert terminal.run(noun, "hand-over", name, "--to", to) == 0
            assert terminal.client.asked[-1] == (f"hand_over_{noun}", "east", name, owner)
            lines = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
            assert lines["owner"] == (owner or "-")

    def test_networks_show_vlan_subnets_and_use(self, terminal: Terminal, capsys: Capture) -> None:
        assert terminal.run("network", "list") == 0
        header, row = (line.split() for line in capsys.readouterr().out.splitlines())
        assert dict(zip(header, row, strict=True)) == {
            "NETWORK": "vlan910",
            "PARENT": "bond0",
            "VLAN": "910",
            "IPV4": "10.91.0.0/24",
            "IPV6": "fd00:91::/64",
            "TOTAL": "254",
            "CARVED": "64",
            "USED": "3",
            "OWNER": "-",
        }

    def test_one_thing_is_shown_by_lines_with_durations_for_people(
        self, terminal: Terminal, capsys: Capture
    ) -> None:
        terminal.client.pool_table["tenant-a"] = pool(cooldown=5400.0)
        assert terminal.run("pool", "show", "tenant-a") == 0
        shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
        assert shown["cooldown"] == "1h30m"
        assert shown["parent"] == "-"
        assert shown["ranges"] == "10.91.0.2-10.91.0.65"


class TestNetworks:
    def test_create_asks_for_what_was_written(self, terminal: Terminal, capsys: Capture) -> None:
        line = (
            "network create vlan920 --parent bond1 --vlan 920 --ipv4 10.92.0.0/24"
            " --ipv6 FD00:92:0::/64 --gateway4 10.92.0.1 --gateway6 fd00:92::1 --mapping embedded"
            " --exclude 10.92.0.200-10.92.0.254 --range 10.92.0.0/25 --mtu 9000 --fabric rack-7"
        )
        assert terminal.run(*line.split()) == 0
        assert terminal.client.asked[-1] == (
            "create_network",
            "east",
            NewNetwork(
                name="vlan920",
                fabric="rack-7",
                parent="bond1",
                vlan=920,
                ipv4="10.92.0.0/24",
                ipv6="fd00:92::/64",
                gateway4="10.92.0.1",
                gateway6="fd00:92::1",
                mapping="embedded",
                mtu=9000,
                range=["10.92.0.0/25"],
                exclude=["10.92.0.200-10.92.0.254"],
            ),
        )
        assert "vlan920" in capsys.readouterr().out

    def test_change_names_only_what_was_given(self, terminal: Terminal) -> None:
        assert terminal.run("network", "change", "vlan910", "--mtu", "0", "--vlan", "none") == 0
        assert terminal.client.asked[-1] == (
            "change_network",
            "east",
            "vlan910",
            ChangeNetwork(mtu=0, vlan=None),
        )
        assert terminal.run("network", "change", "vlan910", "--gateway6", "none") == 0
        assert terminal.client.asked[-1][3] == ChangeNetwork(gateway6=None)

    def test_exclude_and_include_change_what_is_excluded_already(self, terminal: Terminal) -> None:
        terminal.client.network_table["vlan910"] = network(exclude=["10.91.0.200-10.91.0.210"])
        line = "network change vlan910 --exclude fd00:91::28 --include 10.91.0.204/31"
        assert terminal.run(*line.split()) == 0
        assert terminal.client.network_table["vlan910"].exclude == [
            "10.91.0.40",
            "10.91.0.200-10.91.0.203",
            "10.91.0.206-10.91.0.210",
        ]
        assert terminal.client.asked[-1][3].revision == 12, "a change in between is refused"

    def test_excluding_what_is_not_in_the_network_changes_nothing(
        self, terminal: Terminal, capsys: Capture
    ) -> None:
        assert terminal.run("network", "change", "vlan910", "--exclude", "10.1.0.1") == 2
        assert "network vlan910: 10.1.0.1 is not in" in capsys.readouterr().err
        assert terminal.client.asked[-1][0] == "network"

    def test_delete_says_so(self, terminal: Terminal, capsys: Capture) -> None:
        assert terminal.run("network", "delete", "vlan910") == 0
        assert capsys.readouterr().out == "network vlan910 deleted\n"
        assert terminal.client.network_table == {}


class TestPools:
    def test_create_by_size(self, terminal: Terminal) -> None:
        line = (
            "pool create tenant-b --kind netspace --network vlan910 --size 064 --namespace team-b"
        )
        assert terminal.run(*line.split()) == 0
        assert terminal.client.asked[-1] == (
            "create_pool",
            "east",
            NewPool(
                name="tenant-b",
                kind="netspace",
                network="vlan910",
                size="64",
                namespaces=["team-b"],
                cooldown=30,
            ),
        )

    def test_create_by_ranges_inside_another_pool(self, terminal: Terminal) -> None:
        line = (
            "pool create db --kind application --network vlan910 --parent tenant-a"
            " --range 10.91.0.16-10.91.0.31 --range fd00:91::40/124 --namespace * --cooldown 1h30m"
        )
        assert terminal.run(*line.split()) == 0
        assert terminal.client.asked[-1][2] == NewPool(
            name="db",
            kind="application",
            network="vlan910",
            parent="tenant-a",
            ranges=["10.91.0.16-10.91.0.31", "fd00:91::40/124"],
            namespaces=["*"],
            cooldown=5400,
        )

    @pytest.mark.parametrize("verb", ["grow", "shrink"])
    def test_resize_by_size_or_ranges(self, terminal: Terminal, verb: str) -> None:
        assert terminal.run("pool", verb, "tenant-a", "--size", "8") == 0
        assert terminal.run("pool", verb, "tenant-a", "--range", "10.91.0.128/28") == 0
        assert [asked[3] for asked in terminal.client.asked if asked[0] == f"{verb}_pool"] == [
            ResizePool(size="8"),
            ResizePool(ranges=["10.91.0.128/28"]),
        ]

    def test_namespaces_are_added_to_and_removed_from_those_there_are(
        self, terminal: Terminal
    ) -> None:
        terminal.client.pool_table["tenant-a"] = pool(namespaces=["team-a", "team-b"])
        line = "pool change tenant-a --add-namespace team-c --remove-namespace team-a"
        assert terminal.run(*line.split()) == 0
        assert terminal.client.asked[-1][3] == ChangePool(
            namespaces=["team-b", "team-c"], revision=13
        )

    def test_a_new_cooldown_leaves_the_namespaces_alone(self, terminal: Terminal) -> None:
        assert terminal.run("pool", "change", "tenant-a", "--cooldown", "2h") == 0
        assert terminal.client.asked[-2:] == [
            ("clusters",),
            ("change_pool", "east", "tenant-a", ChangePool(cooldown=7200)),
        ]

    def test_an_elastic_pool_begins_with_its_minimum(self, terminal: Terminal) -> None:
        line = "pool create db --kind application --network vlan910 --elastic 4:64 --quiet 1h"
        assert terminal.run(*line.split()) == 0
        new = terminal.client.asked[-1][2]
        assert (new.size, new.elastic) == (None, Elastic(minimum=4, maximum=64, quiet=3600))

    def test_a_change_of_one_bound_leaves_the_others_alone(self, terminal: Terminal) -> None:
        bounds = Elastic(minimum=4, maximum=64, step=2, low=1)
        terminal.client.pool_table["tenant-a"] = pool(elastic=bounds)
        assert terminal.run("pool", "change", "tenant-a", "--elastic", "8:32", "--low", "3") == 0
        assert terminal.client.asked[-1][3] == ChangePool(
            elastic=Elastic(minimum=8, maximum=32, step=2, low=3), revision=13
        )
        assert terminal.run("pool", "change", "tenant-a", "--elastic", "none") == 0
        assert terminal.client.asked[-1][3].elastic is None

    def test_replicas_and_surplus_are_sent_as_given(self, terminal: Terminal) -> None:
        for line, change in (
            ("--replicas 5 --surplus 2", ChangePool(replicas=5, surplus=2)),
            ("--replicas none", ChangePool(replicas=None)),
        ):
            assert terminal.run("pool", "change", "tenant-a", *line.split()) == 0
            assert terminal.client.asked[-1][3] == change

    @pytest.mark.parametrize("line", ["--step 4", "--elastic 9:4", "--elastic 4", "--elastic none"])
    def test_bounds_that_say_nothing_are_refused(self, line: str, terminal: Terminal) -> None:
        words = f"pool create db --kind application --network vlan910 {line}".split()
        assert terminal.run(*words) == 2
        assert not terminal.client.asked


class TestAddresses:
    def test_list_follows_every_page_into_one_array(
        self, terminal: Terminal, capsys: Capture
    ) -> None:
        terminal.client.entries = [
            entry(slot=str(slot), ipv4=f"10.91.{slot // 256}.{slot % 256}") for slot in range(1203)
        ]
        assert terminal.run("address", "list", "-o", "json") == 0
        shown = json.loads(capsys.readouterr().out)
        assert shown == [msgspec.to_builtins(entry) for entry in terminal.client.entries]
        assert [asked[3] for asked in terminal.client.asked[1:]] == [None, "500", "1000"]

    def test_the_table_has_one_header_however_many_pages_there_are(
        self, terminal: Terminal, capsys: Capture
    ) -> None:
        terminal.client.entries = [entry(pod=f"web-{number}") for number in range(1203)]
        assert terminal.run("address", "list") == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 1204
        assert [line for line in lines if "NETWORK" in line] == lines[:1]

    def test_filters_reach_the_server(self, terminal: Terminal) -> None:
        filters = {
            "network": "vlan910",
            "pool": "tenant-a",
            "namespace": "team-a",
            "pod": "web-0",
            "node": "node-1",
            "state": "used",
        }
        words = [word for name, value in filters.items() for word in (f"--{name}", value)]
        assert terminal.run("address", "list", *words) == 0
        assert terminal.client.asked[-1] == ("addresses", "east", filters, None)

    def test_an_array_cut_off_by_an_error_is_not_closed(
        self, terminal: Terminal, capsys: Capture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        terminal.client.entries = [entry()] * 600
        pages = terminal.client.addresses

        async def breaks(cluster: str, **words: Any) -> Any:
            if words["after"]:
                raise Problem("unavailable", "no server answered")
            return await pages(cluster, **words)

        monkeypatch.setattr(terminal.client, "addresses", breaks)
        assert terminal.run("address", "list", "-o", "json") == 4
        with pytest.raises(json.JSONDecodeError):
            json.loads(capsys.readouterr().out)

    def test_reserve_and_unreserve(self, terminal: Terminal) -> None:
        words = ("--network", "vlan910", "--note", "load balancer")
        assert terminal.run("address", "reserve", "FD00:91::14", *words) == 0
        assert terminal.client.asked[-1][2] == Reserve(
            network="vlan910", address="fd00:91::14", note="load balancer"
        )
        assert terminal.run("address", "unreserve", "10.91.0.20") == 0
        assert terminal.client.asked[-1] == ("unreserve", "east", "10.91.0.20", None)

    def test_release_shows_the_holder_and_releases_the_generation_it_saw(
        self, terminal: Terminal, capsys: Capture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answers(monkeypatch, "y\n")
        assert terminal.run("address", "release", "10.91.0.16") == 0
        shown = capsys.readouterr()
        assert "held by pod team-a/web-0 on node node-1" in shown.err
        assert shown.out == "address 10.91.0.16 released\n"
        assert terminal.client.asked[-2][:2] == ("operator_release", "east")
        assert terminal.client.asked[-2][2] == OperatorRelease(
            network="vlan910", address="10.91.0.16", generation=7
        )

    @pytest.mark.parametrize("answer", ["\n", "n\n", "yess\n", ""])
    def test_release_without_a_yes_changes_nothing(
        self, terminal: Terminal, monkeypatch: pytest.MonkeyPatch, answer: str
    ) -> None:
        answers(monkeypatch, answer)
        assert terminal.run("address", "release", "10.91.0.16") == 1
        assert "operator_release" not in [asked[0] for asked in terminal.client.asked]

    def test_release_with_yes_does_not_ask(self, terminal: Terminal, capsys: Capture) -> None:
        assert terminal.run("address", "release", "fd00:91::10", "--yes", "-o", "json") == 0
        assert json.loads(capsys.readouterr().out) == {"released": True, "why": ""}

    def test_a_holder_that_changed_meanwhile_is_not_released(
        self, terminal: Terminal, capsys: Capture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Person(io.StringIO):
            def readline(self, *_: Any) -> str:  # type: ignore[override]
                terminal.client.entries = [entry(generation=8)]
                return "yes\n"

        monkeypatch.setattr("sys.stdin", Person())
        assert terminal.run("address", "release", "10.91.0.16") == 4
        assert "was not released: it has generation 8" in capsys.readouterr().err

    @pytest.mark.parametrize("state", ["reserved", "cooling", "free", "never"])
    def test_release_of_what_no_pod_holds_is_not_found(
        self, terminal: Terminal, capsys: Capture, state: str
    ) -> None:
        terminal.client.entries = [entry(state=state)]
        assert terminal.run("address", "release", "10.91.0.16", "--yes") == 3
        assert f"held by no pod: it is {state}" in capsys.readouterr().err


class TestNodesAndStatus:
    def test_a_node_is_shown_with_its_links(self, terminal: Terminal, capsys: Capture) -> None:
        bond = LinkReport(
            name="bond0", kind="bond", mac="02:00:00:00:00:01", mtu=1500, up=True, slaves=["a", "b"]
        )
        node = Node(name="node-1", version="0.1.0", reported=True, links=[bond], used=3)
        terminal.client.node_table["node-1"] = node
        assert terminal.run("node", "show", "node-1") == 0
        shown = capsys.readouterr().out
        assert "version   0.1.0" in shown
        assert "bond0  bond  yes  1500  02:00:00:00:00:01" in shown
        assert terminal.run("node", "list", "-o", "json") == 0
        assert json.loads(capsys.readouterr().out) == [msgspec.to_builtins(node)]

    @pytest.mark.parametrize(("ready", "status"), [(True, 0), (False, 4)])
    def test_status_shows_leaders_and_etcd_and_tells_whether_the_server_is_ready(
        self, terminal: Terminal, capsys: Capture, ready: bool, status: int
    ) -> None:
        east = ClusterStatus(
            name="east",
            leading=ready,
            leader="server-1" if ready else None,
            revision=41,
            networks=2,
            pools=4,
            used=7,
            released=5,
            waiting=0,
        )
        behind = msgspec.structs.replace(east, leading=False, revision=38)
        terminal.client.state = Status(
            version="0.1.0",
            server="server-1",
            ready=ready,
            clusters=[east],
            servers=[
                ServerStatus(
                    name="server-1", endpoint="http://a:1", version="0.1.0", clusters=[east]
                ),
                ServerStatus(
                    name="server-2", endpoint="http://b:1", version="0.1.0", clusters=[behind]
                ),
                ServerStatus(
                    name="server-3", endpoint="http://c:1", version="", clusters=[], error="away"
                ),
            ],
            store=[
                StoreMember(
                    endpoint="http://127.0.0.1:2379",
                    version="3.4.23",
                    size=3 * 2**19,
                    leader=True,
                    error=None,
                )
            ],
        )
        assert terminal.run("status") == status
        shown = capsys.readouterr()
        assert "http://127.0.0.1:2379  3.4.23   1.5 MiB  yes" in shown.out
        rows = [line.split() for line in shown.out.splitlines()]
        assert ["server-2", "http://b:1", "east", "follows", "3" if ready else "-", "-"] in rows
        assert ["server-3", "http://c:1", "-", "-", "-", "away"] in rows
        assert ("server server-1 is not ready" in shown.err) is not ready


class TestEverythingElse:
    @pytest.mark.parametrize("noun", ["fabric", "cluster"])
    def test_fabrics_and_clusters_come_and_go(
        self, terminal: Terminal, capsys: Capture, noun: str
    ) -> None:
        assert terminal.run(noun, "create", "rack-7") == 0
        assert terminal.run(noun, "show", "rack-7") == 0
        assert terminal.run(noun, "list") == 0
        assert "rack-7" in capsys.readouterr().out
        assert terminal.run(noun, "delete", "rack-7") == 0
        assert capsys.readouterr().out == f"{noun} rack-7 deleted\n"

    def test_the_real_client_says_that_nobody_listens(
        self, tmp_path: Path, capsys: Capture
    ) -> None:
        from netspacectl.app import App
        from netspacectl.main import run

        assert run(["status", "--server", f"unix://{tmp_path}/none.sock"], App()) == 4
        shown = capsys.readouterr()
        assert shown.out == ""
        assert shown.err.startswith("netspacectl: no server answered")
        assert shown.err.count("\n") == 1
