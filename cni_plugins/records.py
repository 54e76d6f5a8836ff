"""Attachment records: what a node knows of each of its pods' interfaces, safe across crashes.

One file for each attachment in STATE_DIR/attachments, written to a temporary file, synced and
renamed. What changes is a new line at its end, synced too: the last line that is whole counts. A
record is there before the server is asked for anything and goes when nothing is left to take back,
so DEL without `prevResult`, GC, repair and pending releases all live from these files.
STATE_DIR/mappings keeps each network's slot mapping, so that an answer that would move addresses
is noticed. STATE_DIR/since.json says from which revision of the cluster's state on the records are
complete. STATE_DIR/made says which VLAN interfaces are ours.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from pathlib import Path
from typing import Final, Literal
from urllib.parse import unquote_to_bytes

import msgspec

from cni_plugins.answers import INCONSISTENT
from cni_plugins.made import Made
from cni_plugins.places import Place, Places
from cni_plugins.protocol import CniError
from cni_plugins.results import Result
from netspace.disk import append_synced, half_of, read_whole, remove, write_synced
from netspace.messages import Allocation, NetworkView, Pod

logger = logging.getLogger(__name__)

_SAFE: Final = re.compile(rb"[A-Za-z0-9_.-]")
_SUFFIX: Final = ".json"
_HALF: Final = half_of(_SUFFIX)
_BROKEN: Final = ".broken"
_MAX_BROKEN: Final = 1000
_MOST_LINES: Final = 16
"""Of a record's file, before it is written anew."""

Plugin = Literal["netspace", "netspace-ipam"]
State = Literal["adding", "held", "releasing"]


class Key(msgspec.Struct, frozen=True):
    """One interface of one sandbox; its text is the name of the record's file and lock. Container
    ids have no '@' in them, and whatever else is unusual in an interface's name is in hexadecimal,
    so two keys never share a file."""

    container: str
    ifname: str

    def __str__(self) -> str:
        if self.ifname.isascii() and self.ifname.isalnum():
            return f"{self.container}@{self.ifname}"
        ifname = self.ifname.encode()
        quoted = b"".join(
            part if _SAFE.match(part) else b"%%%02x" % part[0]
            for part in (ifname[at : at + 1] for at in range(len(ifname)))
        )
        return f"{self.container}@{quoted.decode()}"


class Record(msgspec.Struct, kw_only=True):
    """One attachment.

    `state`: `adding` until ADD has answered, then `held`; `releasing` when the interface is to go
    or gone and the address may still be held. `plugin`: whose attachment it is (`netspace` makes an
    interface, `netspace-ipam` only holds the address). `network` is the CNI network's name, `ipam`
    its IPAM plugin. `claim` is None where that is none of ours, and once the server has taken
    the slot back; `allocation` is None before the server has answered. `result` is what ADD
    answered. `mac`, `master`, `vlan`, `mode` and `mtu` are enough to build the interface again,
    in the namespace that `sandbox` tells from all others (the path may be another's by now), and
    `guard` says whether it is to send under its own addresses only.
    `fenced`: why the interface must stay down, empty where it need not.
    """

    state: State
    plugin: Plugin
    network: str
    ipam: str
    cluster: str
    node: str
    container: str
    ifname: str
    netns: str
    pod: Pod
    claim: str | None = None
    allocation: Allocation | None = None
    mac: str = ""
    master: str = ""
    vlan: int | None = None
    mode: str = ""
    mtu: int = 0
    in_container: bool = False
    conflict: bool = False
    guard: bool = True
    sandbox: str = ""
    fenced: str = ""
    result: Result | None = None

    @property
    def key(self) -> Key:
        return Key(self.container, self.ifname)

    @property
    def pending(self) -> bool:
        """Whether an interface or a slot of it may be left that is to be taken back."""
        return self.state == "releasing"


