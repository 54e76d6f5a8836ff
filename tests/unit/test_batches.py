"""Batches on the wire: what is refused whole, what stands for an item, and how many are in work."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipam_server.api import describe
from ipam_server.batching import Room
from ipam_server.client import Client
from netspace import messages as m
from netspace.batches import MAX_ITEMS, AllocationAnswers, AllocationBatch, opened, sealed
from netspace.problems import KINDS, Problem
from tests.api_double import ALLOCATE, ALLOCATION, RELEASE, RELEASED, Answer, serving

C = "/v1/clusters/east"
JSON = {"Content-Type": "application/json"}
ITEM = msgspec.to_builtins(ALLOCATE)


def post(folder: Path, body: Any, room: Room | None = None) -> tuple[Answer, list[Any]]:
    """The answer to a batch of allocations, and what reached the service."""

    async def run() -> tuple[Answer, list[Any]]:
        answers = {"allocate_batch": AllocationAnswers(items=sealed([ALLOCATION]))}
        async with serving(folder, answers) as api:
            if room is not None:
                api.double.room = room
            data = json.dumps(body).encode()
            answer = await api.ask("POST", f"{C}/allocation-batches", data=data, headers=JSON)
            return answer, [call for call in api.double.calls if call[0] != "cluster"]

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"claim": "x"}, "$.items[2].claim"),
        ({"node": None}, "$.items[2].node"),
        ({"attachment": {"container": "../..", "ifname": "eth0"}}, "$.items[2].attachment"),
        ({"nod": 1}, "unknown field `nod` - at `$.items[2]`"),
        ({"removed": ["ok", "/"]}, "$.items[2].removed[1]"),
    ],
)
def test_one_bad_item_refuses_the_whole_batch_and_is_named_by_index_and_field(
    tmp_path: Path, change: dict[str, Any], why: str
) -> None:
    answer, calls = post(tmp_path, {"items": [ITEM, ITEM, ITEM | change, ITEM]})
    assert answer.code == "invalid"
    assert why in answer.json["detail"]
    assert calls == []


def test_a_batch_of_more_items_than_it_may_have_is_refused_whole(tmp_path: Path) -> None:
    assert post(tmp_path, {"items": [ITEM] * MAX_ITEMS})[0].status == 200
    answer, calls = post(tmp_path, {"items": [ITEM] * (MAX_ITEMS + 1)})
    assert answer.code == "invalid"
    assert f"length <= {MAX_ITEMS} - at `$.items`" in answer.json["detail"]
    assert calls == []


def test_a_batch_without_room_is_busy_item_by_item_and_reaches_nobody(tmp_path: Path) -> None:
    answer, calls = post(tmp_path, {"items": [ITEM] * 4}, Room(3))
    assert answer.status == 200
    assert [item["problem"]["code"] for item in answer.json["items"]] == ["busy"] * 4
    assert [item["problem"]["retry_after"] for item in answer.json["items"]] == [1] * 4
    assert calls == []
    assert post(tmp_path, {"items": [ITEM] * 3}, Room(3))[0].json["items"][0]["slot"] == "5"


def test_room_is_counted_by_items_and_given_back_however_a_batch_ends(tmp_path: Path) -> None:
    room = Room(10)
    with room.entered(7) as first, room.entered(4) as second, room.entered(3) as third:
        assert (first, second, third) == (True, False, True)
        assert room.inside == 10
        with room.entered(1) as more:
            assert not more
    assert room.inside == 0
    with pytest.raises(ZeroDivisionError), room.entered(9):
        raise ZeroDivisionError
    assert room.inside == 0


PROBLEMS = st.builds(
    Problem,
    st.sampled_from(sorted(KINDS)),
    st.text(),
    do=st.text(),
    retry_after=st.none() | st.floats(0, 60),
)


@given(st.lists(st.just(ALLOCATION) | PROBLEMS))
def test_an_item_is_read_as_what_it_was_written_from(answers: list[Any]) -> None:
    found = opened(sealed(answers), m.Allocation)
    assert [_plain(each) for each in found] == [_plain(each) for each in answers]


def _plain(answer: m.Allocation | Problem) -> Any:
    return answer.document() if isinstance(answer, Problem) else answer


def test_the_client_gives_answers_and_problems_in_the_order_asked(tmp_path: Path) -> None:
    taken = Problem("address-taken", "it is taken", do="ask for another one")

    async def run() -> None:
        answers = {
            "allocate_batch": AllocationAnswers(items=sealed([taken, ALLOCATION])),
            "release_batch": AllocationAnswers(items=sealed([RELEASED, RELEASED])),
        }
        async with serving(tmp_path, answers) as api, Client([f"unix://{api.socket}"]) as client:
            refused, given = await client.allocate_batch("east", [ALLOCATE, ALLOCATE])
            assert isinstance(refused, Problem)
            assert _plain(refused) == _plain(taken)
            assert given == ALLOCATION
            assert await client.release_batch("east", [RELEASE, RELEASE]) == [RELEASED] * 2
            with pytest.raises(Problem) as short:
                await client.release_batch("east", [RELEASE])
            assert short.value.code == "internal"
            assert "it has 2 items for 1" in str(short.value)
            asked = AllocationBatch(items=[ALLOCATE, ALLOCATE])
            assert ("allocate_batch", asked) in api.double.calls

    asyncio.run(run())


def test_the_description_shows_both_forms_of_an_item() -> None:
    document = describe()
    for path, answer, single in (
        ("allocation-batches", "AllocationAnswers", "Allocation"),
        ("release-batches", "ReleaseAnswers", "Released"),
    ):
        operation = document["paths"][f"/v1/clusters/{{cluster}}/{path}"]["post"]
        content = operation["responses"]["200"]["content"]["application/json"]["schema"]
        assert content["$ref"].endswith(f"/{answer}")
        one, other = document["components"]["schemas"][answer]["properties"]["items"]["items"][
            "anyOf"
        ]
        assert one["$ref"] == f"#/components/schemas/{single}"
        assert other["properties"]["problem"]["$ref"] == "#/components/schemas/ProblemDocument"
        assert other["required"] == ["problem"]
        body = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        asked = document["components"]["schemas"][body.rpartition("/")[2]]
        assert asked["properties"]["items"]["maxItems"] == MAX_ITEMS
        assert "`busy`" in operation["responses"]["503"]["description"]
