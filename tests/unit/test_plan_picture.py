"""The address plan as people see it: the picture and the table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netspacectl.address_plan import figures, figures_text
from netspacectl.address_plan.figures import Plan
from netspacectl.address_plan.picture import svg
from netspacectl.address_plan.picture_layout import BAND, MARGIN, Scale, layout
from tests.unit.pictures import check_labels
from tests.unit.plan_world import PICTURE, PlanWorld, example, plan

SVG = "{http://www.w3.org/2000/svg}"


def made(networks: Mapping[str, Mapping[str, object]], used: int = 0) -> Plan:
    """The plan of a cluster with these networks, `used` addresses of each pool in use."""
    world = PlanWorld()
    text = json.dumps({"version": 1, "clusters": {"east": {"networks": networks}}})
    assert world.apply(plan(text)).refused == []
    for pool in list(world.worlds["east"].state.pools) if used else ():
        world.reserve("east", pool, used)
    return figures.of(world.present())


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    networks = {}
    for at in range(draw(st.integers(0, 3))):
        subnet = draw(st.sampled_from(["10.{}.0.0/24", "{}.0.0.0/8", "fd00:{}::/64"])).format(
            at + 11
        )
        family = "ipv6" if ":" in subnet else "ipv4"
        sizes = draw(st.lists(st.integers(1, 9), max_size=12))
        length = draw(st.integers(1, 50))
        networks[f"{'n' * draw(st.integers(1, 60))}{at}"] = {
            family: subnet,
            "pools": {
                f"{'p' * length}{at}-{number}": {
                    "kind": "netspace",
                    "size": 2 * size,
                    "pools": {f"{at}-{number}-inner": {"size": size}} if size % 2 else {},
                }
                for number, size in enumerate(sizes)
            },
        }
    return made(networks)


@settings(max_examples=40)
@given(plans())
def test_no_two_labels_overlap_and_everything_is_on_the_picture(shown: Plan) -> None:
    drawing = layout(shown)
    check_labels(drawing)
    for box in drawing.boxes:
        assert box.x >= MARGIN - 0.01
        assert box.x + box.width <= MARGIN + BAND + 0.01
    # A line to a label below crosses no other label.
    for stroke in drawing.strokes:
        for label in drawing.labels if stroke.style == "leader" else ():
            left, top, right, bottom = label.box
            crossed = left < stroke.x1 < right and top < stroke.y2 and bottom > stroke.y1
            assert not crossed, (stroke, label)


@settings(max_examples=20)
@given(plans())
def test_the_picture_is_well_formed_and_names_every_pool(shown: Plan) -> None:
    root = ElementTree.fromstring(svg(shown))
    words = " ".join(root.itertext())
    for cluster in shown.clusters:
        for network in cluster.networks:
            for pool in network.all_pools():
                assert pool.pool.name in words


def test_the_picture_in_the_documents_is_that_of_the_example() -> None:
    assert PICTURE.read_text() == svg(example()), "run python -m tests.unit.plan_world"


def test_names_that_could_break_the_picture_are_only_text() -> None:
    shown = made({"blue": {"ipv4": "10.9.0.0/24"}})
    shown.clusters[0].networks[0].network.parent = "<b>&\x1b"
    root = ElementTree.fromstring(svg(shown))
    assert any("<b>&" in (text.text or "") for text in root.iter(f"{SVG}text"))


def test_a_band_is_to_scale_where_every_pool_can_be_seen_and_else_broken() -> None:
    pools = {"p": {"kind": "netspace", "size": 32}, "q": {"kind": "netspace", "size": 64}}
    (small, large) = (
        made(
            {
                "a": {"ipv4": "10.9.0.0/24", "pools": pools},
                "b": {
                    "ipv6": "fd00::/64",
                    "pools": {name + "2": keys for name, keys in pools.items()},
                },
            }
        )
        .clusters[0]
        .networks
    )
    for network, broken in ((small, False), (large, True)):
        scale = Scale(network)
        assert scale.broken is broken
        p, q = (scale.span(pool.ranges.intervals[0]) for pool in network.pools)
        assert p[0] + p[1] == pytest.approx(q[0])
        assert min(p[1], q[1]) >= 3
        if not broken:
            assert p[1] == pytest.approx(BAND * 32 / 256)
            assert q[1] == pytest.approx(BAND * 64 / 256)


def test_the_share_in_use_is_shaded() -> None:
    pools = {"p": {"kind": "netspace", "size": 64}}
    drawing = layout(made({"a": {"ipv4": "10.9.0.0/24", "pools": pools}}, used=16))
    (box,) = [box for box in drawing.boxes if box.style == "netspace" and box.title]
    (bar,) = [box for box in drawing.boxes if box.style == "bar netspace-bar"]
    assert bar.width == pytest.approx(box.width / 4)


@pytest.mark.parametrize("count", [0, 1, 40])
def test_any_number_of_networks_can_be_drawn(count: int) -> None:
    networks = {f"net{at}": {"ipv4": f"10.{at}.0.0/16"} for at in range(count)}
    root = ElementTree.fromstring(svg(made(networks)))
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert all(name in texts for name in networks)


# Figures


def test_fragmentation_is_the_share_of_free_space_outside_the_largest_block() -> None:
    def fragmentation(*ranges: str) -> float:
        pools = {"p": {"kind": "netspace", "ranges": ranges}} if ranges else {}
        shown = made({"a": {"ipv4": "10.9.0.0/25", "pools": pools}})
        return shown.clusters[0].networks[0].fragmentation

    assert fragmentation() == 0
    assert fragmentation("10.9.0.1-10.9.0.100") == 0
    assert fragmentation("10.9.0.1-10.9.0.126") == 0
    assert fragmentation("10.9.0.64") == pytest.approx(1 - 63 / 125)
    assert fragmentation("10.9.0.33-10.9.0.94") == pytest.approx(0.5)


def test_the_table_shows_pools_as_a_tree_with_what_is_left_at_its_end() -> None:
    pools = {
        "tenant": {"kind": "netspace", "size": 16, "pools": {"db": {"size": 4}, "mq": {"size": 4}}},
        "rest": {"kind": "default", "ranges": ["10.9.0.64/26"]},
    }
    network = {"vlan": 910, "ipv4": "10.9.0.0/24", "ipv6": "fd00::/64", "gateway4": "10.9.0.1",
               "pools": pools}  # fmt: skip
    assert list(figures_text.lines(made({"blue": network}, used=2))) == [
        "cluster east: 8 addresses in use, led by server-1",
        "",
        "  network blue: VLAN 910 on bond0, fabric default: 10.9.0.0/24 + fd00::/64,"
        " mapping offset",
        "    gateway 10.9.0.1",
        "    POOL             KIND         SIZE  USED  COOLING  RETAINED  FREE   USE  RANGES",
        "    ├─ tenant        netspace        8     2        0         0     6  25 %"
        "  10.9.0.2-10.9.0.17",
        "    │  ├─ db         application     4     2        0         0     2  50 %"
        "  10.9.0.2-10.9.0.5",
        "    │  └─ mq         application     4     2        0         0     2  50 %"
        "  10.9.0.6-10.9.0.9",
        "    ├─ rest          default        64     2        0         0    62   3 %"
        "  10.9.0.64-10.9.0.127",
        "    └─ (total pool)  -             173     0        0         0   173   0 %"
        "  largest block 127, fragmentation 27 %",
    ]


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0, "0 %"), (0.001, "<1 %"), (0.5, "50 %"), (0.999, ">99 %"), (1, "100 %")],
)
def test_a_share_is_nothing_or_everything_only_if_it_is(share: float, shown: str) -> None:
    assert figures_text.percent(share) == shown
