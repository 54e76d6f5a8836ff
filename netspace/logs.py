"""Logs: JSON lines on standard error, with what `extra` names as further keys."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO

import msgspec

Level = Literal["debug", "info", "warning", "error"]

_OWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
_ENCODER: Final = msgspec.json.Encoder(enc_hook=str)


class JsonLines(logging.Formatter):
    """One record, one line: `time` (UTC, RFC 3339), `level`, `logger`, `message`, then the keys of
    `extra`, then `exception` with the stack where there is one. Keys of `extra` never replace the
    first four."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for key, value in vars(record).items():
            if key not in _OWN:
                line.setdefault(key, value)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        try:
            return _ENCODER.encode(line).decode()
        except (TypeError, ValueError, RecursionError):
            return _ENCODER.encode({key: _plain(value) for key, value in line.items()}).decode()


def setup(level: Level = "info", stream: TextIO | None = None) -> None:
    """Sends the logs of the whole process to the stream (standard error) from this level on."""
    # Whatever of these no line has is not found out (the library's documentation, "Optimization").
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _plain(value: object) -> str:
    """Text that can be encoded whatever the value is (lone surrogates, keys that are no texts)."""
    return str(value).encode(errors="backslashreplace").decode()
