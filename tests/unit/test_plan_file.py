"""plan.yaml: what is read from it, and that all its faults are named at once with their places."""

from __future__ import annotations

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netspace.messages import NewNetwork, NewPool, Seconds
from netspace.problems import Problem
from netspacectl.address_plan import declared, difference_text, figures, figures_text
from netspacectl.address_plan.declared import Source
from netspacectl.address_plan.difference import difference
from netspacectl.address_plan.fields import Faults, as_new, plain, read_fields
from tests.unit.plan_world import EXAMPLE, ROOT, PlanWorld, faults, plan

DOCUMENT = ROOT / "docs" / "address-plan.md"
HEAD = "version: 1\nclusters: {east: {networks: {blue: {ipv4: 10.9.0.0/24, gateway4: 10.9.0.1, "
BLUE = "clusters.east.networks.blue"


def in_blue(rest: str) -> list[str]:
    """The faults of a network with these keys besides, their place less the network's."""
    return [fault.removeprefix(f"{BLUE}.") for fault in faults(f"{HEAD}{rest}}}}}}}}}")]


def in_pools(pools: str) -> list[str]:
    return [fault.removeprefix("pools.") for fault in in_blue(f"pools: {{{pools}}}")]


def test_the_example_is_a_plan_that_an_empty_server_takes() -> None:
    world = PlanWorld()
    wanted = declared.read([Source("plan.yaml", EXAMPLE.read_bytes())])
    assert world.apply(wanted).refused == []
    assert world.apply(wanted).steps == []


def test_numbers_and_durations_are_written_as_people_do() -> None:
    wanted = plan(f"{HEAD}pools: {{p: {{kind: default, size: 64, cooldown: 1h30m}}}}}}}}}}}}")
    new = wanted.clusters["east"].networks["blue"].pools["p"].new
    assert (new.size, new.cooldown) == ("64", 5400.0)


def test_values_are_written_as_the_server_shows_them() -> None:
    wanted = plan(
        "version: 1\nclusters: {east: {networks: {blue: {ipv6: 'FD00:0::/64',"
        " gateway6: 'fd00:0:0::1', exclude: ['fd00::5', 'fd00::6']}}}}"
    )
    new = wanted.clusters["east"].networks["blue"].new
    assert (new.ipv6, new.gateway6, new.exclude) == ("fd00::/64", "fd00::1", ["fd00::5-fd00::6"])


def test_ranges_leave_out_what_no_pool_can_have() -> None:
    wanted = plan(f"{HEAD}pools: {{p: {{kind: default, ranges: [10.9.0.0/29]}}}}}}}}}}}}")
    network = wanted.clusters["east"].networks["blue"]
    assert network.pools["p"].ranges is not None
    assert network.slots.format_ranges(network.pools["p"].ranges) == ["10.9.0.2-10.9.0.7"]


def test_all_faults_are_named_at_once_with_their_places() -> None:
    text = """
version: 2
colour: red
fabrics: [hall]
clusters:
  East: {}
  west:
    nodes: {}
    networks:
      blue:
        vlan: 5000
        ipv4: 10.9.0.0/24
        gateway: 10.9.0.1
        exclude: [10.9.0.7, 5, x]
        pools:
          p: {kind: netspace, size: many, cooldown: soon, namespaces: [a, B]}
          q: {size: 4, pools: {r: {network: blue}}}
          5: {}
"""
    places = [fault.partition(": ")[0] for fault in faults(text)]
    west = "clusters.west.networks.blue"
    assert sorted(places) == sorted(
        [
            "version",
            "colour",
            "fabrics",
            "clusters.East",
            "clusters.west.nodes",
            f"{west}.vlan",
            f"{west}.gateway",
            f"{west}.exclude[1]",
            f"{west}.exclude[2]",
            f"{west}.pools.p.size",
            f"{west}.pools.p.cooldown",
            f"{west}.pools.p.namespaces[1]",
            f"{west}.pools.q.kind",
            f"{west}.pools.q.pools.r.network",
            f"{west}.pools.5",
        ]
    )
    assert not any("regex" in fault for fault in faults(text))


