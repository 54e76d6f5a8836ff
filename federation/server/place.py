"""What all parts of one federation server share: its configuration, the state, its files, and the
other servers of its cluster.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from federation.server.config import FederationConfig
from federation.server.files import Folder
from federation.server.keys import Keys
from federation.server.mirror import Mirror
from federation.server.state import FederationRecord, State
from netspace.http_client import HttpClient
from netspace.messages.federation import Member
from netspace.problems import Problem
from statestore import Store


@dataclass
class Place:
    """One server's."""

    config: FederationConfig
    store: Store
    keys: Keys
    mirror: Mirror
    folder: Folder
    _clients: dict[str, HttpClient] = field(default_factory=dict)

    @property
    def cluster(self) -> str:
        return self.config.cluster

    @property
    def state(self) -> State:
        """The state as this server has it; `Problem` until it was read."""
        if not self.mirror.known.is_set():
            raise Problem(
                "state-unavailable",
                "the federations have not been read from etcd yet",
                retry_after=1,
            )
        return self.mirror.state

    def client(self, endpoint: str) -> HttpClient:
        """To another server of the cluster."""
        if endpoint not in self._clients:
            self._clients[endpoint] = HttpClient([endpoint], tls=self.config.own_tls)
        return self._clients[endpoint]

    async def close(self) -> None:
        for client in self._clients.values():
            await client.close()


def record_of(state: State, name: str) -> FederationRecord:
    """A federation of this cluster's; `Problem` not-found."""
    record = state.federations.get(name)
    if record is None:
        raise Problem(
            "not-found",
            f"this cluster is in no federation {name}",
            do="look what there is with netspacectl federation list",
        )
    return record


def member_of(record: FederationRecord, cluster: str) -> Member | None:
    return next((each for each in record.federation.members if each.cluster == cluster), None)
