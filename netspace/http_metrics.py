"""What Prometheus is told of an HTTP server: its process, its requests, its connections, its
certificate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client import ProcessCollector
from prometheus_client.core import CounterMetricFamily as Counter
from prometheus_client.core import GaugeMetricFamily as Gauge
from prometheus_client.core import HistogramMetricFamily as Histogram
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from netspace import __version__
from netspace.tally import SECONDS, Tally

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4


class HttpMetrics:
    """Of one server. `observe` is told of every request."""

    def __init__(self) -> None:
        self._process = ProcessCollector(namespace="netspace", registry=None)
        self._requests: dict[tuple[str, str, int], int] = {}
        self._seconds: dict[tuple[str, str], Tally] = {}
        self._problems: dict[tuple[str, str, str], int] = {}
        self._cut: dict[str, int] = {}
        self._expires: float | None = None

    def observe(self, method: str, route: str, status: int, seconds: float, code: str) -> None:
        """A request was answered; `code` is its problem's, or empty."""
        key, row = (method, route, status), (method, route)
        self._requests[key] = self._requests.get(key, 0) + 1
        tally = self._seconds.get(row)
        if tally is None:
            tally = self._seconds[row] = Tally(SECONDS)
        tally.add(seconds)
        if code:
            problem = (method, route, code)
            self._problems[problem] = self._problems.get(problem, 0) + 1

    def cut(self, why: str) -> None:
        """A connection was turned away or cut off."""
        self._cut[why] = self._cut.get(why, 0) + 1

    def certificate_expires(self, at: float) -> None:
        """When the server's certificate expires, as a POSIX time."""
        self._expires = at

    async def told(self, more: Iterable[Metric]) -> bytes:
        """The text format, `more` at its end. It is written in a thread: that takes most of the
        time, in which requests go on."""
        collected = _Collected([*self._own(), *more])
        return await asyncio.to_thread(generate_latest, collected)

    def _own(self) -> Iterator[Metric]:
        version = Gauge("netspace_build_info", "1, with the version that runs.", labels=["version"])
        version.add_metric([__version__], 1)
        yield version
        yield from self._process.collect()
        requests = Counter(
            "netspace_http_requests", "Requests answered.", labels=["method", "route", "status"]
        )
        for (method, route, status), count in self._requests.items():
            requests.add_metric([method, route, str(status)], count)
        seconds = Histogram(
            "netspace_http_request_duration_seconds",
            "Time from a request's header to its answer.",
            labels=["method", "route"],
        )
        for row, tally in self._seconds.items():
            seconds.add_metric(row, tally.buckets(), tally.sum)
        problems = Counter(
            "netspace_http_problems",
            "Requests that were answered with a problem, by its code.",
            labels=["method", "route", "code"],
        )
        for problem, count in self._problems.items():
            problems.add_metric(problem, count)
        cut = Counter(
            "netspace_http_connections_cut",
            "Connections turned away (full), without a handshake, or cut off (slow).",
            labels=["why"],
        )
        for why, count in self._cut.items():
            cut.add_metric([why], count)
        yield from (requests, seconds, problems, cut)
        if self._expires is not None:
            yield Gauge(
                "netspace_tls_certificate_expires_timestamp_seconds",
                "When the server's certificate expires.",
                value=self._expires,
            )


class _Collected:
    """What was collected, in the form in which the library takes it."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        return self._metrics
