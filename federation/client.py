"""The client of a cluster's federation server: for node agents, controllers and people."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import msgspec

from netspace.asking import Asking, path, query, unexpected
from netspace.messages.federating import (
    Certificate,
    CertificateRequest,
    ChangeFederation,
    FederationDetails,
    FederationsStatus,
    JoinFederation,
    NewFederation,
    NewToken,
    ServedCluster,
    Token,
)
from netspace.messages.federation import NodeWord, View
from netspace.messages.federation_trials import NewTrial, NodeTrial, Orders, TrialReport
from netspace.messages.terms import Items
from netspace.tls import Tls

PATIENCE = 20.0
"""Seconds that a server waits at most until it says that nothing is new."""

MARGIN = 10.0
"""Seconds more than that until a server counts as silent."""


class Client(Asking):
    """Asks any one of the federation servers of a cluster; they know the same.

    `endpoints` as `netspace.endpoints` reads them; `timeout` in seconds for a whole request but
    `view`, which waits by itself. Every method raises `Problem`. Close it, or use it in
    `async with`. Not for several event loops.
    """

    def __init__(
        self, endpoints: Sequence[str], timeout: float = 10.0, tls: Tls | None = None
    ) -> None:
        super().__init__(endpoints, timeout, tls)
        # Each endpoint in turn has its share of the time, and may use all of its own patience.
        self._waiting = _Waiting(endpoints, (PATIENCE + MARGIN) * len(endpoints), tls)

    async def close(self) -> None:
        await super().close()
        await self._waiting.close()

    # What nodes ask

    async def view(self, cluster: str, after: int = 0, wait: float = PATIENCE) -> View:
        """All federations of the cluster, as soon as there is a view with a later number than
        `after`; else, `wait` seconds later, the one there is: its number is then not a later one,
        and nothing in it is new but when other members were heard of."""
        target = path("clusters", cluster, "federation-view", "packed")
        asked = query(after=str(after), wait=f"{wait:g}")
        return await self._waiting.view(target + asked)

    async def say(self, cluster: str, word: NodeWord) -> Orders:
        """What a node says of itself; to be said again within seconds, and at once when it
        changes. The answer says what the node is to try."""
        target = path("clusters", cluster, "nodes", word.node.name, "word")
        return await self._ask("PUT", target, Orders, word, repeat=True)

    async def tell_trial(self, cluster: str, node: str, trial: str, found: NodeTrial) -> None:
        """What a node found in a trial that it was asked for."""
        target = path("clusters", cluster, "nodes", node, "trials", trial)
        await self._tell("PUT", target, found, repeat=True)

    async def forget_node(self, cluster: str, node: str) -> None:
        """The node is no part of any federation any more, until it speaks again."""
        await self._tell("DELETE", path("clusters", cluster, "nodes", node, "word"))

    async def certify(self, cluster: str, federation: str, node: str, csr: str) -> Certificate:
        """A certificate for the node's key. `csr`: PKCS 10, PEM, its common name the node's, its
        alternative names the node's name and addresses."""
        target = path("clusters", cluster, "federations", federation, "nodes", node, "certificate")
        body = CertificateRequest(csr=csr)
        return await self._ask("POST", target, Certificate, body, repeat=True)

    # What people and controllers ask

    async def cluster(self) -> ServedCluster:
        """The cluster whose servers these are."""
        return await self._ask("GET", path("cluster"), ServedCluster)

    async def federations(self, cluster: str) -> list[FederationDetails]:
        target = path("clusters", cluster, "federations")
        return (await self._ask("GET", target, Items[FederationDetails])).items

    async def federation(self, cluster: str, name: str) -> FederationDetails:
        return await self._ask("GET", _federation(cluster, name), FederationDetails)

    async def found(self, cluster: str, new: NewFederation) -> FederationDetails:
        """Makes a federation, whose only member is the cluster."""
        target = path("clusters", cluster, "federations")
        return await self._ask("POST", target, FederationDetails, new)

    async def join(self, cluster: str, join: JoinFederation) -> FederationDetails:
        """Makes the cluster a member of the federation that the token is of. After an answer that
        was lost the same may be asked once more."""
        target = path("clusters", cluster, "federation-joins")
        return await self._ask("POST", target, FederationDetails, join, repeat=True)

    async def change(self, cluster: str, name: str, change: ChangeFederation) -> FederationDetails:
        return await self._ask(
            "PATCH", _federation(cluster, name), FederationDetails, change, repeat=True
        )

    async def token(self, cluster: str, name: str, lifetime: float) -> Token:
        """A token with which one cluster can join within `lifetime` seconds; the founder's."""
        target = path("clusters", cluster, "federations", name, "tokens")
        return await self._ask("POST", target, Token, NewToken(lifetime=lifetime))

    async def remove_member(self, cluster: str, name: str, member: str) -> FederationDetails:
        """Puts another cluster out; the founder's."""
        target = path("clusters", cluster, "federations", name, "members", member)
        return await self._ask("DELETE", target, FederationDetails, repeat=True)

    async def leave(self, cluster: str, name: str, *, force: bool = False) -> None:
        """The cluster is no member any more. `force`: even if the founder cannot be told."""
        target = path("clusters", cluster, "federations", name, "membership")
        await self._tell("DELETE", target + query(force="true" if force else None))

    async def delete(self, cluster: str, name: str, *, force: bool = False) -> None:
        """Ends a federation that the cluster has founded. `force`: even if it has other members."""
        target = _federation(cluster, name) + query(force="true" if force else None)
        await self._tell("DELETE", target)

    async def begin_trial(self, cluster: str, name: str, new: NewTrial) -> TrialReport:
        """Has nodes send real traffic to another member, and that one's nodes back; one at a time
        to each. It is over within some ten seconds: ask for it by its `id`."""
        return await self._ask("POST", _federation(cluster, name) + "/trials", TrialReport, new)

    async def trial(self, cluster: str, name: str, trial: str) -> TrialReport:
        """A trial as it is now; what is over is kept for a minute."""
        target = path("clusters", cluster, "federations", name, "trials", trial)
        return await self._ask("GET", target, TrialReport)

    async def status(self, cluster: str) -> FederationsStatus:
        target = path("clusters", cluster, "federation-status")
        return await self._ask("GET", target, FederationsStatus)

    async def ready(self) -> None:
        """`Problem` where the server is not ready."""
        await self._http.request("GET", "/readyz")

    async def _tell(
        self, method: str, target: str, body: msgspec.Struct | None = None, *, repeat: bool = False
    ) -> None:
        data = b"" if body is None else msgspec.json.encode(body)
        await self._http.request(method, target, data, repeat=repeat)


class _Waiting(Asking):
    """Asks what is answered when there is something new."""

    async def view(self, target: str) -> View:
        answer = await self._http.request("GET", target)
        try:
            return msgspec.json.decode(zlib.decompress(answer), type=View)
        except (zlib.error, msgspec.DecodeError) as error:
            raise unexpected("GET federation-view", error) from None


def _federation(cluster: str, name: str) -> str:
    return path("clusters", cluster, "federations", name)
