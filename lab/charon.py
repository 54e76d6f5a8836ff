"""strongSwan's charon in the lab: one for a node, prepared by the product's own code.

Where charon finds its plugins is compiled in. Where the clone has it unpacked, it is seen there by
an overlay in a mount namespace of the process's own; the machine sees nothing of it.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import time
from pathlib import Path

from federation.node.charon import Charon, prepare
from hostnet import open_netns
from lab import processes, programs

_CLONE_NEWNS, _MS_REC, _MS_SLAVE = 0x20000, 16384, 1 << 19
_USR_LIB = "/usr/lib"
_SECONDS = 30.0
_libc = ctypes.CDLL(None, use_errno=True)


class CharonError(RuntimeError):
    """charon did not start; the text has what it said."""


def start(
    netns: str, vici: Path, log: Path, level: int = 1, *, outlives: bool = False
) -> subprocess.Popen[bytes]:
    """Start a charon in the named namespace; it ends with its starter, unless it `outlives` that.
    Its socket may not be there yet: `wait` for it. Raises ProgramMissing, OSError."""
    folder = programs.charon()
    if folder is None:
        raise programs.ProgramMissing("charon")
    charon = Charon(vici=vici, level=level)
    vici.parent.mkdir(parents=True, exist_ok=True)
    environment = programs.environment() | {"STRONGSWAN_CONF": str(charon.configuration)}

    with open_netns(f"/run/netns/{netns}") as space, log.open("ab") as file:

        def become() -> None:
            if not outlives:
                processes.die_with_parent()
            space.enter()
            if folder.is_relative_to(programs.ROOT):
                see_libraries()
            prepare(charon)

        return subprocess.Popen(
            [str(charon.program)],
            executable=str(charon.program),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            cwd=os.sep,
            start_new_session=outlives,
            preexec_fn=become,
        )


def see_libraries() -> None:
    """Let this process alone, and what it starts, see the clone's /usr/lib over the machine's."""
    lower = f"lowerdir={programs.ROOT}{_USR_LIB}:{_USR_LIB}"
    if (
        _libc.unshare(_CLONE_NEWNS)
        or _libc.mount(b"none", b"/", b"none", _MS_REC | _MS_SLAVE, b"")
        or _libc.mount(b"overlay", _USR_LIB.encode(), b"overlay", 0, lower.encode())
    ):
        code = ctypes.get_errno()
        raise OSError(
            code, f"cannot lay the clone's libraries over {_USR_LIB}: {os.strerror(code)}"
        )


def wait(process: subprocess.Popen[bytes], vici: Path, log: Path) -> None:
    """Wait until it listens at its socket. Raises CharonError."""
    deadline = time.monotonic() + _SECONDS
    while not vici.is_socket():
        if process.poll() is not None or time.monotonic() > deadline:
            raise CharonError(f"charon did not start: {log.read_text()[-1000:]}")
        time.sleep(0.02)
