"""Where a cluster's federations lie in the state."""

from __future__ import annotations

from typing import Final

BASE: Final = b"/netspace/v1/federation/"


class Keys:
    """Below `prefix`: `leader`; `servers/NAME`, those that are there; `serial`, written with every
    change; `epoch`; `nodes`; and by federation `federations/F`, `tokens/F/HASH`, `own/F`,
    `available/F`, and of each peer `peers/F/C`, `faults/F/C`, `contacts/F/C`."""

    def __init__(self, cluster: str) -> None:
        self.prefix = BASE + cluster.encode() + b"/"
        self.leader = self.prefix + b"leader"
        self.serial = self.prefix + b"serial"
        self.epoch = self.prefix + b"epoch"
        self.nodes = self.prefix + b"nodes"
        self.servers = self.prefix + b"servers/"

    def server(self, name: str) -> bytes:
        return self.servers + name.encode()

    def federation(self, name: str) -> bytes:
        return self._of("federations", name)

    def token(self, federation: str, digest: str) -> bytes:
        return self._of("tokens", federation, digest)

    def own(self, federation: str) -> bytes:
        return self._of("own", federation)

    def available(self, federation: str) -> bytes:
        return self._of("available", federation)

    def peer(self, federation: str, cluster: str) -> bytes:
        return self._of("peers", federation, cluster)

    def fault(self, federation: str, cluster: str) -> bytes:
        return self._of("faults", federation, cluster)

    def contact(self, federation: str, cluster: str) -> bytes:
        return self._of("contacts", federation, cluster)

    def parts(self, key: bytes) -> tuple[str, ...]:
        """What stands behind the prefix, between the slashes."""
        return tuple(key[len(self.prefix) :].decode().split("/"))

    def _of(self, *parts: str) -> bytes:
        return self.prefix + "/".join(parts).encode()
