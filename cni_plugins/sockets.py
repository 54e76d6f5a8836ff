"""The agent's socket, and what systemd has to do with the agent.

systemd keeps the socket while the agent restarts, so that whoever connects meanwhile waits; without
systemd the agent makes it. Sources: sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3),
unix(7).
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
from pathlib import Path
from typing import Final

from netspace.problems import Problem

FIRST_FD: Final = 3
"""The first descriptor that systemd hands over (SD_LISTEN_FDS_START)."""
BACKLOG: Final = 1024
_CREDENTIALS: Final = struct.Struct("3i")


def listener(path: Path) -> tuple[socket.socket, bool]:
    """The listening socket, not blocking, and whether systemd handed it over. What systemd told is
    taken out of the environment. Raises `Problem` where there can be none."""
    told = os.environ.pop("LISTEN_FDS", ""), os.environ.pop("LISTEN_PID", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    count, pid = (int(text) if text.isdecimal() else 0 for text in told)
    if count and pid == os.getpid():
        if count != 1:
            raise _cannot("use what systemd handed over", f"{count} sockets, where one is needed")
        return _handed_over(), True
    return _made(path), False


def uid_of_peer(connection: socket.socket) -> int:
    """Who is at the other end of a connection, as the kernel knows it (SO_PEERCRED)."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(data)
    return int(uid)


def notify(*lines: str) -> None:
    """Tells systemd, as `READY=1`, where it wants to know."""
    name = os.environ.get("NOTIFY_SOCKET", "")
    if name[:1] not in ("/", "@"):
        return
    address = "\0" + name[1:] if name.startswith("@") else name
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.setblocking(False)
        try:
            sender.sendto("\n".join(lines).encode(), address)
        except OSError:
            return  # Whoever wanted to know is not there, or does not read.


def watchdog_interval() -> float | None:
    """Seconds between two signs of life that systemd wants, half of what it waits; None where it
    does not watch."""
    wanted = os.environ.get("WATCHDOG_USEC", "")
    if not wanted.isdecimal() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(
        os.getpid()
    ):
        return None
    return int(wanted) / 1e6 / 2 or None


def _handed_over() -> socket.socket:
    what = "use what systemd handed over"
    try:
        os.set_inheritable(FIRST_FD, False)
        found = socket.socket(fileno=FIRST_FD)
    except OSError as error:
        raise _cannot(what, f"descriptor {FIRST_FD}: {error.strerror}") from None
    listens = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if found.family != socket.AF_UNIX or found.type != socket.SOCK_STREAM or not listens:
        raise _cannot(what, "it is no Unix stream socket that listens")
    found.setblocking(False)
    return found


def _made(path: Path) -> socket.socket:
    """A socket at the path, readable and writable by its owner alone from the first moment on."""
    what = f"listen on {path}"
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    # Beside its place, and moved there once it listens: who connects finds all of it or nothing.
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _refuse_a_second_agent(path)
        new.unlink(missing_ok=True)
        os.fchmod(made.fileno(), 0o600)  # Linux gives the file this mode, less the umask.
        made.bind(str(new))
        made.listen(BACKLOG)
        made.setblocking(False)
        new.replace(path)
    except OSError as error:
        made.close()
        new.unlink(missing_ok=True)
        raise _cannot(what, error.strerror or str(error)) from None
    except BaseException:
        made.close()
        raise
    return made


def _refuse_a_second_agent(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise _cannot(f"listen on {path}", "something that is no socket is there")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.setblocking(False)
        if probe.connect_ex(str(path)) in (0, errno.EAGAIN):
            raise _cannot(f"listen on {path}", "another agent listens there")


def _cannot(what: str, why: str) -> Problem:
    return Problem("invalid", f"cannot {what}: {why}", do="see docs/node.md")
