"""Calling another IPAM plugin: found in CNI_PATH, the same environment, the whole configuration.

Source: CNI specification, section 4 (Plugin Delegation). Nothing else of this process reaches the
child: its three streams are files in memory, and a loader's variables that a bundled program set
for itself are taken out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

from cni_plugins.protocol import (
    INVALID_CONFIG,
    IO_FAILURE,
    TRY_AGAIN,
    CniError,
    Invocation,
    decode_object,
)
from cni_plugins.results import Result, parse_delegated

logger = logging.getLogger(__name__)

TIMEOUT: Final = 60.0
"""Seconds an IPAM plugin may take; runtimes give up on us after 120 to 240."""
MAX_OUTPUT: Final = 1 << 20
_LOADER: Final = "LD_LIBRARY_PATH"


async def add(invocation: Invocation, ipam: str, environ: Mapping[str, str]) -> Result:
    """The IPAM plugin's addresses."""
    output = await run(invocation, ipam, "ADD", environ)
    return parse_delegated(decode_object(output, f"the result of {ipam}"), ipam)


async def run(invocation: Invocation, ipam: str, command: str, environ: Mapping[str, str]) -> bytes:
    """What the IPAM plugin wrote to its standard output. `CniError`: its own, or 7 where there is
    no such executable, 11 where it did not end in time, 5 where it failed without saying why."""
    executable = find(invocation.path, ipam)
    with _memory("stdin") as stdin, _memory("stdout") as stdout, _memory("stderr") as stderr:
        stdin.write(invocation.stdin)
        stdin.seek(0)
        process = await asyncio.create_subprocess_exec(
            str(executable),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=child_environment(environ, command),
            cwd="/",
        )
        try:
            async with asyncio.timeout(TIMEOUT):
                status = await process.wait()
        except TimeoutError:
            raise CniError(
                TRY_AGAIN,
                f"the IPAM plugin {ipam} did not end",
                f"{command} took over {TIMEOUT:.0f} s",
            ) from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        output, logged = _written(stdout), _written(stderr)
    if logged:
        text = logged[:2000].decode(errors="replace")
        logger.info("the IPAM plugin logged", extra={"ipam": ipam, "stderr": text})
    if status:
        raise _failure(ipam, command, status, output)
    return output


def find(path: tuple[str, ...], ipam: str) -> Path:
    """The first executable file of this name in the folders of CNI_PATH."""
    for folder in path:
        candidate = Path(folder) / ipam
        with contextlib.suppress(OSError):
            if stat.S_ISREG(candidate.stat().st_mode) and os.access(candidate, os.X_OK):
                return candidate
    raise CniError(
        INVALID_CONFIG,
        f"there is no IPAM plugin {ipam}",
        f"none of {', '.join(path)[:300]} has an executable of this name",
    )


def child_environment(environ: Mapping[str, str], command: str) -> dict[str, str]:
    """The environment for the child: ours with another CNI_COMMAND. A program bundled by
    PyInstaller keeps what LD_LIBRARY_PATH was before in LD_LIBRARY_PATH_ORIG."""
    child = {key: value for key, value in environ.items() if not key.startswith("_PYI_")}
    if f"{_LOADER}_ORIG" in child:
        child[_LOADER] = child.pop(f"{_LOADER}_ORIG")
    elif "_PYI_ARCHIVE_FILE" in environ:
        child.pop(_LOADER, None)
    child["CNI_COMMAND"] = command
    return child


def _memory(name: str) -> BinaryIO:
    """A file in memory for one of the child's streams. With a pipe, whatever the child leaves
    behind that keeps it open would delay us until it ends."""
    return os.fdopen(os.memfd_create(name), "r+b", buffering=0)


def _written(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read(MAX_OUTPUT)


def _failure(ipam: str, command: str, status: int, output: bytes) -> CniError:
    said: dict[str, Any] = {}
    with contextlib.suppress(CniError):
        said = decode_object(output, "the error")
    code, msg, details = said.get("code"), said.get("msg"), said.get("details", "")
    if isinstance(code, int) and code > 0 and isinstance(msg, str):
        return CniError(code, f"IPAM plugin {ipam}: {msg}", str(details))
    return CniError(
        IO_FAILURE,
        f"the IPAM plugin {ipam} failed",
        f"{command} ended with status {status} and said {output[:200].decode(errors='replace')!r}",
    )
