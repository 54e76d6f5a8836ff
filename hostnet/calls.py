"""System calls that never wait, made with the interpreter's lock kept.

Python gives its lock away around each of its own. In a busy process it then waits for it, up to
some milliseconds each time, and two threads are switched for nothing. What may wait (a netlink
request that changes something, a sync) is not for these.
"""

from __future__ import annotations

import ctypes
import os
import socket
from collections import deque
from typing import Final

MOST_BYTES: Final = 1 << 16
"""What ``receive`` and ``read`` take at once."""

_libc = ctypes.PyDLL(None, use_errno=True)
_rooms: deque[ctypes.Array[ctypes.c_char]] = deque()
"""Buffers that nobody uses now: a new one for each call is filled with zeros first."""


def open_file(path: str, flags: int) -> int:
    """As ``os.open``, close-on-exec."""
    return _checked(_libc.open(os.fsencode(path), flags | os.O_CLOEXEC), path)


def close_file(file: int) -> None:
    _checked(_libc.close(file))


def write(file: int, data: bytes) -> None:
    """Write all of the data, which the file takes as one; ``OSError``."""
    _checked(_libc.write(file, data, len(data)))


def read(file: int) -> bytes:
    """The next bytes of the file; ``OSError``."""
    room = _room()
    try:
        return ctypes.string_at(room, _checked(_libc.read(file, room, MOST_BYTES)))
    finally:
        _rooms.append(room)


def receive(file: int) -> bytes:
    """The next datagram that is there already; ``BlockingIOError`` where none is, ``OSError``."""
    room = _room()
    try:
        size = _checked(_libc.recv(file, room, MOST_BYTES, socket.MSG_DONTWAIT))
        return ctypes.string_at(room, size)
    finally:
        _rooms.append(room)


def enter(file: int, kind: int) -> None:
    """Move the calling thread into the open namespace of this kind; ``OSError``."""
    _checked(_libc.setns(file, kind))


def file_system(file: int) -> int:
    """The kind of file system that the open file is of (statfs(2)); ``OSError``."""
    answer = ctypes.create_string_buffer(256)
    _checked(_libc.fstatfs(file, answer))
    return ctypes.c_long.from_buffer(answer).value


def _room() -> ctypes.Array[ctypes.c_char]:
    try:
        return _rooms.pop()
    except IndexError:
        return ctypes.create_string_buffer(MOST_BYTES)


def _checked(result: int, path: str | None = None) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)
    return result
