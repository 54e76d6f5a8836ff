"""Federations as people see them: the picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from netspace.messages.federating import FederationsStatus, NodeStatus
from netspacectl.app import App
from netspacectl.commands.federation_picture import picture
from netspacectl.federation_layout import LINES, MARGIN, layout
from netspacectl.federation_picture import svg
from netspacectl.federation_rows import ROWS, shown
from tests.unit.federation_status_world import (
    PICTURE,
    State,
    example,
    node,
    path,
    peer,
    status,
)
from tests.unit.pictures import check_labels

SVG = "{http://www.w3.org/2000/svg}"
STATES: Sequence[State] = ("up", "connecting", "down")
WORDS = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x2FF), max_size=300)


@st.composite
def statuses(draw: st.DrawFn) -> FederationsStatus:
    members = draw(st.lists(st.sampled_from(["west", "n" * 63, "c"]), max_size=3, unique=True))
    sizes = {name: draw(st.integers(0, 20)) for name in members}
    nodes: list[NodeStatus] = []
    states = st.sampled_from(STATES)
    for at in range(draw(st.integers(0, 15))):
        paths = [
            path(
                name,
                f"{'g' * draw(st.sampled_from([1, 240]))}{number}",
                draw(states),
            )
            for name, size in sizes.items()
            for number in range(min(size, draw(st.integers(0, 4))))
        ]
        heard = draw(st.sampled_from([None, 0.0, 90_000.0]))
        faults = draw(st.lists(WORDS, max_size=1))
        down = draw(st.sampled_from([None, 5]))
        nodes.append(
            node(f"node-{at}", paths, heard=heard, down=down, faults=faults, gateway=at < 2)
        )
    peers = [
        peer(
            name,
            nodes,
            kind=draw(st.sampled_from(["heterogeneous", "homogeneous"])),
            gateways=[f"g{number}" for number in range(size)],
            available=[f"g{number}" for number in range(size // 2)],
            why=draw(st.sampled_from(["", "refused " * 40])),
            fault=draw(WORDS),
        )
        for name, size in sizes.items()
    ]
    faults = draw(st.lists(WORDS, max_size=9))
    return status(nodes, ("prod", peers), ("q" * 63, []), faults=faults)


@settings(max_examples=40)
@given(statuses())
def test_no_two_labels_overlap_and_no_line_crosses_one(told: FederationsStatus) -> None:
    drawing = layout(told)
    check_labels(drawing)
    for box in drawing.boxes:
        assert box.x >= MARGIN
        assert box.x + box.width <= drawing.width - MARGIN
        assert box.y + box.height <= drawing.height
    for stroke in drawing.strokes:
        for label in drawing.labels if stroke.title else ():
            left, top, right, bottom = label.box
            beside = max(stroke.x1, stroke.x2) <= left or min(stroke.x1, stroke.x2) >= right
            above = max(stroke.y1, stroke.y2) <= top or min(stroke.y1, stroke.y2) >= bottom
            assert beside or above, (stroke, label)


@settings(max_examples=20)
@given(statuses())
def test_the_picture_is_well_formed_and_runs_nothing(told: FederationsStatus) -> None:
    root = ElementTree.fromstring(svg(told))
    words = " ".join(root.itertext())
    for federation in told.federations:
        for member in federation.peers:
            assert member.cluster in words
    names = {element.tag.removeprefix(SVG) for element in root.iter()}
    assert names <= {"svg", "title", "desc", "style", "defs", "rect", "path", "text"}
    attributes = {name for element in root.iter() for name in element.attrib}
    assert not {name for name in attributes if name.startswith("on") or "href" in name}


def test_the_picture_in_the_documents_is_that_of_the_example() -> None:
    assert PICTURE.read_text() == svg(example()), "run python -m tests.unit.federation_status_world"


def texts(told: FederationsStatus) -> list[str]:
    return [label.text for label in layout(told).labels]


def lines(told: FederationsStatus) -> list[str]:
    """The styles of the lines between clusters."""
    return sorted(stroke.style for stroke in layout(told).strokes if stroke.title)


def test_health_is_told_by_words_and_by_the_way_a_line_is_drawn() -> None:
    told = example()
    assert lines(told) == ["ill-line"] * 2 + ["unsure-line"] + ["well-line"] * 8
    said = texts(told)
    for words in (
        "gateway, 1 tunnel down",
        "well",
        "silent for 12 min",
        "available, 2/3 tunnels up",
        "not available, 0/2 tunnels up",
        "tunnels: 2 up, 1 connecting, 2 down",
        "node-1 → west/gw-2 is down: 3 probes were not answered",
    ):
        assert words in said
    crosses = [stroke for stroke in layout(told).strokes if stroke.style == "cross"]
    # Of two tunnels and of the legend's.
    assert len(crosses) == 2 * 3


def test_many_nodes_are_summed_up_with_those_that_are_not_well_shown() -> None:
    nodes = [node(f"node-{at:03}", [path("west", "g")]) for at in range(100)]
    nodes[50] = node("node-050", heard=40.0, down=5)
    told = status(nodes, ("prod", [peer("west", nodes, gateways=["g"])]))
    said = texts(told)
    assert "node-050" in said
    assert f"and {100 - ROWS + 1} more" in said
    assert f"{100 - ROWS + 1} well" in said
    assert len(lines(told)) == ROWS - 1


def test_where_lines_would_be_too_many_each_member_has_one_for_each_state() -> None:
    names = [f"g{at}" for at in range(ROWS)]
    nodes = [
        node(f"node-{at}", [path("west", each, "up" if at else "down") for each in names])
        for at in range(LINES // ROWS + 1)
    ]
    told = status(nodes, ("prod", [peer("west", nodes, gateways=names)]))
    assert lines(told) == ["ill-line", "well-line"]


def test_tunnels_that_are_only_counted_are_drawn_as_one() -> None:
    nodes = [node("node-1", heard=None)]
    member = peer("west", gateways=["g"], tunnels={"up": 3, "connecting": 0, "down": 0})
    assert lines(status(nodes, ("prod", [member]))) == ["well-line"]


@pytest.mark.parametrize("count", [0, 1, ROWS, ROWS + 1, 500])
def test_every_node_is_in_some_row(count: int) -> None:
    nodes = [node(f"n{at}", [path("west", "g")]) for at in range(count)]
    told = status(nodes, ("prod", [peer("west", nodes, gateways=["g"])]))
    ElementTree.fromstring(svg(told))
    assert len(shown([])) == 0
    rows = [label for label in layout(told).labels if label.text.startswith(("n", "and "))]
    assert len([each for each in rows if each.x < 100]) >= min(count, ROWS)


def test_names_that_could_break_the_picture_are_only_text() -> None:
    told = status([node("<b>&\x1b")], ("prod", [peer("west", fault="<script>")]))
    root = ElementTree.fromstring(svg(told))
    assert any("<b>&" in (text.text or "") for text in root.iter(f"{SVG}text"))


def test_a_cluster_in_no_federation_is_drawn_too() -> None:
    assert "cluster east is in no federation" in texts(status([]))


def test_the_command_draws_what_the_server_says(tmp_path: Path) -> None:
    class Server:
        async def __aenter__(self) -> Server:
            return self

        async def __aexit__(self, *_: object) -> None:
            pass

        async def status(self, cluster: str) -> FederationsStatus:
            assert cluster == "east"
            return example()

    app = App(connect_federation=lambda *_: Server())  # type: ignore[arg-type]
    app.whom = type(app.whom)(cluster="east")
    result = CliRunner().invoke(picture, ["--to", str(tmp_path / "f.svg")], obj=app)
    assert (result.exit_code, result.output) == (0, "")
    assert (tmp_path / "f.svg").read_text() == svg(example())