class Records:
    """The records of one node below its state folder. Every method blocks for a file or two."""

    def __init__(self, state_dir: Path) -> None:
        self.folder = state_dir
        self._attachments = state_dir / "attachments"
        self._mappings = state_dir / "mappings"
        self._since = state_dir / "since.json"
        self.lock_file = state_dir / "lock"
        self.made = Made(state_dir / "made")
        self._places = Places(self._attachments, _SUFFIX, self._read, _place)
        self._agreed: dict[str, list[str | None]] = {}
        self._lines: dict[str, int] = {}

    def load(self, key: Key) -> Record | None:
        """The attachment's record; None where there is none, or none that can be read: that one is
        set aside, with a line in the log."""
        return self._read(self._file(key))

    def there(self, key: Key) -> bool:
        """Whether the attachment has a record, which may be one that cannot be read."""
        return Path(self._file(key)).exists()

    def all(self) -> list[Record]:
        """Every record that can be read, in no particular order. They are kept in memory, and not
        to be changed: the first time every file is read, after that what has changed."""
        return self._places.all()

    def at(self, place: Place) -> list[Record]:
        """The same of one place of a pod."""
        return self._places.at(place)

    def save(self, record: Record) -> None:
        """Writes the record; when this returns it outlives a power cut."""
        path, data = self._file(record.key), msgspec.json.encode(record)
        # Only a file whose name is known to be synced is added to: that takes half as long.
        lines = self._lines.pop(path, _MOST_LINES)
        if lines < _MOST_LINES:
            with contextlib.suppress(FileNotFoundError):
                append_synced(path, b"\n" + data)
                self._lines[path] = lines + 1
                return
        write_synced(path, data)
        self._lines[path] = 1

    def delete(self, key: Key) -> None:
        """Takes the record away, and what somebody who was killed had written of it; nothing
        happens where there is none. Whoever calls this is alone at work on the attachment."""
        path = self._file(key)
        self._lines.pop(path, None)
        remove(path)
        remove(half_of(path))

    def half_written(self) -> list[tuple[str, Path]]:
        """Records that somebody is writing, or was when it was killed, each with its key's text."""
        try:
            paths = list(self._attachments.iterdir())
        except FileNotFoundError:
            return []
        return [
            (path.name.removesuffix(_HALF), path) for path in paths if path.name.endswith(_HALF)
        ]

    def set_aside(self) -> list[Key]:
        """The attachments whose records could not be read; their interfaces may be there still."""
        try:
            names = [path.name for path in self._attachments.iterdir()]
        except FileNotFoundError:
            return []
        found = set()
        for name in names:
            key, broken, _ = name.partition(f"{_SUFFIX}{_BROKEN}")
            container, at, ifname = key.partition("@")
            if broken and at:
                found.add(Key(container, os.fsdecode(unquote_to_bytes(ifname))))
        return sorted(found, key=str)

    def since(self, present: int) -> int:
        """The revision of the cluster's state from which on the records are complete: that of the
        first call, which is `present`."""
        try:
            known: int = msgspec.json.decode(self._since.read_bytes(), type=int)
        except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
            write_synced(self._since, msgspec.json.encode(present))
            return present
        return known

    def keep_mapping(self, network: NetworkView) -> None:
        """Remembers the network's mapping. `CniError` 110 where it was another one before: the same
        network's slots must never be other addresses."""
        told = [network.ipv4, network.ipv6, network.mapping]
        if self._agreed.get(network.uid) == told:
            return
        path = self._mappings / f"{re.sub(r'[^A-Za-z0-9_-]', '_', network.uid)[:100]}{_SUFFIX}"
        try:
            known = msgspec.json.decode(path.read_bytes())
        except FileNotFoundError:
            known = None
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._set_aside(path)
            known = None
        if known is None:
            # Many attachments may see a network for the first time at once: all write the same.
            write_synced(path, msgspec.json.encode(told), os.urandom(4).hex())
        elif known != told:
            raise CniError(
                INCONSISTENT,
                "the IPAM server's answer contradicts an earlier one",
                f"network {network.name} ({network.uid}) was {known} on this node and is now "
                f"{told}: nothing was configured; if the state was restored from elsewhere, "
                f"drain the node and delete {path}",
            )
        self._agreed[network.uid] = told

    def _read(self, path: str) -> Record | None:
        try:
            data = read_whole(path)
        except FileNotFoundError:
            return None
        for line in reversed(data.split(b"\n")):
            # Its end may be what somebody had begun to write when it was killed.
            with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
                record = msgspec.json.decode(line, type=Record)
                if self._file(record.key) == path:
                    return record
        self._set_aside(Path(path))
        return None

    def _file(self, key: Key) -> str:
        return f"{self._attachments}/{key}{_SUFFIX}"

    def _set_aside(self, path: Path) -> None:
        for number in range(_MAX_BROKEN):
            aside = path.with_name(f"{path.name}{_BROKEN}{number or ''}")
            if not aside.exists() or number == _MAX_BROKEN - 1:
                with contextlib.suppress(FileNotFoundError):
                    path.rename(aside)
                logger.error(
                    "a record cannot be read, it was set aside", extra={"file": str(aside)}
                )
                return


def _place(record: Record) -> Place:
    return Place.of(record.cluster, record.pod, record.ifname)
