"""The lab kernel: run a command where bonds and VLANs exist, on any machine.

Debian's user-mode-linux is a Linux that runs as an ordinary process, root's or
not, with the machine's file system as its root: here read-only, with fresh
tmpfs over what must be written (`inside`). The command inside is root over
links, namespaces and firewalls; the machine's network is out of its reach.

    python -m lab.kernel [--writable DIR] [--timeout SECONDS] COMMAND ARGUMENT...
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import select
import shutil
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from lab import inside, launcher, memory, processes, programs, setup

RUNS = programs.STATE / "run"
_MODPROBE = programs.STATE / "modprobe"
_MODULES = programs.STATE / "modules"
_PARAMETER = "netspace_lab="
_PRIORITY = -10


class LabKernelError(RuntimeError):
    """The lab kernel did not start, or ended without the command's result."""


class LabKernelTimeout(LabKernelError):
    """The command took longer than it was given; the kernel was ended."""


@dataclass(frozen=True)
class Spec:
    """What `inside` is told; `size` is the terminal's (rows, columns), `seed` hexadecimal."""

    command: list[str]
    env: dict[str, str]
    cwd: str
    keep: list[str]
    writable: list[str]
    modprobe: str
    seed: str
    size: list[int]
    interactive: bool


def run(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path = programs.CLONE,
    writable: Sequence[Path] = (),
    timeout: float | None = None,
    output: Callable[[bytes], object] | None = None,
    interactive: bool = False,
) -> int:
    """Run `command` inside and return its exit status (128 + N after signal N).

    What it writes to standard output and error goes to `output` as it comes,
    by default to this process's standard output. The folders in `writable`
    are the machine's own, at the same paths; everything else that is written
    is gone afterwards. `timeout` is in seconds. With `interactive` the
    terminal is the command's.

    Raises LabKernelError, LabKernelTimeout, programs.ProgramMissing. However
    this ends, no process and no file of the run is left.
    """
    deliver = output or to_stdout
    end_stale_runs()
    setup.compile_sources()
    launcher.prepare()
    _write_modprobe()
    folders = [str(Path(path).resolve()) for path in writable]
    with _run_folder() as folder, _terminal_kept():
        spec = Spec(
            command=list(command),
            env=_environment(env),
            cwd=str(cwd),
            keep=[str(programs.CLONE), sys.base_prefix],
            writable=[str(folder), *folders],
            modprobe=str(_MODPROBE),
            seed=secrets.token_hex(64),
            size=list(reversed(shutil.get_terminal_size((100, 40)))),
            interactive=interactive,
        )
        (folder / "spec.json").write_text(json.dumps(asdict(spec)))
        uml: subprocess.Popen[bytes] | None = None
        try:
            with processes.undisturbed():
                uml = _start(folder, interactive)
            boot = _relay(uml, deliver, timeout)
        finally:
            with processes.undisturbed():
                _end_session(uml)
        status = folder / "status"
        if not status.exists():
            raise LabKernelError(
                "the lab kernel ended without a result; its last words:\n"
                + "\n".join(boot.decode(errors="replace").splitlines()[-12:])
            )
        return int(status.read_text())


def end_stale_runs() -> None:
    """End kernels whose starter was killed, and remove what they left."""
    mark = f"{_PARAMETER}{RUNS}/"

    def stale(process: int) -> bool:
        arguments = Path(f"/proc/{process}/cmdline").read_text(errors="replace").split("\0")
        names = [part.removeprefix(mark) for part in arguments if part.startswith(mark)]
        return bool(names) and not _owned(RUNS / names[0])

    processes.kill_all(stale)
    for folder in RUNS.glob("*"):
        # One without an owner's name is just being made.
        if (folder / "owner").exists() and not _owned(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _owned(folder: Path) -> bool:
    try:
        owner = (folder / "owner").read_text()
    except OSError:
        return False
    return bool(owner) and owner == processes.identity(int(owner.split()[0]))


@contextlib.contextmanager
def _run_folder() -> Iterator[Path]:
    RUNS.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=RUNS))
    try:
        (folder / "owner").write_text(processes.identity(os.getpid()))
        yield folder
    finally:
        with processes.undisturbed():
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _terminal_kept() -> Iterator[None]:
    """Put the terminal back as it was: a kernel that is killed leaves it raw."""
    if not sys.stdin.isatty():
        yield
        return
    attributes = termios.tcgetattr(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, attributes)


def _environment(env: Mapping[str, str] | None) -> dict[str, str]:
    found = programs.environment(env)
    found |= {"HOME": "/run/home", "TMPDIR": "/tmp", "NETSPACE_LAB_KERNEL": "1"}
    found["PYTHONDONTWRITEBYTECODE"] = "1"
    found["HYPOTHESIS_STORAGE_DIRECTORY"] = "/tmp/hypothesis"
    if not sys.stdout.isatty():
        found |= {"TERM": "dumb", "NO_COLOR": "1"}
    return found


