"""A lab kernel that stays: started by `./run demo --keep`, entered by `./run lab`, then ended.

A process in the background holds the kernel. Inside it, `serve` runs the demo
and then whatever is asked for through a folder that both sides see:
`N.json` is a request (command, folder, terminal width), `N.out` what it says,
`N.status` its exit status; `demo.out` and `demo.status` are the demo's own;
`end` ends it all.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from lab import kernel, processes, programs

FOLDER = programs.STATE / "standing"
_LOOK = 0.05  # seconds between two looks into the folder


def stands() -> bool:
    """Say whether a lab kernel stands; forget one whose holder was killed."""
    if not (FOLDER / "holder").exists():
        return False
    if _alive():
        return True
    kernel.end_stale_runs()
    shutil.rmtree(FOLDER, ignore_errors=True)
    return False


def _alive() -> bool:
    try:
        holder = (FOLDER / "holder").read_text()
    except OSError:
        return False
    return holder == processes.identity(int(holder.split()[0]))


def start(command: Sequence[str]) -> int:
    """Start a kernel that stays, run `command` in it, return its exit status.

    Raises LabKernelError if one stands already, or if it does not start. After
    that, and after Ctrl-C, nothing stays.
    """
    if stands():
        raise kernel.LabKernelError("a lab stands already; end it with ./run demo --end")
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    (FOLDER / "demo.out").touch()
    command = [sys.executable, "-m", "lab.standing", "hold", *command]
    log = str(FOLDER / "kernel.log")
    # Not a Popen: it outlives this process, which need not wait for it.
    holder = os.posix_spawn(
        sys.executable,
        command,
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    (FOLDER / "holder").write_text(processes.identity(holder))
    try:
        return _follow("demo")
    except BaseException:
        _end(signal.SIGTERM, signal.SIGKILL)
        raise


def execute(command: Sequence[str]) -> int:
    """Run `command` in the standing lab, show what it says, return its exit status.

    Raises LabKernelError if the lab ends meanwhile.
    """
    name = f"{time.time_ns()}"
    (FOLDER / f"{name}.out").touch()
    request = FOLDER / f"{name}.new"
    request.write_text(json.dumps(list(command)))
    request.rename(FOLDER / f"{name}.json")
    return _follow(name)


def end() -> None:
    """End the standing lab; nothing of it is left."""
    if stands():
        (FOLDER / "end").touch()
        _end(None, signal.SIGTERM, signal.SIGKILL)


def _end(*signals: int | None) -> None:
    """Wait for the holder to end, up to 10 s after each signal (None sends none)."""
    holder = int((FOLDER / "holder").read_text().split()[0])
    for number in signals:
        if number is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(holder, number)
        deadline = time.monotonic() + 10
        while processes.identity(holder) and time.monotonic() < deadline:
            time.sleep(_LOOK)
        if not processes.identity(holder):
            break
    kernel.end_stale_runs()
    shutil.rmtree(FOLDER, ignore_errors=True)


def _follow(name: str) -> int:
    status = FOLDER / f"{name}.status"
    with (FOLDER / f"{name}.out").open("rb") as says:
        while True:
            done = status.exists() and status.read_text()
            kernel.to_stdout(says.read())
            if done:
                return int(done)
            if not _alive():
                log = FOLDER / "kernel.log"
                reason = log.read_text(errors="replace")[-500:] if log.exists() else ""
                raise kernel.LabKernelError(f"the standing lab ended: {reason}".strip())
            time.sleep(_LOOK)


def _hold(command: Sequence[str]) -> int:
    """Be the process in the background."""
    serve = [str(programs.PYTHON), "-m", "lab.standing", "serve", *command]
    try:
        return kernel.run(serve, writable=[FOLDER])
    finally:
        shutil.rmtree(FOLDER, ignore_errors=True)


def _serve(command: Sequence[str]) -> int:
    """Be the process inside: run `command`, then what is asked for until the end."""
    _answer("demo", command)
    running: list[subprocess.Popen[bytes]] = []
    while not (FOLDER / "end").exists():
        running = [process for process in running if process.poll() is None]
        for request in sorted(FOLDER.glob("*.json")):
            asked = json.loads(request.read_text())
            request.unlink()
            # Each in a process of its own, so that one that waits holds up none.
            answer = [sys.executable, "-m", "lab.standing", "answer", request.stem, *asked]
            running.append(subprocess.Popen(answer))
        time.sleep(_LOOK)
    return 0


def _answer(name: str, command: Sequence[str]) -> int:
    with (FOLDER / f"{name}.out").open("ab") as says:
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=says, stderr=subprocess.STDOUT
            )
            status = done.returncode if done.returncode >= 0 else 128 - done.returncode
        except OSError as error:
            says.write(f"{command[0]}: {error.strerror}\n".encode())
            status = 127
    written = FOLDER / f"{name}.written"
    written.write_text(str(status))
    written.rename(FOLDER / f"{name}.status")
    return 0


def main(arguments: Sequence[str]) -> int:
    processes.end_on_signals()
    role, *rest = arguments
    if role == "hold":
        return _hold(rest)
    if role == "serve":
        return _serve(rest)
    return _answer(rest[0], rest[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
