"""How an executable runs: environment and standard input to JSON on standard output.

VERSION and every refusal are answered before anything large is imported. Standard output is kept
for the answer alone: its descriptor is set aside and 1 leads to standard error. SIGTERM and SIGINT
undo what was begun.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from cni_plugins import protocol
from cni_plugins.protocol import CniError, Invocation

if TYPE_CHECKING:
    from cni_plugins.records import Plugin


def run(plugin: Plugin) -> int:
    """Serves the one call this process was started for; the exit status."""
    out = _take_standard_output()
    environ = dict(os.environ)
    version = protocol.VERSIONS[-1]
    try:
        command = protocol.command_of(environ)
        if command == "VERSION":
            return _answer(out, protocol.version_answer())
        stdin = _read_standard_input()
        version = protocol.version_for_errors(stdin)
        invocation = protocol.parse(environ, stdin)
        return _serve(plugin, invocation, environ, out)
    except CniError as error:
        _answer(out, error.encode(version))
        return 1


def _serve(plugin: Plugin, invocation: Invocation, environ: Mapping[str, str], out: int) -> int:
    if invocation.command == "STATUS":
        from cni_plugins import status

        status.check(plugin, invocation, environ)
        return 0
    from cni_plugins import operations

    return operations.serve(plugin, invocation, environ, lambda answer: _answer(out, answer))


def _take_standard_output() -> int:
    """A descriptor for the answer. Streams that came closed are opened on /dev/null, so that no
    file or socket takes their number."""
    while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(opened, True)
    os.close(opened)
    out = os.dup(1)
    os.dup2(2, 1)
    os.chdir("/")
    return out


def _read_standard_input() -> bytes:
    """What is on standard input, at most one byte more than a configuration may have."""
    parts: list[bytes] = []
    left = protocol.MAX_CONFIG + 1
    try:
        while left and (part := os.read(0, left)):
            parts.append(part)
            left -= len(part)
    except OSError as error:
        raise CniError(
            protocol.IO_FAILURE, "standard input cannot be read", error.strerror or str(error)
        ) from None
    return b"".join(parts)


def _answer(out: int, answer: bytes) -> int:
    """Writes the whole answer; the exit status."""
    rest = memoryview(answer)
    try:
        while rest:
            rest = rest[os.write(out, rest) :]
    except OSError as error:
        sys.stderr.write(f"standard output cannot be written: {error.strerror}\n")
        return 1
    return 0
