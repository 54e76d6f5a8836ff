"""The frames between executables and agent: what is told arrives, and nothing else is taken."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_plugins import frames
from cni_plugins.frames import Answer, Malformed, Request, TooLarge, Truncated

NAMES = st.from_regex(rb"CNI_[^=\x00]{0,12}", fullmatch=True).map(os.fsdecode)
VALUES = st.binary(max_size=40).map(lambda value: os.fsdecode(value.replace(b"\0", b"")))
REQUESTS = st.builds(
    Request,
    st.sampled_from(["netspace", "netspace-ipam"]),
    st.dictionaries(NAMES, VALUES, max_size=6),
    st.binary(max_size=200),
)
ANSWERS = st.builds(Answer, st.integers(0, 1), st.binary(max_size=200))
REQUEST = Request("netspace", {"CNI_COMMAND": "ADD"}, b"{}")


def u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def field(value: bytes) -> bytes:
    return u32(len(value)) + value


def request(*variables: bytes, plugin: bytes = b"netspace", stdin: bytes = b"") -> bytes:
    """The bytes of a request, put together by hand."""
    parts = [b"NSC1", field(plugin), u32(len(variables)), *map(field, variables), field(stdin)]
    return b"".join(parts)


def read(data: bytes) -> Request:
    return frames.decode(frames.request_reader(), data)


@given(REQUESTS)
def test_a_request_arrives_as_it_was_told(told: Request) -> None:
    assert read(frames.encode_request(told)) == told


@given(ANSWERS)
def test_an_answer_arrives_as_it_was_told(told: Answer) -> None:
    assert frames.decode(frames.answer_reader(), frames.encode_answer(told)) == told


@given(REQUESTS, st.data())
def test_a_request_that_was_cut_off_is_none(told: Request, data: st.DataObject) -> None:
    whole = frames.encode_request(told)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    with pytest.raises(Truncated):
        read(cut)


@given(ANSWERS, st.data())
def test_an_answer_that_was_cut_off_is_none(told: Answer, data: st.DataObject) -> None:
    whole = frames.encode_answer(told)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    with pytest.raises(Truncated):
        frames.decode(frames.answer_reader(), cut)


@given(REQUESTS, st.binary(min_size=1, max_size=9))
def test_nothing_may_follow_a_frame(told: Request, more: bytes) -> None:
    with pytest.raises(Malformed):
        read(frames.encode_request(told) + more)


@given(st.binary(max_size=60) | REQUESTS.map(frames.encode_request), st.data())
def test_any_bytes_are_a_frame_or_a_typed_error(start: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(start)))
    changed = start[:place] + data.draw(st.binary(max_size=6)) + start[place + 1 :]
    for reader in (frames.request_reader, frames.answer_reader):
        try:
            found: Any = frames.decode(reader(), changed)
        except frames.FrameError:
            continue
        assert isinstance(found, Request | Answer)


@given(REQUESTS)
def test_a_stream_gives_the_same_as_the_whole_and_keeps_what_follows(told: Request) -> None:
    async def over_a_stream() -> tuple[Request, bytes]:
        stream = asyncio.StreamReader()
        stream.feed_data(frames.encode_request(told) + b"rest")
        stream.feed_eof()
        return await frames.receive(
            frames.request_reader(), stream.readexactly
        ), await stream.read()

    assert asyncio.run(over_a_stream()) == (told, b"rest")


def test_the_bytes_are_those_that_are_written_down() -> None:
    assert frames.encode_request(REQUEST) == request(b"CNI_COMMAND=ADD", stdin=b"{}")
    assert frames.encode_answer(Answer(1, b"no")) == b"NSA1" + u32(1) + field(b"no")


def test_of_one_variable_the_first_counts_as_it_does_for_a_process() -> None:
    assert read(request(b"CNI_ARGS=a=1", b"CNI_ARGS=b")).variables == {"CNI_ARGS": "a=1"}


@pytest.mark.parametrize(
    "data",
    [
        b"NSC2" + request()[4:],
        request(plugin=b"bridge"),
        request(plugin=b""),
        request(b"PATH=/bin"),
        request(b"CNI_ARGS"),
        request(b"CNI_ARGS=a\0b"),
        request(b""),
    ],
)
def test_what_is_no_request_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        read(data)


@pytest.mark.parametrize(
    "head",
    [
        b"NSC1" + u32(14),
        b"NSC1" + field(b"netspace") + u32(frames.MAX_VARIABLES + 1),
        b"NSC1" + field(b"netspace") + u32(1) + u32(frames.MAX_VARIABLE + 1),
        b"NSC1" + field(b"netspace") + u32(0) + u32(frames.MAX_STDIN + 1),
        b"NSC1" + field(b"netspace") + u32(0) + u32(0xFFFFFFFF),
    ],
)
def test_a_field_over_its_limit_is_refused_before_a_byte_of_it_is_asked_for(head: bytes) -> None:
    with pytest.raises(TooLarge):
        read(head)


def test_an_answer_over_its_limits_is_refused() -> None:
    for rest in (u32(0) + u32(frames.MAX_STDOUT + 1), u32(2) + u32(0)):
        with pytest.raises((TooLarge, Malformed)):
            frames.decode(frames.answer_reader(), b"NSA1" + rest)


def test_the_limits_themselves_are_allowed() -> None:
    longest = "x" * (frames.MAX_VARIABLE - len("CNI_A="))
    many = {f"CNI_{index}": "" for index in range(frames.MAX_VARIABLES - 1)}
    told = Request("netspace-ipam", {"CNI_A": longest, **many}, bytes(frames.MAX_STDIN))
    assert read(frames.encode_request(told)) == told
    answer = Answer(0, bytes(frames.MAX_STDOUT))
    assert frames.decode(frames.answer_reader(), frames.encode_answer(answer)) == answer


@pytest.mark.parametrize(
    ("variables", "stdin", "error"),
    [
        ({"PATH": "/bin"}, b"", Malformed),
        ({"CNI_A=": "1"}, b"", Malformed),
        ({"CNI_A": "\0"}, b"", Malformed),
        ({"CNI_A": "\ud800"}, b"", Malformed),
        ({"CNI_A": "x" * frames.MAX_VARIABLE}, b"", TooLarge),
        ({f"CNI_{index}": "" for index in range(65)}, b"", TooLarge),
        ({}, bytes(frames.MAX_STDIN + 1), TooLarge),
    ],
)
def test_what_no_frame_can_tell_is_not_written(
    variables: dict[str, str], stdin: bytes, error: type[Exception]
) -> None:
    with pytest.raises(error):
        frames.encode_request(Request("netspace", variables, stdin))


def test_an_answer_that_no_frame_can_tell_is_not_written() -> None:
    with pytest.raises(Malformed):
        frames.encode_answer(Answer(2, b""))
    with pytest.raises(TooLarge):
        frames.encode_answer(Answer(0, bytes(frames.MAX_STDOUT + 1)))


def test_a_question_arrives_as_it_was_told_and_requests_beside_it() -> None:
    question = frames.Question("status")
    for call in (question, REQUEST):
        encode: Any = frames.encode_question if call is question else frames.encode_request
        assert frames.decode(frames.call_reader(), encode(call)) == call


@pytest.mark.parametrize("name", ["", "é", "x" * (frames.MAX_QUESTION + 1)])
def test_a_question_without_a_usable_name_is_neither_told_nor_taken(name: str) -> None:
    with pytest.raises(frames.FrameError):
        frames.encode_question(frames.Question(name))
    with pytest.raises(frames.FrameError):
        frames.decode(frames.call_reader(), b"NSQ1" + field(name.encode()))
