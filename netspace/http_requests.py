"""Bytes made into HTTP/1.1 requests, strictly, without I/O (RFC 9112).

Where two programs could read the same bytes as different requests, nobody guesses: a length given
twice or beside chunks, a folded field, a bare CR or LF, a Host that is none are refused. Requests
are read one at a time, so that whoever sends ahead waits in the buffer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Final

from netspace.problems import Problem

FIELDS: Final = 100
"""Fields of a header at most."""

WHOLE: Final = 4
"""A header may have so many times the bytes that one line may have."""

SHORT: Final = 1024
"""Bytes of a header that is worth remembering: clients send the same one again and again."""

_END: Final = b"\r\n\r\n"
_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_TARGET: Final = rb"/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*"
_AUTHORITY: Final = rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(?::[0-9]{0,5})?"
_LINE: Final = re.compile(
    rb"(%b) (?:(?i:https?)://%b)?(%b)(?:\?([A-Za-z0-9._~!$&'()*+,;=:@%%/?-]*))? HTTP/1\.([01])"
    % (_TOKEN, _AUTHORITY, _TARGET)
)
_FIELD: Final = re.compile(rb"(%b):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)" % _TOKEN)
_HOST: Final = re.compile(_AUTHORITY)
_NUMBER: Final = re.compile(r"[0-9]{1,15}")
_CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,12})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")
_STRAY: Final = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n|\r(?=[^\n])")
"""What stands nowhere in a header: controls, and a CR or LF without the other."""

_ONCE: Final = frozenset(
    {"host", "content-length", "transfer-encoding", "content-type", "content-encoding", "expect"}
)
"""Fields that say nothing certain when they stand twice."""


@dataclass(frozen=True, slots=True)
class Head:
    """A request's first line and header. `target` as it stands in the first line, without scheme
    and host; `fields` by names in lower case, several of one name joined by commas; `length` of the
    body in bytes, None if it comes in chunks; `keep`: the connection goes on afterwards;
    `expects`: the body comes only when it is asked for (100-continue); `what`: method and path, for
    people."""

    method: str
    target: str
    path: str
    query: str
    fields: Mapping[str, str]
    length: int | None
    keep: bool
    expects: bool
    what: str


def parse_head(data: bytes, most: int) -> Head:
    """The header in `data`, which ends with an empty line; `most` bytes in one line. `Problem`
    bad-request, target-too-long or header-too-large."""
    first, *lines = data[: -len(_END)].split(b"\r\n")
    if len(first) > most:
        raise _long_line(most)
    found = _LINE.fullmatch(first)
    if found is None:
        raise _not_http(f"the first line is {first[:80]!r}")
    if len(lines) > FIELDS or len(data) > WHOLE * most:
        raise _long_header(most)
    fields: dict[str, str] = {}
    for line in lines:
        if len(line) > most:
            raise _long_header(most)
        field = _FIELD.fullmatch(line)
        if field is None:
            raise _not_http(f"the header has the line {line[:80]!r}")
        name = field[1].lower().decode("ascii")
        value = field[2].rstrip(b" \t").decode("latin-1")
        if name in fields:
            if name in _ONCE:
                raise _not_http(f"the field {name} stands twice")
            value = f"{fields[name]}, {value}"
        fields[name] = value
    method, path, query, version = found.groups()
    newer = version == b"1"
    _check_host(fields.get("host"), newer)
    said = {each.strip() for each in fields.get("connection", "").lower().split(",")}
    return Head(
        method=method.decode("ascii"),
        target=(path if query is None else path + b"?" + query).decode("ascii"),
        path=path.decode("ascii"),
        query="" if query is None else query.decode("ascii"),
        fields=fields,
        length=_length(fields, newer),
        keep=newer and "close" not in said,
        expects=_expects(fields.get("expect"), newer),
        what=f"{method.decode('ascii')} {path[:300].decode('ascii')}",
    )


_known = lru_cache(maxsize=1024)(parse_head)


def _check_host(host: str | None, newer: bool) -> None:
    if host is None:
        if newer:
            raise _not_http("the field host is missing")
    elif _HOST.fullmatch(host.encode("latin-1")) is None:
        raise _not_http(f"the field host is {host[:80]!r}")


def _length(fields: Mapping[str, str], newer: bool) -> int | None:
    length, coding = fields.get("content-length"), fields.get("transfer-encoding")
    if coding is not None:
        if length is not None:
            raise _not_http("it has both content-length and transfer-encoding")
        if coding.lower() != "chunked" or not newer:
            raise _not_http(f"the transfer-encoding is {coding[:80]!r}")
        return None
    if length is None:
        return 0
    if _NUMBER.fullmatch(length) is None:
        raise _not_http(f"the content-length is {length[:80]!r}")
    return int(length)


def _expects(said: str | None, newer: bool) -> bool:
    if said is None or not newer:
        return False
    if said.lower() != "100-continue":
        raise _not_http(f"the field expect is {said[:80]!r}")
    return True


def _not_http(why: str) -> Problem:
    return Problem("bad-request", f"the request is not HTTP/1.1: {why}")


def _long_line(most: int) -> Problem:
    return Problem("target-too-long", f"the request's first line has more than {most} bytes")


def _long_header(most: int) -> Problem:
    return Problem(
        "header-too-large",
        f"the request's header has a field of more than {most} bytes, more than {FIELDS} fields"
        f" or more than {WHOLE * most} bytes",
    )


class _Stage(Enum):
    """What comes next of a body."""

    LENGTH = "as many bytes as the header said"
    SIZE = "a chunk's first line"
    CHUNK = "a chunk"
    BREAK = "the end of a chunk's last line"
    TRAILER = "a field after the last chunk, or the empty line"


class Reader:
    """The requests in what one connection sends. `feed` it; then `head` and `body` in turns, each
    None until it is here. `Problem` when it cannot go on: whatever follows has no meaning then.
    `line`: bytes of one line of a header at most, `most` of a body."""

    __slots__ = (
        "_at",
        "_body",
        "_buffer",
        "_fields",
        "_left",
        "_line",
        "_looked",
        "_most",
        "_stage",
    )

    def __init__(self, line: int, most: int) -> None:
        self._line = line
        self._most = most
        self._buffer = b""
        self._at = 0
        # How far a header that is not complete was looked through.
        self._looked = 0
        self._stage = _Stage.LENGTH
        # What is here of the body, and how much of it, or of its chunk, is to come.
        self._body = bytearray()
        self._left = 0
        self._fields = 0

    def feed(self, data: bytes) -> None:
        at = self._at
        self._buffer = self._buffer[at:] + data if at < len(self._buffer) else data
        self._looked = max(0, self._looked - at)
        self._at = 0

    @property
    def held(self) -> int:
        """Bytes that were fed and not yet read."""
        return len(self._buffer) - self._at

    def head(self) -> Head | None:
        """The next request's header; its body follows."""
        buffer, at = self._buffer, self._at
        # Some clients send an empty line after a body (RFC 9112, section 2.2).
        while buffer.startswith(b"\r\n", at):
            at += 2
        self._at = at
        end = buffer.find(_END, at)
        if end < 0:
            self._look_through()
            return None
        end += len(_END)
        data = buffer[at:end]
        head = (_known if len(data) <= SHORT else parse_head)(data, self._line)
        self._at, self._looked = end, 0
        if head.length is None:
            self._stage, self._left, self._fields = _Stage.SIZE, 0, 0
        elif head.length > self._most:
            raise self._too_large()
        else:
            self._stage, self._left = _Stage.LENGTH, head.length
        return head

    def body(self) -> bytes | None:
        """The body of the request whose header was read last."""
        if self._stage is not _Stage.LENGTH:
            return self._whole() if self._chunks() else None
        if self._left and not self._body and self.held >= self._left:
            at, self._at, self._left = self._at, self._at + self._left, 0
            body = self._buffer[at : self._at]
            self._forget()
            return body
        self._take()
        return None if self._left else self._whole()

    def _whole(self) -> bytes:
        body, self._body = bytes(self._body), bytearray()
        self._forget()
        return body

    def _forget(self) -> None:
        """Keeps nothing of what was read, for as long as the connection may be idle."""
        if self._at == len(self._buffer):
            self._buffer, self._at = b"", 0

    def _take(self) -> None:
        """Puts what is here of the body, or of its chunk, to the rest."""
        end = min(len(self._buffer), self._at + self._left)
        if end > self._at:
            self._body += self._buffer[self._at : end]
            self._left -= end - self._at
            self._at = end

    def _chunks(self) -> bool:
        """Reads on in a body that comes in chunks; whether it is complete."""
        while True:
            if self._stage is _Stage.CHUNK:
                self._take()
                if self._left:
                    return False
                self._stage = _Stage.BREAK
            line = self._chunk_line()
            if line is None:
                return False
            match self._stage:
                case _Stage.BREAK:
                    if line:
                        raise _not_http("a chunk is longer than its size")
                    self._stage = _Stage.SIZE
                case _Stage.SIZE:
                    self._begin_chunk(line)
                case _:
                    if not line:
                        self._stage = _Stage.LENGTH
                        return True
                    self._fields += 1
                    if _FIELD.fullmatch(line) is None or self._fields > FIELDS:
                        raise _not_http(f"behind the last chunk stands {line[:80]!r}")

    def _begin_chunk(self, line: bytes) -> None:
        found = _CHUNK.fullmatch(line)
        if found is None:
            raise _not_http(f"a chunk begins with {line[:80]!r}")
        self._left = int(found[1], 16)
        if len(self._body) + self._left > self._most:
            raise self._too_large()
        self._stage = _Stage.CHUNK if self._left else _Stage.TRAILER

    def _chunk_line(self) -> bytes | None:
        end = self._buffer.find(b"\r\n", self._at)
        if (self.held if end < 0 else end - self._at) > self._line:
            raise _not_http(f"a line of a chunk has more than {self._line} bytes")
        if end < 0:
            return None
        line, self._at = self._buffer[self._at : end], end + 2
        return line

    def _look_through(self) -> None:
        """Refuses a header that cannot become one without waiting for its end."""
        buffer, at, most = self._buffer, self._at, self._line
        if _STRAY.search(buffer, max(at, self._looked - 1)):
            raise _not_http("a control character, or a CR or LF by itself, stands in its header")
        self._looked = len(buffer)
        last = buffer.rfind(b"\r\n", at)
        if last < 0:
            if len(buffer) - at > most + 1:
                raise _long_line(most)
        elif len(buffer) - last > most + 3 or len(buffer) - at > WHOLE * most:
            raise _long_header(most)

    def _too_large(self) -> Problem:
        return Problem("too-large", f"the body has more than {self._most} bytes")
