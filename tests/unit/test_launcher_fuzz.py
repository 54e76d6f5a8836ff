"""The CNI executable under bytes that nobody chose, with sanitizers, for a bounded time."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cni_plugins import frames
from cni_plugins.frames import Answer, Request
from lab import launcher
from tests.unit import launcher_bench as bench
from tests.unit.launcher_bench import Node, answering, sending

pytestmark = bench.NEEDS_COMPILER

FUZZ_MS = 4000
FEW = settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
NAMES = st.from_regex(rb"CNI_[^=\x00]{0,12}", fullmatch=True)
VALUES = st.binary(max_size=200).map(lambda value: value.replace(b"\0", b""))
HEADS = st.builds(
    lambda magic, status, length, rest: (
        magic + status.to_bytes(4, "little") + length.to_bytes(4, "little") + rest
    ),
    st.sampled_from([b"NSA1", b"NSA1", b"NSC1"]),
    st.integers(0, 3) | st.integers(0, 2**32 - 1),
    st.integers(0, 60) | st.integers(0, 2**32 - 1),
    st.binary(max_size=60),
)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Node:
    folder = tmp_path_factory.mktemp("launcher")
    builds = bench.build(folder, sanitized=True)
    (folder / "node").mkdir()
    return Node(folder / "node", builds.patient, builds.double)


def call(
    node: Node, agent: bench.Agent, environ: dict[bytes, bytes], stdin: bytes
) -> bench.Outcome:
    async def work() -> bench.Outcome:
        async with node.agent(agent):
            return await node.call(stdin, environ=environ)

    return asyncio.run(work())


@FEW
@given(st.dictionaries(NAMES, VALUES, max_size=8), st.binary(max_size=4000), st.data())
def test_any_environment_and_input_arrive_as_they_are(
    node: Node, environ: dict[bytes, bytes], stdin: bytes, data: st.DataObject
) -> None:
    answer = Answer(data.draw(st.integers(0, 1)), data.draw(st.binary(max_size=200)))
    seen: list[Request] = []
    sent = {b"CNI_COMMAND": b"ADD", b"OTHER": b"1", **environ}
    found = call(node, answering(answer, seen), sent, stdin)
    assert found == (answer.status, answer.stdout, b"")
    del sent[b"OTHER"]
    told = {os.fsencode(name): os.fsencode(value) for name, value in seen[0].variables.items()}
    expected = b"" if sent[b"CNI_COMMAND"] == b"VERSION" else stdin
    assert (told, seen[0].stdin) == (sent, expected)


@FEW
@given(HEADS | st.binary(max_size=40))
def test_any_bytes_are_the_answer_that_frames_reads_or_an_error(node: Node, data: bytes) -> None:
    found = call(node, sending(data), {b"CNI_COMMAND": b"ADD"}, b"")
    stream = asyncio.StreamReader

    async def read() -> Answer | None:
        reader = stream()
        reader.feed_data(data)
        reader.feed_eof()
        try:
            return await frames.receive(frames.answer_reader(), reader.readexactly)
        except (frames.FrameError, asyncio.IncompleteReadError):
            return None

    if wanted := asyncio.run(read()):
        assert found == (*wanted, b"")
    else:
        assert found.status == 1
        assert json.loads(found.stdout)["code"] == 11


def test_the_rules_hold_and_touch_no_byte_beside_their_input(tmp_path: Path) -> None:
    fuzzer = tmp_path / "fuzz"
    launcher.build_sanitized(fuzzer, source=Path(__file__).with_name("launcher_fuzz.c"))
    seed = random.getrandbits(60)
    done = subprocess.run(
        [fuzzer, str(FUZZ_MS), str(seed)], capture_output=True, text=True, timeout=FUZZ_MS
    )
    assert done.returncode == 0, f"seed {seed}:\n{done.stderr}"
    assert int(done.stdout) > 0