@pytest.mark.parametrize(
    ("rest", "fault"),
    [
        ("ipv6: fd00::1/64", "clusters.east.networks.blue: 'fd00::1/64' has host bits set"),
        ("ipv6: 10.8.0.0/24", "clusters.east.networks.blue: 10.8.0.0/24 is no IPv6 subnet"),
        ("mapping: embedded", "clusters.east.networks.blue: the embedded mapping needs"),
        ("gateway6: fd00::1", "gateway6: gateway fd00::1: the network has no subnet"),
        ("exclude: [10.9.0.3, 10.8.0.1]", "exclude[1]: 10.8.0.1 is not in 10.9.0.0/24"),
        ("range: [10.9.0.9-10.9.0.3]", "range[0]: '10.9.0.9-10.9.0.3' ends before it begins"),
        ("exclude: [10.9.0.0/24]", "clusters.east.networks.blue: 10.9.0.0/24 has no address left"),
        ("name: red", "name: there is no such key: use fabric, parent, vlan"),
        ("ranges: []", "ranges: there is no such key"),
        ("pools: [p]", "pools: it must be a mapping of names"),
        ("pools: {p: 5}", "pools.p: it must be a mapping of keys"),
    ],
)
def test_a_network_that_cannot_be_is_a_fault(rest: str, fault: str) -> None:
    (found,) = in_blue(rest)
    assert found.startswith(fault)


@pytest.mark.parametrize(
    ("pools", "fault"),
    [
        ("p: {kind: default}", "p: give size or ranges"),
        ("p: {kind: default, size: 4, ranges: [10.9.0.5]}", "p: give size or ranges, not both"),
        ("p: {kind: default, size: 0}", "p.size: it is 0"),
        ("p: {kind: default, size: 4, namespaces: [a]}", "p.namespaces: a default pool is for"),
        ("p: {kind: netspace, ranges: [10.8.0.5]}", "p.ranges[0]: 10.8.0.5 is not in 10.9.0.0/24"),
        ("p: {kind: other, size: 4}", "p.kind: invalid enum value 'other'"),
        (
            "p: {kind: default, size: 4}, q: {kind: default, size: 4}",
            "q: a cluster has one default pool, and this one's is p",
        ),
        (
            "p: {kind: netspace, ranges: [10.9.0.8/29]}, q: {kind: default, ranges: [10.9.0.9]}",
            "q.ranges: 10.9.0.9 is in pool p too",
        ),
        (
            "p: {kind: netspace, ranges: [10.9.0.8/29], pools: {q: {ranges: [10.9.0.5]}}}",
            "p.pools.q.ranges: 10.9.0.5 is not in p",
        ),
        (
            "p: {kind: netspace, size: 8, pools: {q: {size: 4, namespaces: [x]}}}",
            "p.pools.q.namespaces: pool p does not list x",
        ),
        (
            "p: {kind: netspace, size: 8, pools: {q: {size: 4, kind: netspace}}}",
            "p.pools.q.kind: a nested pool is of kind application",
        ),
        (
            "p: {kind: default, size: 8, pools: {q: {size: 4}}}",
            "p.pools.q: pool p is of kind default: only netspace pools nest",
        ),
        (
            "p: {kind: netspace, size: 8, pools: {q: {size: 4, pools: {r: {size: 1}}}}}",
            "p.pools.q.pools.r: a nested pool can have none of its own",
        ),
        (
            "p: {kind: netspace, size: 8, pools: {q: {size: 1}}}, q: {kind: default, size: 1}",
            "q: it is declared twice",
        ),
    ],
)
def test_pools_that_contradict_one_another_are_a_fault(pools: str, fault: str) -> None:
    (found,) = in_pools(pools)
    assert found.startswith(fault)


def test_a_name_in_two_networks_of_a_cluster_is_a_fault() -> None:
    pools = "pools: {p: {kind: application, size: 4}}"
    text = (
        "version: 1\nclusters: {east: {networks: {"
        f"a: {{ipv4: 10.1.0.0/24, {pools}}}, b: {{ipv4: 10.2.0.0/24, {pools}}}}}}}}}"
    )
    (fault,) = faults(text)
    assert fault.startswith("clusters.east.networks.b.pools.p: cluster east has this name at plan")


