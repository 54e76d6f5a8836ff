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

from lab import kernel, programs

FOLDER = programs.STATE / "standing"
_LOOK = 0.05  # seconds between two looks into the folder


def stands() -> bool:
    """Say whether a lab kernel stands; forget one whose holder was killed."""
    if not (FOLDER / "holder").exists():
        return False
    with contextlib.suppress(ProcessLookupError, PermissionError, ValueError):
        os.kill(int((FOLDER / "holder").read_text()), 0)
        return True
    kernel.end_stale_runs()
    shutil.rmtree(FOLDER, ignore_errors=True)
    return False


def start(command: Sequence[str]) -> int:
    """Start a kernel that stays, run `command` in it, return its exit status.

    Raises LabKernelError if one stands already or it does not start. On
    Ctrl-C, or when the command fails to start, nothing stays.
    """
    if stands():
        raise kernel.LabKernelError("a lab stands already; end it with ./run demo --end")
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    (FOLDER / "demo.out").touch()
    with (FOLDER / "kernel.log").open("wb") as log:
        holder = subprocess.Popen(
            [sys.executable, "-m", "lab.standing", "hold", *command],
            cwd=programs.CLONE,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    (FOLDER / "holder").write_text(str(holder.pid))
    try:
        return _follow("demo", holder)
    except BaseException:
        holder.terminate()
        holder.wait()
        shutil.rmtree(FOLDER, ignore_errors=True)
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
    return _follow(name, None)


def end() -> None:
    """End the standing lab; nothing of it is left."""
    if not stands():
        return
    holder = int((FOLDER / "holder").read_text())
    (FOLDER / "end").touch()
    deadline = time.monotonic() + 10
    while stands() and time.monotonic() < deadline:
        time.sleep(_LOOK)
    if stands():
        os.kill(holder, signal.SIGTERM)
    while stands():
        time.sleep(_LOOK)
    shutil.rmtree(FOLDER, ignore_errors=True)


def _follow(name: str, holder: subprocess.Popen[bytes] | None) -> int:
    status = FOLDER / f"{name}.status"
    with (FOLDER / f"{name}.out").open("rb") as says:
        while True:
            done = status.exists() and status.read_text()
            kernel.to_stdout(says.read())
            if done:
                return int(done)
            if (holder.poll() is not None) if holder else not stands():
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
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    role, *rest = arguments
    if role == "hold":
        return _hold(rest)
    if role == "serve":
        return _serve(rest)
    return _answer(rest[0], rest[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
