"""The frames between the executables and the agent, as rules over bytes. No I/O.

One connection carries one request and one answer. Integers have 32 bits, little-endian; a field is
its length and its bytes. `launcher/launcher.c` is the other side.

request  "NSC1", field: plugin, count of variables, each a field "CNI_NAME=value", field: stdin
question "NSQ1", field: what `netspace-agent` asks of the running agent, as "status"
answer   "NSA1", exit status (0 or 1), field: stdout

A reader is a generator: it yields how many bytes it needs, is sent exactly these, and returns the
value. It asks for no field that passes its limit. `decode` drives one over bytes, `receive` over
whatever bytes come from.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from cni_plugins.protocol import MAX_CONFIG

if TYPE_CHECKING:
    from cni_plugins.records import Plugin

REQUEST_MAGIC: Final = b"NSC1"
QUESTION_MAGIC: Final = b"NSQ1"
ANSWER_MAGIC: Final = b"NSA1"

MAX_VARIABLES: Final = 64
MAX_VARIABLE: Final = 64 << 10
"""Bytes of one variable, name and value."""
MAX_STDIN: Final = MAX_CONFIG + 1
"""Bytes of standard input; who sends this many may have had more: too large for a configuration."""
MAX_STDOUT: Final = 4 << 20
MAX_QUESTION: Final = 64

_PREFIX: Final = "CNI_"
_PLUGINS: Final[dict[bytes, Plugin]] = {b"netspace": "netspace", b"netspace-ipam": "netspace-ipam"}

T = TypeVar("T")
Reader = Generator[int, bytes, T]
"""Yields how many bytes it needs, at least one; is sent as many; returns a value."""


class FrameError(ValueError):
    """A frame cannot be read or written; the text says what, which and why."""


class Malformed(FrameError):
    """The bytes are no frame, or the value cannot be told in one."""


class TooLarge(FrameError):
    """A field passes its limit."""


class Truncated(FrameError):
    """The bytes end before the frame does."""


class Request(NamedTuple):
    """One call of an executable. `variables` are the environment's CNI_ ones, as `os.environ` has
    them: bytes that are not UTF-8 are surrogates, and of one name the first counts. `stdin` is
    empty for VERSION and at a terminal."""

    plugin: Plugin
    variables: dict[str, str]
    stdin: bytes


class Question(NamedTuple):
    """What somebody wants to know of the agent itself; of a name in ASCII."""

    name: str


class Answer(NamedTuple):
    """What the executable ends with: its exit status, 0 or 1, and its standard output."""

    status: int
    stdout: bytes


def encode_request(request: Request) -> bytes:
    """The request as bytes. Raises `Malformed`, `TooLarge`."""
    if request.plugin.encode() not in _PLUGINS:
        raise Malformed(f"no plugin is named {request.plugin!r}")
    variables = _encode_variables(request.variables)
    parts = [REQUEST_MAGIC, _field(request.plugin.encode()), _u32(len(variables))]
    parts += [_field(variable) for variable in variables]
    parts.append(_field(_within(request.stdin, MAX_STDIN, "standard input")))
    return b"".join(parts)


def encode_question(question: Question) -> bytes:
    """The question as bytes. Raises `Malformed`, `TooLarge`."""
    if not question.name or not question.name.isascii():
        raise Malformed(f"no question is named {question.name!r}")
    return QUESTION_MAGIC + _field(_within(question.name.encode(), MAX_QUESTION, "the question"))


def encode_answer(answer: Answer) -> bytes:
    """The answer as bytes. Raises `Malformed`, `TooLarge`."""
    if answer.status not in (0, 1):
        raise Malformed(f"an exit status is 0 or 1, not {answer.status}")
    stdout = _within(answer.stdout, MAX_STDOUT, "standard output")
    return ANSWER_MAGIC + _u32(answer.status) + _field(stdout)


def request_reader() -> Reader[Request]:
    """Reads a request. Raises `Malformed`, `TooLarge`."""
    yield from _magic(REQUEST_MAGIC)
    return (yield from _request())


def call_reader() -> Reader[Request | Question]:
    """Reads a request or a question. Raises `Malformed`, `TooLarge`."""
    if (yield from _magic(REQUEST_MAGIC, QUESTION_MAGIC)) == REQUEST_MAGIC:
        return (yield from _request())
    name = yield from _bytes("the question", MAX_QUESTION)
    if not name or not name.isascii():
        raise Malformed(f"no question is named {name!r}")
    return Question(name.decode())


def answer_reader() -> Reader[Answer]:
    """Reads an answer. Raises `Malformed`, `TooLarge`."""
    yield from _magic(ANSWER_MAGIC)
    status = yield from _number()
    if status > 1:
        raise Malformed(f"an exit status is 0 or 1, not {status}")
    stdout = yield from _bytes("standard output", MAX_STDOUT)
    return Answer(status, stdout)


def decode(reader: Reader[T], data: bytes) -> T:
    """The value of a whole frame. Raises `Malformed`, `TooLarge`, `Truncated`."""
    position = 0
    need = next(reader)
    while True:
        part = data[position : position + need]
        if len(part) < need:
            raise Truncated(
                f"it ends at byte {len(data)}, and {need} are needed from {position} on"
            )
        position += need
        try:
            need = reader.send(part)
        except StopIteration as done:
            if position < len(data):
                raise Malformed(f"{len(data) - position} bytes follow the frame") from None
            value: T = done.value
            return value


async def receive(reader: Reader[T], read: Callable[[int], Awaitable[bytes]]) -> T:
    """The value of a frame, of bytes as they come: `read` waits for exactly as many as it is asked
    for, as `asyncio.StreamReader.readexactly` does, and its errors pass. What follows the frame is
    left unread. Raises `Malformed`, `TooLarge`."""
    need = next(reader)
    while True:
        part = await read(need)
        try:
            need = reader.send(part)
        except StopIteration as done:
            value: T = done.value
            return value


def _request() -> Reader[Request]:
    name = yield from _bytes("the plugin's name", max(map(len, _PLUGINS)))
    plugin = _PLUGINS.get(name)
    if plugin is None:
        raise Malformed(f"no plugin is named {name!r}")
    count = yield from _number()
    if count > MAX_VARIABLES:
        raise TooLarge(f"{count} variables, where {MAX_VARIABLES} are allowed")
    variables: dict[str, str] = {}
    for index in range(count):
        variable = yield from _bytes(f"variable {index}", MAX_VARIABLE)
        key, value = _decode_variable(index, variable)
        variables.setdefault(key, value)
    stdin = yield from _bytes("standard input", MAX_STDIN)
    return Request(plugin, variables, stdin)


def _encode_variables(variables: Mapping[str, str]) -> list[bytes]:
    if len(variables) > MAX_VARIABLES:
        raise TooLarge(f"{len(variables)} variables, where {MAX_VARIABLES} are allowed")
    encoded = []
    for name, value in variables.items():
        if not name.startswith(_PREFIX) or "=" in name or "\0" in name or "\0" in value:
            raise Malformed(f"{name!r} is no {_PREFIX} variable, or has a NUL byte")
        try:
            variable = f"{name}={value}".encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            raise Malformed(f"{name!r} cannot be an environment variable: {error}") from None
        encoded.append(_within(variable, MAX_VARIABLE, name))
    return encoded


def _decode_variable(index: int, variable: bytes) -> tuple[str, str]:
    name, equals, value = variable.decode("utf-8", "surrogateescape").partition("=")
    if not name.startswith(_PREFIX) or not equals or b"\0" in variable:
        raise Malformed(f"variable {index} is no {_PREFIX} variable: {variable[:64]!r}")
    return name, value


def _magic(*wanted: bytes) -> Reader[bytes]:
    found = yield len(wanted[0])
    if found not in wanted:
        raise Malformed(f"a frame begins with {b' or '.join(wanted)!r}, not with {found!r}")
    return found


def _number() -> Reader[int]:
    return int.from_bytes((yield 4), "little")


def _bytes(what: str, limit: int) -> Reader[bytes]:
    length = yield from _number()
    if length > limit:
        raise TooLarge(f"{what}: {length} bytes, where {limit} are allowed")
    return (yield length) if length else b""


def _within(data: bytes, limit: int, what: str) -> bytes:
    if len(data) > limit:
        raise TooLarge(f"{what}: {len(data)} bytes, where {limit} are allowed")
    return data


def _u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def _field(data: bytes) -> bytes:
    return _u32(len(data)) + data
