"""Logs: one JSON object a line, whatever is logged."""

from __future__ import annotations

import io
import json
import logging
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netspace import logs
from netspace.logs import JsonLines


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def test_extra_keys_stand_beside_the_message(stream: io.StringIO) -> None:
    logs.setup("info", stream)
    logging.getLogger("netspace.x").info("pod %s", "web-0", extra={"pool": "a", "level": "mine"})
    logging.getLogger("netspace.x").debug("not shown")
    [line] = stream.getvalue().splitlines()
    found = json.loads(line)
    assert found["message"] == "pod web-0"
    assert found["pool"] == "a"
    assert found["level"] == "info"
    assert datetime.fromisoformat(found["time"]).tzinfo is not None


def test_an_exception_stays_on_its_line(stream: io.StringIO) -> None:
    logs.setup("error", stream)
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("netspace.x").exception("failed")
    [line] = stream.getvalue().splitlines()
    assert "ValueError: why" in json.loads(line)["exception"]


class Odd:
    def __str__(self) -> str:
        return "odd"


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.text() | st.floats() | st.integers() | st.binary() | st.builds(Odd),
    lambda inner: st.lists(inner) | st.dictionaries(st.integers() | st.text(), inner),
    max_leaves=6,
)


@given(st.text(st.characters(codec=None)), VALUES)
def test_everything_can_be_logged_as_one_line_of_json(message: str, value: Any) -> None:
    record = logging.makeLogRecord(
        {"levelname": "INFO", "msg": "%s", "args": (message,), "value": value}
    )
    line = JsonLines().format(record)
    assert "\n" not in line
    assert json.loads(line.encode())["level"] == "info"
