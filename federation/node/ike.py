"""charon's VICI protocol on an asyncio connection: requests, lists, and events between them.

The vici library packs and reads the messages; its own session is left alone, since it blocks and
has no events while it waits for an answer. Source: strongSwan's vici README.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Union, cast

from vici.exception import DeserializationException
from vici.protocol import FiniteStream, Message, Packet

Given = Mapping[str, Union[str, list[str], "Given"]]
"""A message to charon."""
Section = Mapping[str, Union[bytes, list[bytes], "Section"]]
"""One from it."""
Told = Callable[[str, Section], None]

_SECONDS: Final = 10.0
_MOST: Final = 16 << 20


class Refused(Exception):
    """charon refused a request; the text is its reason."""


class Lost(ConnectionError):
    """charon does not answer: it is not running, or the connection broke."""


class Ike:
    """One connection to charon; enter it. `told` gets what `events` it registers for. `lost` is set
    when the connection broke."""

    def __init__(self, path: Path, events: Sequence[str] = (), told: Told | None = None) -> None:
        self._path = path
        self._events, self._told = events, told
        self._turn = asyncio.Lock()
        self._answer: asyncio.Future[tuple[int, Section]] | None = None
        self._listing: tuple[str, list[Section]] | None = None
        self.lost = asyncio.Event()

    async def __aenter__(self) -> Ike:
        try:
            opened = await asyncio.open_unix_connection(str(self._path), limit=_MOST)
        except OSError as error:
            raise Lost(f"charon does not answer at {self._path}: {error.strerror}") from None
        self._reader, self._writer = opened
        self._reading = asyncio.create_task(self._read())
        try:
            for event in self._events:
                await self._register(event)
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._close()

    async def request(
        self, command: str, message: Given | None = None, seconds: float = _SECONDS
    ) -> Section:
        """The answer. Raises Refused, Lost; Lost also where there is none within the seconds."""
        async with self._turn:
            return await self._request(command, message, seconds)

    async def listed(
        self, command: str, event: str, message: Given | None = None, seconds: float = _SECONDS
    ) -> list[Section]:
        """What charon tells by `event` while it carries the command out. Raises Refused, Lost; what
        it told until then is lost."""
        found, refused = await self.attempt(command, event, message, seconds)
        if refused:
            raise Refused(refused)
        return found

    async def attempt(
        self, command: str, event: str, message: Given | None = None, seconds: float = _SECONDS
    ) -> tuple[list[Section], str]:
        """The same, with the reason why charon refused in the end, empty where it did not. Raises
        Lost."""
        async with self._turn:
            await self._register(event)
            self._listing = (event, [])
            try:
                await self._request(command, message, seconds)
            except Refused as refused:
                return self._listing[1], str(refused) or "refused"
            else:
                return self._listing[1], ""
            finally:
                self._listing = None
                if not self.lost.is_set():
                    await self._exchange(Packet.unregister_event(event), _SECONDS)

    async def _register(self, event: str) -> None:
        kind, _ = await self._exchange(Packet.register_event(event), _SECONDS)
        if kind != Packet.EVENT_CONFIRM:
            raise Refused(f"this charon has no event {event}")

    async def _request(self, command: str, message: Given | None, seconds: float) -> Section:
        body = None if message is None else Message.serialize(message)
        kind, answer = await self._exchange(Packet.request(command, body), seconds)
        if kind != Packet.CMD_RESPONSE:
            raise Refused(f"this charon has no command {command}")
        if answer.get("success", b"yes") != b"yes":
            raise Refused(text(answer, "errmsg"))
        return answer

    async def _exchange(self, packet: bytes, seconds: float) -> tuple[int, Section]:
        if self.lost.is_set():
            raise Lost(f"charon at {self._path} ended")
        self._answer = asyncio.get_running_loop().create_future()
        try:
            self._writer.write(struct.pack("!I", len(packet)) + packet)
            async with asyncio.timeout(seconds):
                await self._writer.drain()
                return await self._answer
        except TimeoutError:
            # An answer that comes later would be taken for the next request's.
            self._break()
            raise Lost(f"charon at {self._path} is silent for {seconds:.0f} s") from None
        except asyncio.CancelledError:
            self._break()
            raise
        except OSError as error:
            self._break()
            raise Lost(f"charon at {self._path} ended: {error}") from None
        finally:
            self._answer = None

    async def _read(self) -> None:
        try:
            while True:
                (size,) = struct.unpack("!I", await self._reader.readexactly(4))
                self._take(await self._reader.readexactly(size))
        except (OSError, asyncio.IncompleteReadError, DeserializationException, struct.error):
            self._break()

    def _take(self, data: bytes) -> None:
        packet = Packet.parse(data)
        kind = packet.response_type
        if kind == Packet.EVENT:
            name = packet.event_type.decode()
            section = _section(packet.payload)
            if self._listing is not None and name == self._listing[0]:
                self._listing[1].append(section)
            elif self._told is not None:
                self._told(name, section)
        elif self._answer is not None and not self._answer.done():
            has_body = kind == Packet.CMD_RESPONSE
            self._answer.set_result((kind, _section(packet.payload) if has_body else {}))

    def _break(self) -> None:
        self.lost.set()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(Lost(f"charon at {self._path} ended"))

    async def _close(self) -> None:
        self.lost.set()
        self._reading.cancel()
        await asyncio.wait({self._reading})
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()


def text(section: Section, key: str) -> str:
    """A value as text; empty where there is none."""
    value = section.get(key, b"")
    return value.decode(errors="replace") if isinstance(value, bytes) else ""


def sections(section: Section) -> list[tuple[str, Section]]:
    """The sections in a section, by name."""
    return [(name, value) for name, value in section.items() if isinstance(value, Mapping)]


def _section(payload: FiniteStream) -> Section:
    return cast(Section, Message.deserialize(payload))
