"""The dashboard, rules and scrape configuration that are shipped, and how figures add up."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import cast

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ipam_server.families import Look, clusters, heard, lags
from ipam_server.figures import Figures
from ipam_server.service import ClusterService
from ipam_server.state import ClusterState
from lab import programs
from netspace import messages as m
from netspace.problems import Problem
from netspace.tally import SECONDS, Tally
from statestore import MemberStatus
from tests.observability import FOLDER, Query, dashboard, documented, queries, rules
from tests.unit.cluster_world import World


def promtool(*arguments: str | Path, cwd: Path = FOLDER) -> str:
    done = subprocess.run(
        [programs.find("promtool"), *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_rules_are_rules() -> None:
    assert f"{len(rules())} rules found" in promtool("check", "rules", "alerts.yaml")


def test_the_rules_fire_when_they_must_and_stay_quiet_otherwise() -> None:
    assert "SUCCESS" in promtool("test", "rules", "alerts.test.yaml")


def test_every_alert_says_what_is_wrong_and_what_to_do_and_is_tested_and_listed() -> None:
    tested = (FOLDER / "alerts.test.yaml").read_text()
    listed = re.findall(r"(?m)^\| `(Netspace\w+)` \| (\w+) \|", (FOLDER / "README.md").read_text())
    alerts = [rule for rule in rules() if "alert" in rule]
    assert listed == [(rule["alert"], rule["labels"]["severity"]) for rule in alerts]
    for rule in alerts:
        assert rule["alert"] in tested
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"].keys() == {"summary", "description"}
        assert "\n" not in rule["annotations"]["summary"]
        assert len(rule["annotations"]["description"]) > 100


def test_the_scrape_configuration_is_one_once_its_files_are_there(tmp_path: Path) -> None:
    text = (FOLDER / "prometheus.yaml").read_text()
    for name in re.findall(r"/etc/prometheus/netspace/(\S+)", text):
        (tmp_path / name).touch()
    (tmp_path / "alerts.yaml").write_bytes((FOLDER / "alerts.yaml").read_bytes())
    there = text.replace("/etc/prometheus/netspace/", f"{tmp_path}/")
    (tmp_path / "prometheus.yaml").write_text(there)
    assert "1 rule files found" in promtool("check", "config", "prometheus.yaml", cwd=tmp_path)


def test_every_query_of_the_dashboard_and_the_rules_can_be_read(tmp_path: Path) -> None:
    listed = [
        {"record": f"query:{number}", "expr": query.expression}
        for number, query in enumerate(queries())
    ]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": listed}]}))
    assert f"{len(listed)} rules found" in promtool("check", "rules", file)


def test_the_dashboard_is_one() -> None:
    page = dashboard()
    panels = page["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert [each["name"] for each in page["templating"]["list"]] == ["datasource", "cluster"]
    assert "id" not in page, "Grafana gives it one"
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, f"{panel['title']} lies over another panel"
        taken |= cells
        if panel["type"] == "row":
            continue
        assert panel["title"] and panel["description"]
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert all(source["uid"] == "${datasource}" for source in sources)
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references) > 0


def test_the_dashboard_chooses_by_cluster_wherever_a_metric_has_one() -> None:
    known = documented()
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            for name, _ in Query(panel["title"], target["expr"]).selectors:
                base = name if name in known else name.rpartition("_")[0]
                if "cluster" in known[base][1]:
                    assert f'{name}{{cluster=~"$cluster"' in target["expr"], panel["title"]


@given(st.lists(st.floats(min_value=0, max_value=100, allow_nan=False)))
def test_a_tally_has_at_each_bound_how_many_lie_up_to_it(values: list[float]) -> None:
    tally = Tally(SECONDS)
    for value in values:
        tally.add(value)
    *bounds, (last, every) = tally.buckets()
    assert (last, every) == ("+Inf", len(values))
    assert [float(name) for name, _ in bounds] == list(SECONDS)
    for name, count in bounds:
        assert count == sum(value <= float(name) for value in values)
    assert tally.sum == pytest.approx(sum(values))


def server(name: str, *clusters: tuple[str, bool, int], error: str | None = None) -> m.ServerStatus:
    return m.ServerStatus(
        name=name,
        endpoint="",
        version="",
        clusters=[
            m.ClusterStatus(
                name=cluster, leading=leading, leader=None, revision=revision, networks=0, pools=0,
                used=0, released=0, waiting=0,
            )
            for cluster, leading, revision in clusters
        ],
        error=error,
    )  # fmt: skip


def test_lag_is_how_far_the_leader_is_ahead_and_unknown_without_its_word() -> None:
    status = m.Status(
        version="1", server="s1", ready=True, clusters=[], store=[],
        servers=[
            server("s1", ("east", True, 90), ("west", False, 40), ("north", False, 7)),
            server("s2", ("east", False, 80), ("west", True, 55), ("south", True, 5)),
            server("s3", error="no answer"),
        ],
    )  # fmt: skip
    assert lags(status, {"east": 91, "west": 40, "north": 7}) == {"east": 0, "west": 15}


class Service:
    """What the metrics see of a cluster; without a state it has not been read."""

    leading = True
    leader_changes = 2
    reclaim_candidates = 0

    def __init__(self, state: ClusterState | None, name: str) -> None:
        self.name = name
        self.figures = Figures()
        self._state = state

    @property
    def state(self) -> ClusterState:
        if self._state is None:
            raise Problem("state-unavailable", "it is being read")
        return self._state

    def now(self) -> int:
        return 0

    def local_status(self) -> m.ClusterStatus:
        return server("s1", (self.name, True, 0)).clusters[0]


def told(*services: Service) -> dict[tuple[str, ...], float]:
    return {
        (sample.name.removeprefix("netspace_"), *sample.labels.values()): sample.value
        for family in clusters(cast(list[ClusterService], services))
        for sample in family.samples
    }


def test_an_elastic_pool_can_grow_as_far_as_its_maximum_and_its_source_let_it() -> None:
    world = World()
    world.add_network(m.NewNetwork(name="red", ipv4="10.0.0.0/24"))
    for name, size, maximum in (("wide", 10, 1000), ("tight", 10, 14), ("fixed", 20, 0)):
        bounds = m.Elastic(minimum=10, maximum=maximum, step=4) if maximum else None
        new = m.NewPool(
            name=name, kind="netspace", network="red", size=str(size), elastic=bounds,
            namespaces=["*"],
        )  # fmt: skip
        world.add_pool(new)
    world.reserve(("red", world.pool("fixed").ranges.last))
    figures = told(Service(world.state, "blue"))
    total = world.network("red").total.size
    growable = {
        pool: figures["pool_growable_addresses", "blue", pool, "netspace"]
        for pool in ("wide", "tight", "fixed")
    }
    assert growable == {"wide": total - 40, "tight": 4, "fixed": 0}
    assert figures["pool_reserved_addresses", "blue", "fixed", "netspace"] == 1
    assert figures["pool_addresses", "blue", "fixed", "netspace", "used"] == 1
    assert figures["pool_addresses", "blue", "fixed", "netspace", "free"] == 19
    assert figures["network_addresses", "blue", "red", "free"] == total - 40


def test_a_cluster_that_has_not_been_read_has_counters_and_no_gauges_of_addresses() -> None:
    figures = told(Service(None, "west"))
    assert figures["cluster_leader_changes_total", "west"] == 2
    assert figures["allocation_problems_total", "west", "pool-exhausted"] == 0
    assert not [key for key in figures if "addresses" in key[0] and "freed" not in key[0]]


def test_an_etcd_that_is_away_has_no_size_and_one_that_tells_its_quota_is_believed() -> None:
    members = (
        MemberStatus("http://a", database_bytes=5, in_use_bytes=4, quota_bytes=80),
        MemberStatus("http://b", database_bytes=6, in_use_bytes=4, alarms=("NOSPACE",)),
        MemberStatus("http://c", error="away"),
    )
    seen = {
        (sample.name.removeprefix("netspace_"), *sample.labels.values()): sample.value
        for family in heard(Look(True, {"east": 3}, members, 70))
        for sample in family.samples
    }
    assert seen == {
        ("ready",): 1,
        ("cluster_lag_revisions", "east"): 3,
        ("etcd_reachable", "http://a"): 1,
        ("etcd_reachable", "http://b"): 1,
        ("etcd_reachable", "http://c"): 0,
        ("etcd_database_bytes", "http://a"): 5,
        ("etcd_database_bytes", "http://b"): 6,
        ("etcd_database_in_use_bytes", "http://a"): 4,
        ("etcd_database_in_use_bytes", "http://b"): 4,
        ("etcd_quota_bytes", "http://a"): 80,
        ("etcd_quota_bytes", "http://b"): 70,
        ("etcd_alarm", "NOSPACE"): 1,
        ("etcd_alarm", "CORRUPT"): 0,
    }
