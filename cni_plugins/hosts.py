"""The hosts that operations run on: put together from a node's configuration, and kept.

An executable makes one for its call. The agent keeps one for each configuration file that is asked
for, with its client's connections, and makes it anew when the file has changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Final

from cni_plugins import node_config
from cni_plugins.attachment import Host, Pods
from cni_plugins.node_config import NodeConfig
from cni_plugins.records import Records
from cni_plugins.setting import NO_CLUSTER
from cni_plugins.status import TIMEOUT
from cni_plugins.wiring import Wiring
from ipam_server.client import Client

if TYPE_CHECKING:
    from cni_plugins.kubernetes.api import KubeApi

MOST: Final = 16
"""Configurations that are kept at once, those in use not counted."""

FRESH: Final = 1.0
"""Seconds for which a server that was ready counts as ready. Asking it costs more than all the rest
of STATUS, since it asks the state store."""

Stamp = tuple[int, int, int]


def client_of(node: NodeConfig, timeout: float | None = None) -> Client:
    """A client of the node's servers; `timeout`, in seconds, stands in for the configured one."""
    server = node.server
    return Client(server.endpoints, server.timeout if timeout is None else timeout, server.tls())


def api_of(node: NodeConfig, environ: Mapping[str, str]) -> KubeApi | None:
    """Kubernetes' API; None where the configuration has no section for it."""
    if node.kubernetes is None:
        return None
    from cni_plugins.kubernetes.api import KubeApi  # most nodes' runtimes pass annotations

    return KubeApi(node.kubernetes, environ)


def pods_of(api: KubeApi | None) -> Pods | None:
    """Where annotations are to be had that the runtime does not pass."""
    if api is None:
        return None
    from cni_plugins.kubernetes.pods import ApiPods

    return ApiPods(api)


def host_on(
    node: NodeConfig,
    client: Client,
    wiring: Wiring,
    environ: Mapping[str, str],
    pods: Pods | None = None,
) -> Host:
    """The host of this configuration; `environ` is what other IPAM plugins are given."""
    return Host(
        cluster=node.cluster,
        node=node.node_name,
        records=Records(Path(node.state_dir)),
        client=client,
        wiring=wiring,
        environ=dict(environ),
        pods=pods,
        handover=Path(node.handover),
    )


class Kept:
    """What was made of one configuration. `asking` is a client for questions that must be answered
    soon, for STATUS; `api` is Kubernetes'."""

    def __init__(self, config: NodeConfig, wiring: Wiring, environ: Mapping[str, str]) -> None:
        self.config = config
        self.client = client_of(config)
        self.asking = client_of(config, TIMEOUT * len(config.server.endpoints))
        self.api = api_of(config, environ)
        self.host = host_on(config, self.client, wiring, environ, pods_of(self.api))
        self.users = 0
        self.retired = False
        self._ready_until = 0.0

    async def ready(self) -> None:
        """Returns where a server can serve, raises `Problem` why none can. That one can is believed
        for `FRESH` seconds, that none can is not: an ADD could meet either just as well."""
        now = monotonic()
        if now >= self._ready_until:
            await self.asking.ready()
            self._ready_until = now + FRESH

    async def close(self) -> None:
        await self.client.close()
        await self.asking.close()
        if self.api is not None:
            await self.api.close()


class Hosts:
    """The hosts of one process, by the path of their configuration. `environ` is the process's,
    `made` may change every host that is made."""

    def __init__(
        self,
        wiring: Wiring,
        environ: Mapping[str, str],
        made: Callable[[Host], Host] = lambda host: host,
    ) -> None:
        self._wiring, self._environ, self._made = wiring, environ, made
        self._kept: dict[str, tuple[Stamp | None, Kept]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    @contextmanager
    def using(self, path: str) -> Iterator[Kept]:
        """The host of the configuration at the path as it is now; with an empty path that of a node
        in no cluster. Raises `Problem` with the file's faults."""
        kept = self._current(path)
        kept.users += 1
        try:
            yield kept
        finally:
            kept.users -= 1
            self._drop_retired(kept)

    def reload(self) -> None:
        """Has every configuration read anew when it is asked for."""
        for path in [*self._kept]:
            self._retire(path)

    async def close(self) -> None:
        """Closes all connections."""
        self.reload()
        await asyncio.gather(*self._closing)

    def _current(self, path: str) -> Kept:
        stamp = _stamp(path)
        known = self._kept.pop(path, None)
        if known is not None and known[0] == stamp:
            self._kept[path] = known  # the last one is the last used
            return known[1]
        if known is not None:
            known[1].retired = True
            self._drop_retired(known[1])
        config = node_config.load(Path(path)) if path else NodeConfig(cluster=NO_CLUSTER)
        kept = Kept(config, self._wiring, self._environ)
        kept.host = self._made(kept.host)
        self._kept[path] = stamp, kept
        for idle in [each for each, (_, other) in self._kept.items() if not other.users][:-MOST]:
            self._retire(idle)
        return kept

    def _retire(self, path: str) -> None:
        _, kept = self._kept.pop(path)
        kept.retired = True
        self._drop_retired(kept)

    def _drop_retired(self, kept: Kept) -> None:
        if kept.retired and not kept.users:
            task = asyncio.ensure_future(kept.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


_path = lru_cache(MOST)(Path)
"""Making one takes longer than looking at it."""


def _stamp(path: str) -> Stamp | None:
    """What changes when a file is written or replaced; None where there is none to be seen."""
    try:
        found = _path(path).stat()
    except (OSError, ValueError):
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
