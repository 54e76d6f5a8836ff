"""What Prometheus is told: requests by route, and what `families` makes of the clusters.

Nothing is asked for when it comes: the state is in memory, and what etcd and the other servers say
is as the server last heard when it looked whether it is ready, every other second.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from prometheus_client.core import Metric

from ipam_server import families
from ipam_server.families import Look
from netspace.http_metrics import CONTENT_TYPE as CONTENT_TYPE
from netspace.http_metrics import HttpMetrics

if TYPE_CHECKING:
    from ipam_server.directory import Directory
    from netspace.messages import Status

STALE: Final = 30.0
"""Seconds after which what was heard is told no longer: an old figure would look like a present
one."""


class Metrics(HttpMetrics):
    """The metrics of one server. `etcd_quota`: bytes that etcd may store, as configured."""

    def __init__(self) -> None:
        super().__init__()
        self.etcd_quota = 0
        self._look: Look | None = None
        self._looked = 0.0

    def looked(self, ready: bool, status: Status, directory: Directory) -> None:
        """Whether the server was found ready, and by what."""
        own = (service.local_status() for service in directory.services)
        revisions = {cluster.name: cluster.revision for cluster in own}
        lag = families.lags(status, revisions)
        self._look = Look(ready, lag, directory.members, self.etcd_quota)
        self._looked = time.monotonic()

    async def exposition(self, directory: Directory | None) -> bytes:
        """The text format."""
        return await self.told(self._collect(directory))

    def _collect(self, directory: Directory | None) -> Iterator[Metric]:
        if self._look is not None and time.monotonic() - self._looked < STALE:
            yield from families.heard(self._look)
        if directory is not None:
            yield from families.clusters(directory.services)
