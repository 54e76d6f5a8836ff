"""Rounds like those of networks and pools, but with the federation server: it is brought to what
Federations declare, and they are told how their federations are.

They are apart, so that neither server waits for the other.
"""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final

from federation.client import Client
from kube_controller import declared_federation, statuses_federation
from kube_controller.declared_federation import Join, Step, TokenSource
from kube_controller.kinds import FEDERATIONS, SECRETS, Custom, Secret
from kube_controller.metrics import Metrics
from kube_controller.objects import Attempts, hold, let_go
from kube_controller.statuses_federation import Seen
from kube_controller.telling import Teller
from netspace.kube_api import ApiError, KubeApi
from netspace.messages.federating import ChangeFederation, JoinFederation, NewFederation
from netspace.problems import Problem, invalid

log = logging.getLogger(__name__)

UNCONFIGURED: Final = "NotConfigured"
_PLURAL: Final = FEDERATIONS.plural

Known = Callable[[], Mapping[str, Custom]]


class Federations:
    """`await round()` whenever something changed, and every few seconds. `client` None: no
    federation server is configured. `namespace`: where tokens are. A `Problem` is the server's as
    a whole; an object's own ends in its status."""

    def __init__(
        self,
        client: Client | None,
        cluster: str,
        api: KubeApi,
        known: Known,
        namespace: str,
        metrics: Metrics,
    ) -> None:
        self._client, self._cluster, self._api, self._known = client, cluster, api, known
        self._namespace, self._metrics = namespace, metrics
        self._attempts = Attempts(metrics)
        self._teller = Teller(api, metrics)

    async def round(self) -> None:
        customs = dict(self._known())
        if self._client is None:
            await self._refuse(customs)
            return
        if not customs:
            return
        client = self._client
        try:
            found = await self._read(client)
        except Problem as problem:
            await self._unknown(customs, problem)
            raise
        changed = False
        for name, custom in sorted(customs.items()):
            work = self._end if custom.going else self._bring
            changed |= await work(client, name, custom, found.get(name))
        self._attempts.forget_but(customs)
        if changed:
            found = await self._read(client)
        problems = self._attempts.problems
        now = datetime.now(UTC)
        told = {
            name: statuses_federation.status(
                custom, found.get(name), problems.get((_PLURAL, name)), now
            )
            for name, custom in customs.items()
        }
        await self._teller.write(FEDERATIONS, customs, told)

    def next_due(self) -> float:
        """Seconds until the next object that was refused is to be tried again."""
        return self._attempts.next_due()

    async def _read(self, client: Client) -> dict[str, Seen]:
        details = await client.federations(self._cluster)
        status = await client.status(self._cluster) if details else None
        heard = {each.name: each for each in status.federations} if status is not None else {}
        return {each.name: Seen(each, heard.get(each.name)) for each in details}

    async def _bring(self, client: Client, name: str, custom: Custom, seen: Seen | None) -> bool:
        """Whether something was asked for."""
        asked = False
        details = None if seen is None else seen.details

        async def bring() -> None:
            nonlocal asked
            wanted = declared_federation.federation(custom)
            step = declared_federation.step(name, wanted, details)
            # What is refused by then is nobody's to end with this object.
            await hold(self._api, FEDERATIONS, custom)
            if step is not None:
                asked = True
                await self._ask(client, name, step)
                self._did(type(step).__name__, name)

        await self._attempts.attempt(FEDERATIONS, custom, details, bring)
        return asked

    async def _ask(self, client: Client, name: str, step: Step) -> None:
        match step:
            case NewFederation():
                await client.found(self._cluster, step)
            case ChangeFederation():
                await client.change(self._cluster, name, step)
            case Join(token=source, local=local):
                token = await self._token(source)
                join = JoinFederation(token=token, name=name, local=local)
                await client.join(self._cluster, join)

    async def _token(self, source: TokenSource) -> str:
        where = f"{self._namespace}/{source.secret}"
        try:
            secret = await self._api.get(SECRETS.within(self._namespace, source.secret), Secret)
        except ApiError as error:
            if error.status == 404:
                raise Problem(
                    "not-found",
                    f"there is no Secret {where}",
                    do="make it of a token of the founder's: netspacectl federation token",
                ) from None
            if error.status == 403:
                raise Problem(
                    "forbidden",
                    f"the controller may not read Secret {where}",
                    do=f"name it {declared_federation.SECRET}, or allow it by a Role",
                ) from None
            raise
        try:
            return base64.b64decode((secret.data or {})[source.key], validate=True).decode().strip()
        except KeyError:
            why = f"Secret {where} has no key {source.key}"
        except (binascii.Error, UnicodeDecodeError):
            why = f"key {source.key} of Secret {where} is no text"
        raise invalid("spec.token", why)

    async def _end(self, client: Client, name: str, custom: Custom, seen: Seen | None) -> bool:
        """Whether something was asked for. The object goes once this cluster is in no federation of
        its name."""
        asked = False
        if not custom.held:
            return asked

        async def end() -> None:
            nonlocal asked
            if seen is None:
                return
            asked = True
            leave = client.delete if seen.details.founded else client.leave
            try:
                await leave(self._cluster, name)
            except Problem as problem:
                if problem.code != "not-found":
                    raise
            self._did("delete" if seen.details.founded else "leave", name)

        # Others leave without a word to us: so there is no waiting for a change.
        if await self._attempts.attempt(FEDERATIONS, custom, None, end):
            await let_go(self._teller, FEDERATIONS, custom)
        return asked

    async def _refuse(self, customs: Mapping[str, Custom]) -> None:
        problem = Problem(
            "unavailable",
            "this controller asks no federation server",
            do="name it in the section `federation` of its configuration",
        )
        now = datetime.now(UTC)
        told = {
            name: statuses_federation.refused(custom, problem, UNCONFIGURED, now)
            for name, custom in customs.items()
        }
        await self._teller.write(FEDERATIONS, customs, told)

    async def _unknown(self, customs: Mapping[str, Custom], problem: Problem) -> None:
        now = datetime.now(UTC)
        told = {
            name: statuses_federation.unknown(custom, problem, now)
            for name, custom in customs.items()
        }
        await self._teller.write(FEDERATIONS, customs, told)

    def _did(self, step: str, name: str) -> None:
        self._metrics.changes.labels("federation").inc()
        log.info("asked the server", extra={"step": step, "kind": "federation", "object": name})
