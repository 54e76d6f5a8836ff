"""Starts the lab's many Python programs without importing everything anew for each of them.

Importing costs a program two to three seconds of the lab kernel's only processor. A process that
has imported all of them once forks for each one that is asked for; from then on it is a process
of its own, in its namespace, with its own command line arguments and log, and outlives the rest.

Requests and answers are JSON lines on standard input and output: namespace (a path), log (a file),
module, arguments; the process id.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

from lab import programs, topology
from lab.federation import account
from lab.place import FOLDER, remember

PROGRAMS: Final = {
    "federation.main": (
        "federation.node.main",
        "federation.node.process",
        "federation.server.main",
    ),
    "cni_plugins.agent_main": ("cni_plugins.daemon",),
    "ipam_server.main": (),
}
"""The modules that have a `main`, and what they import only when they run."""

_CLONE_NEWNS, _CLONE_NEWNET = 0x20000, 0x40000000
_MS_REC, _MS_SLAVE, _MNT_DETACH = 16384, 1 << 19, 2


class Nursery:
    """The process that has imported everything; begun once, while other things are made."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lab.federation.nursery", str(FOLDER)],
            cwd=programs.CLONE,
            env=programs.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        remember(self._process.pid)

    def start(self, space: str, log: Path, module: str, *arguments: str) -> int:
        """Starts a program in a namespace of the lab; its process id. It ends with the place."""
        assert self._process.stdin is not None and self._process.stdout is not None
        path = str(topology.NETNS / topology.netns(space))
        told = {"space": path, "log": str(log), "module": module, "arguments": list(arguments)}
        self._process.stdin.write(json.dumps(told) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the lab's nursery has ended; what it said stands above")
        pid = int(answer)
        remember(pid)
        return pid

    def end(self) -> None:
        """Starts nothing more; what it has started stays."""
        self._process.communicate()


def _serve() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for module, more in PROGRAMS.items():
        for each in (module, *more):
            importlib.import_module(each)
    import hostnet

    hostnet.load()
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        told = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _become(told["space"], told["log"], told["module"], told["arguments"])
        print(pid, flush=True)


def _become(space: str, log: str, module: str, arguments: Sequence[str]) -> NoReturn:
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        account.answer()
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDONLY)
        said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for descriptor, number in ((nothing, 0), (said, 1), (said, 2)):
            os.dup2(descriptor, number)
        os.closerange(3, 256)
        _enter(space)
        sys.argv = [module, *arguments]
        importlib.import_module(module).main()
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(Exception):
            sys.stderr.flush()
        os._exit(status)


def _enter(space: str) -> None:
    """The namespace with its own /sys, as `ip netns exec` does it. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)

    def checked(result: int) -> None:
        if result != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), space)

    descriptor = os.open(space, os.O_RDONLY | os.O_CLOEXEC)
    checked(libc.setns(descriptor, _CLONE_NEWNET))
    os.close(descriptor)
    checked(libc.unshare(_CLONE_NEWNS))
    checked(libc.mount(b"none", b"/", b"none", _MS_REC | _MS_SLAVE, None))
    libc.umount2(b"/sys", _MNT_DETACH)
    checked(libc.mount(space.encode(), b"/sys", b"sysfs", 0, None))


if __name__ == "__main__":
    _serve()
