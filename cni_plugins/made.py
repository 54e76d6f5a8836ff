"""Which VLAN interfaces are ours: those that an ADD or the agent made, remembered on disk.

One file for each, STATE_DIR/made/NAME.json, with the link's index and the boot it was made in, so
that an interface somebody else made later under the same name is not taken for ours.
"""

from __future__ import annotations

import contextlib
import functools
import os
from pathlib import Path
from typing import Final

import msgspec

from netspace.disk import write_synced

_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_SUFFIX: Final = ".json"


class _Mark(msgspec.Struct, frozen=True):
    index: int
    boot: str


@functools.cache
def boot_id() -> str:
    """What tells this run of the kernel from every other one."""
    return _BOOT.read_text("ascii").strip()


class Made:
    """The VLAN interfaces that are ours. Every method blocks for a file or two."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def remember(self, name: str, index: int) -> None:
        """The link of this name and index is ours; when this returns that outlives a power cut."""
        data = msgspec.json.encode(_Mark(index, boot_id()))
        write_synced(self._folder / f"{name}{_SUFFIX}", data, os.urandom(4).hex())

    def forget(self, name: str, index: int | None = None) -> None:
        """The link of this name, and of this index where one is given, is gone or is not ours: one
        that was made under the name meanwhile stays ours."""
        if index is None or self.all().get(name, index) == index:
            with contextlib.suppress(FileNotFoundError):
                (self._folder / f"{name}{_SUFFIX}").unlink()

    def all(self) -> dict[str, int]:
        """The indices by name of what was made since this machine started."""
        try:
            paths = list(self._folder.iterdir())
        except FileNotFoundError:
            return {}
        found = {}
        for path in paths:
            if path.suffix != _SUFFIX:
                continue
            # A file that cannot be read makes nothing ours.
            with contextlib.suppress(FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
                mark = msgspec.json.decode(path.read_bytes(), type=_Mark)
                if mark.boot == boot_id():
                    found[path.name.removesuffix(_SUFFIX)] = mark.index
        return found