def test_documents_and_files_are_one_plan_and_each_fault_names_its_own() -> None:
    blue = b"clusters: {east: {networks: {blue: {ipv4: 10.9.0.0/24}}}}"
    red = b"clusters: {east: {networks: {red: {ipv4: 10.8.0.0/24}}}}"
    both = declared.read([Source("a.yaml", b"version: 1\n%s\n---\nversion: 1\n%s" % (blue, red))])
    assert list(both.clusters["east"].networks) == ["blue", "red"]
    with pytest.raises(Problem) as caught:
        declared.read(
            [
                Source("a.yaml", b"version: 1\n%s\n---\nversion: 1\nx: 1" % blue),
                Source("b.yaml", b"version: 1\n%s" % blue),
                Source("c.yaml", b"a: [\n"),
                Source("d.yaml", b"# nothing"),
            ]
        )
    assert [error.partition(": ")[0] for error in caught.value.errors] == [
        "a.yaml, document 2",
        "b.yaml",
        "c.yaml",
        "d.yaml",
    ]
    assert "it is declared twice" in caught.value.errors[1]
    assert str(caught.value) == "a.yaml, b.yaml, c.yaml, d.yaml: 4 faults, nothing was changed"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("- version", "it must be a mapping with the keys"),
        ("version: true", "version: it must be 1"),
        ("clusters: {}", "version: it must be 1"),
        ("version: 1\nversion: 1", "line 2, column 1: the key 'version' stands twice"),
        ("version: 1\nclusters: {east: &e {networks: *e}}", "clusters.east.networks.networks"),
        ("\x00", "it is not YAML"),
    ],
)
def test_what_is_no_plan_is_refused(text: str, fault: str) -> None:
    found = faults(text)
    assert any(line.startswith(fault) for line in found), found


# Fields that are not thought of here


class Growing(msgspec.Struct, kw_only=True):
    most: str = "0"
    after: Seconds = 60


class Future(msgspec.Struct, kw_only=True, omit_defaults=True):
    name: str
    note: str = ""
    growing: Growing | None = None


def test_fields_that_messages_get_later_are_read_and_written_by_themselves() -> None:
    found = Faults()
    content = {"note": "x", "growing": {"most": 512, "after": "10m"}}
    fields = read_fields(Future, content, "p", found, without=("name",))
    assert found == []
    new = Future(name="p", **fields)
    assert new == Future(name="p", note="x", growing=Growing(most="512", after=600.0))
    assert plain(new, without=("name",)) == content
    read_fields(Future, {"growing": {"most": [], "size": 4}}, "p", found, without=("name",))
    assert [fault.partition(": ")[0] for fault in found] == ["p.growing.most", "p.growing.size"]


@given(
    st.builds(
        NewPool,
        name=st.just("p"),
        kind=st.sampled_from(["application", "netspace", "default"]),
        network=st.just("blue"),
        ranges=st.lists(st.just("10.9.0.5"), max_size=2),
        size=st.none() | st.integers(0, 2**100).map(str),
        namespaces=st.lists(st.sampled_from(["*", "a", "7", "007"]), max_size=3),
        cooldown=st.floats(0, 31_536_000) | st.sampled_from([0.0005, 30.0, 90.5]),
    )
)
def test_what_is_written_is_read_as_the_same(new: NewPool) -> None:
    found = Faults()
    written = plain(new, without=("name", "network"))
    again = read_fields(NewPool, written, "", found, without=("name", "network"))
    assert found == []
    assert NewPool(name="p", network="blue", **again) == new


def test_every_field_of_the_messages_is_a_key() -> None:
    found = Faults()
    read_fields(NewNetwork, {"x": 1}, "", found, without=("name",))
    keys = found[0].partition(": use ")[2].split(", ")
    assert {"name", *keys} == set(NewNetwork.__struct_fields__)
    assert as_new(NewNetwork, NewNetwork(name="n", mtu=5)) == NewNetwork(name="n", mtu=5)


# The document


def blocks(kind: str) -> list[str]:
    return re.findall(rf"(?m)^```{kind}\n(.*?)^```$", DOCUMENT.read_text(), re.DOTALL)


def test_the_documents_example_is_shown_and_changed_as_it_says() -> None:
    (text,) = blocks("yaml")
    faulty, difference_, table = blocks("text")
    world = PlanWorld()
    assert world.apply(plan(text)).refused == []
    for pool in ("tenant-a", "orders-db", "default"):
        world.reserve("east", pool, 4)
    shown = list(figures_text.lines(figures.of(world.present())))
    assert table.splitlines() == shown
    changed = (
        text.replace("vlan: 910\n", "vlan: 910\n        mtu: 9000\n")
        .replace("{size: 8}", "{size: 8, cooldown: 10m}")
        .replace("size: 64\n", "size: 80\n")
    )
    found = difference(world.present(), plan(changed))
    assert difference_.splitlines() == [line for _, line in difference_text.lines(found)]
    wrong = text.replace("vlan: 910\n", "vlan: 9100\n").replace("ranges:", "sise: 4, ranges:")
    for line, told in zip(faulty.splitlines(), faults(wrong), strict=True):
        assert f"plan.yaml: {told}".startswith(line.removesuffix("…"))