def _write_modprobe() -> None:
    """Write the program that the kernel calls for a module it needs."""
    modules = programs.uml_modules()
    if modules is None:
        raise programs.ProgramMissing("linux.uml")
    link = _MODULES / "lib" / "modules"
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink() or link.readlink() != modules:
        link.unlink(missing_ok=True)
        link.symlink_to(modules)
    options = _MODULES / "options.conf"
    script = (
        "#!/bin/sh\n"
        f"export LD_LIBRARY_PATH='{programs.environment({}).get('LD_LIBRARY_PATH', '')}'\n"
        f"exec '{programs.find('modprobe')}' -d '{_MODULES}' -C '{options}' \"$@\"\n"
    )
    if not _MODPROBE.exists() or _MODPROBE.read_text() != script:
        # A bond that nobody asked for would stand in every namespace's way.
        options.write_text("options bonding max_bonds=0\n")
        _MODPROBE.write_text(script)
        _MODPROBE.chmod(0o755)


def _start(folder: Path, interactive: bool) -> subprocess.Popen[bytes]:
    try:
        size, place = memory.choose()
    except memory.NoRoom as error:
        raise LabKernelError(str(error)) from error
    python = str(Path(getattr(sys, "_base_executable", sys.executable)).resolve())
    command = [
        str(programs.find("linux.uml")),
        f"mem={size // memory.MEBIBYTE}M",
        "quiet",
        "rootfstype=hostfs",
        "rootflags=/",
        "ro",
        f"init={python}",
        f"{_PARAMETER}{folder}",
        f"uml_dir={folder}/",
        "con=null",
        "con0=fd:0,fd:1",
        "--",
        "-I",
        "-S",
        inside.__file__,
        str(folder),
    ]
    # Only the kernel's own process loads the library: what runs inside gets
    # its environment from `inside`.
    env = {
        "PATH": os.environ.get("PATH", os.defpath),
        "TMPDIR": str(place),
        "LD_PRELOAD": str(setup.SHIM),
        "HOME": str(folder),
    }
    return subprocess.Popen(
        command,
        env=env,
        stdin=None if interactive else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # A session of its own: Ctrl-C reaches this process alone, which ends
        # the session with all of the kernel's processes.
        start_new_session=True,
        preexec_fn=partial(_become_first, processes.idlest_processor()),
    )


def _become_first(processor: int) -> None:
    """Each system call inside hands over to another process and back. On one processor that is
    four times as fast as between two, of which each has to wake the other up; and beside programs
    that calculate it would wait for its turn every time, and be five times as slow."""
    processes.die_with_parent()
    os.sched_setaffinity(0, {processor})
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, _PRIORITY)


def _relay(
    uml: subprocess.Popen[bytes], deliver: Callable[[bytes], object], timeout: float | None
) -> bytes:
    """Pass on the command's output until the kernel ends; return the rest of it.

    Raises LabKernelTimeout.
    """
    assert uml.stdout is not None
    pipe = uml.stdout.fileno()
    deadline = None if timeout is None else time.monotonic() + timeout
    # Held back: all before the command began, then what may be part of the end mark.
    held, begun, ended, around = b"", False, False, b""
    while True:
        if deadline is not None and time.monotonic() > deadline:
            raise LabKernelTimeout(f"not done after {timeout:.0f} s; the lab kernel was ended")
        if not select.select([pipe], [], [], 0.2)[0]:
            if uml.poll() is not None:
                break
            continue
        chunk = os.read(pipe, 1 << 16)
        if not chunk:
            break
        held += chunk
        if not begun:
            before, mark, after = held.partition(inside.BEGIN)
            if not mark:
                continue
            begun, around, held = True, before, after
        if not ended:
            output, mark, after = held.partition(inside.END)
            if mark:
                deliver(output)
                ended, held = True, after
            else:
                keep = _tail_of_mark(held)
                deliver(held[: len(held) - keep])
                held = held[len(held) - keep :]
    if begun and not ended:
        deliver(held)
    return around + held


def _tail_of_mark(data: bytes) -> int:
    """Return how many of the last bytes of `data` may be the start of the end mark."""
    for length in range(len(inside.END) - 1, 0, -1):
        if data.endswith(inside.END[:length]):
            return length
    return 0


def _end_session(uml: subprocess.Popen[bytes] | None) -> None:
    """End every process of the kernel: one per address space inside, and its helpers."""
    if uml is None:
        return
    processes.kill_all(lambda pid: int(processes.stat(pid)[3]) == uml.pid)
    uml.wait()
    if uml.stdout is not None:
        uml.stdout.close()


def to_stdout(data: bytes) -> None:
    """Write to this process's standard output at once."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command inside, for `lab.testing` and for looking around."""
    parser = argparse.ArgumentParser(prog="lab.kernel", description="run a command inside")
    parser.add_argument("--writable", type=Path, action="append", default=[])
    parser.add_argument("--timeout", type=float)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args(argv)
    processes.end_on_signals()
    try:
        return run(
            options.command,
            writable=options.writable,
            timeout=options.timeout,
            interactive=sys.stdin.isatty() and sys.stdout.isatty(),
        )
    except (LabKernelError, programs.ProgramMissing) as error:
        print(f"lab kernel: {error}", file=sys.stderr)
        return 125
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
