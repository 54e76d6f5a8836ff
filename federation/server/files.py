"""The server's own files: keys that never leave its machine, and its certificates.

`STATE_DIR/FEDERATION/`: `root.key` (the founder's), `authority.key` (of the cluster's own
authority), `server.key`, `server.pem` (with the authority behind it). All 0600.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Literal

from federation.server.authority import Key, key_pem, new_key, read_key
from netspace.problems import Problem

What = Literal["root", "authority", "server"]


class Folder:
    """Below `state_dir`, one folder for each federation."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir

    def of(self, federation: str) -> Path:
        return self._state_dir / federation

    def certificate(self, federation: str) -> Path:
        return self.of(federation) / "server.pem"

    def key_file(self, federation: str, what: What) -> Path:
        return self.of(federation) / f"{what}.key"

    def key(self, federation: str, what: What) -> Key | None:
        """The key in a file, None where there is none; `Problem` where it cannot be used."""
        path = self.key_file(federation, what)
        try:
            return read_key(path.read_bytes(), str(path))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unusable(path, error) from None

    def own_key(self, federation: str, what: What) -> Key:
        """The key in a file, which is made where there is none."""
        key = self.key(federation, what)
        if key is None:
            key = new_key()
            self.write(self.key_file(federation, what), key_pem(key))
        return key

    def write(self, path: Path, data: bytes) -> None:
        """Writes a file of ours whole, for its owner alone."""
        passing = path.with_name(f".{path.name}.new")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            passing.unlink(missing_ok=True)
            descriptor = os.open(
                passing, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
            )
            with open(descriptor, "wb") as file:  # noqa: PTH123
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            passing.replace(path)
        except OSError as error:
            raise _unusable(path, error) from None

    def forget(self, federation: str) -> None:
        """All files of a federation."""
        shutil.rmtree(self.of(federation), ignore_errors=True)

    def federations(self) -> list[str]:
        """Those that there are files of."""
        try:
            return sorted(each.name for each in self._state_dir.iterdir() if each.is_dir())
        except FileNotFoundError:
            return []


def _unusable(path: Path, error: OSError) -> Problem:
    return Problem(
        "internal",
        f"{path}: {error.strerror}",
        do="see that state_dir is a folder which the server may write",
    )
