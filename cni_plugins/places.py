"""The attachment records of a node in memory, by file and by their pods' places.

The kernel tells of every file that comes and goes in the records' folder, whichever process did it,
and before that process goes on (inotify(7)); only these files are read again. Where the kernel can
watch no more folders, every record is read each time.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Generic, NamedTuple, TypeVar

from netspace.messages import Pod

T = TypeVar("T")

logger = logging.getLogger(__name__)

_CLOSE_WRITE: Final = 0x008
_MOVED_FROM: Final = 0x040
_MOVED_TO: Final = 0x080
_DELETE: Final = 0x200
_DELETE_SELF: Final = 0x400
_MOVE_SELF: Final = 0x800
_OVERFLOW: Final = 0x4000
_IGNORED: Final = 0x8000
_ONLY_FOLDERS: Final = 0x01000000

_WATCHED: Final = _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _DELETE | _DELETE_SELF | _MOVE_SELF
_LOST: Final = _OVERFLOW | _IGNORED | _DELETE_SELF | _MOVE_SELF
_EVENT: Final = struct.Struct("=iIII")
_MOST_BYTES: Final = 1 << 16

_libc = ctypes.CDLL(None, use_errno=True)


class Place(NamedTuple):
    """Where a pod's interface is: attachments of one place follow one another."""

    cluster: str
    namespace: str
    pod: str
    ifname: str

    @staticmethod
    def of(cluster: str, pod: Pod, ifname: str) -> Place:
        return Place(cluster, pod.namespace, pod.name, ifname)


class Places(Generic[T]):
    """What the files in `folder` with this suffix hold. `read` gives what is in one by its path,
    None where nothing can be read, and `placed` where that is. For any thread."""

    def __init__(
        self,
        folder: Path,
        suffix: str,
        read: Callable[[str], T | None],
        placed: Callable[[T], Place],
    ) -> None:
        self._folder, self._suffix = folder, suffix
        self._read, self._placed = read, placed
        self._one = threading.Lock()
        self._watch: _Watch | None = None
        self._found: dict[str, T] = {}
        self._names: dict[Place, set[str]] = {}

    def all(self) -> list[T]:
        """What is in all files as they are on disk now."""
        with self._one:
            self._catch_up()
            return [*self._found.values()]

    def at(self, place: Place) -> list[T]:
        """The same of those of the place."""
        with self._one:
            self._catch_up()
            return [self._found[name] for name in self._names.get(place, ())]

    def _catch_up(self) -> None:
        try:
            names = set() if self._watch is None else set(self._watch.changed())
        except LookupError:
            self._forget()
            names = set()
        try:
            if self._watch is None:
                # First the watch, then the look: what changes in between is told.
                self._watch = _Watch.on(self._folder)
                self._found.clear()
                self._names.clear()
                if self._folder.is_dir():
                    names = {path.name for path in self._folder.iterdir()}
            for name in names:
                self._look(name)
        except BaseException:
            self._forget()
            raise

    def _forget(self) -> None:
        """Has all be read anew the next time."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None

    def _look(self, name: str) -> None:
        if not name.endswith(self._suffix):
            return
        if (old := self._found.pop(name, None)) is not None:
            place = self._placed(old)
            names = self._names[place]
            names.discard(name)
            if not names:
                del self._names[place]
        found = self._read(f"{self._folder}/{name}")
        if found is not None:
            self._found[name] = found
            self._names.setdefault(self._placed(found), set()).add(name)


class _Watch:
    """The kernel's news of one folder."""

    def __init__(self, file: int) -> None:
        self._file = file

    @staticmethod
    def on(folder: Path) -> _Watch | None:
        """None where there is no folder, or the kernel refuses."""
        file = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if file >= 0:
            if _libc.inotify_add_watch(file, os.fsencode(folder), _WATCHED | _ONLY_FOLDERS) >= 0:
                return _Watch(file)
            os.close(file)
        code = ctypes.get_errno()
        if code != errno.ENOENT:
            logger.warning(
                "the records' folder cannot be watched, so every ADD reads all of them",
                extra={"folder": str(folder), "why": os.strerror(code)},
            )
        return None

    def changed(self) -> Iterator[str]:
        """The names of files that came, went or were written since the last call. `LookupError`
        where some were lost, or the folder is gone."""
        while True:
            try:
                data = os.read(self._file, _MOST_BYTES)
            except BlockingIOError:
                return
            at = 0
            while at < len(data):
                _, mask, _, size = _EVENT.unpack_from(data, at)
                at += _EVENT.size + size
                if mask & _LOST:
                    raise LookupError(mask)
                yield os.fsdecode(data[at - size : at].rstrip(b"\0"))

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __del__(self) -> None:
        self.close()
