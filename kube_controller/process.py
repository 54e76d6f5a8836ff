"""The controller's process: it listens, waits for its turn, works, and leaves in good order."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from federation.client import Client as FederationClient
from ipam_server.client import Client
from kube_controller.config import ControllerConfig, KubernetesSection
from kube_controller.controller import Controller, Servers
from kube_controller.election import Election, Terms
from kube_controller.metrics import Metrics
from kube_controller.serving import LIMITS, Signs, make_application
from netspace.endpoints import Endpoint
from netspace.http_server import HttpServer
from netspace.kube_access import Access, from_kubeconfig, from_service_account
from netspace.kube_api import ApiError, KubeApi
from netspace.problems import Problem
from netspace.programs import until

log = logging.getLogger(__name__)

NAMESPACE: Final = "netspace-system"
"""The lease's, where neither the configuration nor the pod's service account names one."""
LOOK: Final = 5.0
"""Seconds between two looks at whether servers and API answer."""


async def run(config: ControllerConfig, environ: Mapping[str, str], stop: asyncio.Event) -> None:
    """Until `stop` is set. `Problem` where it cannot listen."""
    metrics = Metrics()
    api = KubeApi(lambda: access(config.kubernetes, environ), config.kubernetes.timeout)
    terms = _terms(config)
    election = Election(api, terms)
    async with AsyncExitStack() as clients:
        servers = Servers(None, None)
        if config.server is not None:
            section = config.server
            client = Client(section.endpoints, section.timeout, section.tls)
            servers = replace(servers, addresses=await clients.enter_async_context(client))
        if config.federation is not None:
            section = config.federation
            asked = FederationClient(section.endpoints, section.timeout, section.tls)
            servers = replace(servers, federation=await clients.enter_async_context(asked))
        looking = _Looking(config.cluster, servers, api)
        signs = Signs(metrics, lambda: election.leading, lambda: looking.why)
        http = HttpServer(make_application(signs), LIMITS)

        async def work() -> None:
            metrics.leading.set(1)
            try:
                await Controller(config, servers, api, metrics, terms.namespace).run()
            finally:
                metrics.leading.set(0)

        try:
            if config.listen is not None:
                await http.listen(Endpoint.parse(config.listen))
            log.info("started", extra={"cluster": config.cluster, "listen": config.listen})
            await until(
                stop,
                partial(log.info, "stopping"),
                election=election.run(work),
                looking=looking.run(),
            )
        finally:
            await http.stop()
            await api.close()
    log.info("stopped")


def access(section: KubernetesSection, environ: Mapping[str, str]) -> Access:
    """How the API is reached; `Problem` invalid."""
    if section.kubeconfig is not None:
        return from_kubeconfig(section.kubeconfig)
    return from_service_account(section.service_account, section.server, environ)


def _terms(config: ControllerConfig) -> Terms:
    election = config.election
    namespace = election.namespace or _own_namespace(config.kubernetes.service_account)
    # Two processes of one name are two.
    identity = f"{election.identity}_{secrets.token_hex(4)}"
    return Terms(namespace, election.lease, identity, election.duration, election.pause)


def _own_namespace(account: Path) -> str:
    try:
        return (account / "namespace").read_text().strip() or NAMESPACE
    except (OSError, UnicodeDecodeError):
        return NAMESPACE


class _Looking:
    """Whether the controller could work: `why` not, in words, or empty."""

    def __init__(self, cluster: str, servers: Servers, api: KubeApi) -> None:
        self._cluster, self._servers, self._api = cluster, servers, api
        self.why = "it has just started"

    async def run(self) -> None:
        said = self.why
        while True:
            self.why = await self._look()
            if self.why != said:
                if self.why:
                    log.warning("not ready, trying on", extra={"why": self.why})
                else:
                    log.info("ready")
            said = self.why
            await asyncio.sleep(LOOK)

    async def _look(self) -> str:
        try:
            if self._servers.addresses is not None:
                await self._servers.addresses.cluster(self._cluster)
            if self._servers.federation is not None:
                await self._servers.federation.federations(self._cluster)
            await self._api.get("/version", dict)
        except (Problem, ApiError) as error:
            return str(error)
        return ""
