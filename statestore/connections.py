"""Connections to etcd's endpoints: one gRPC channel each, and which of them is asked.

The endpoint that answered last is asked first; one that fails is passed over for the next.
Calls go through `call`, which turns gRPC's errors into `statestore.errors` and tries again,
within the caller's time, what surely was not carried out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

import grpc
from google.protobuf.message import Message
from grpc import ChannelConnectivity, StatusCode, aio
from pyetcd.etcdrpc import rpc_pb2_grpc as rpc

from statestore.errors import BadRequest, OutcomeUnknown, StoreError, Unavailable, classify

log = logging.getLogger(__name__)
T = TypeVar("T", covariant=True)

# A member cut off from its cluster then refuses at once, before it proposes anything.
REQUIRE_LEADER = (("hasleader", "true"),)

CONNECT = 1.0
"""Seconds one endpoint may take to connect while another could be asked instead."""

CLOSING = 10.0
"""Seconds for calls under way over a connection that is given up."""

PAUSE = 0.05
"""Seconds between two rounds over all endpoints."""

CHANNEL_OPTIONS = [
    # gRPC's own reconnect backoff grows to 120 s.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2000),
    ("grpc.max_reconnect_backoff_ms", 500),
    # etcd hangs up on clients that ping more often than each 5 s, or without a call under way.
    ("grpc.keepalive_time_ms", 6000),
    ("grpc.keepalive_timeout_ms", 2000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),
    # Watches and pages are as large as they are; requests are limited by etcd.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # etcd is never behind a web proxy, and no other store's dead connection is shared.
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
]


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files: the authority that etcd's certificate must come from, and ours, if it asks."""

    ca: Path
    cert: Path | None = None
    key: Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files. Raises `BadRequest` naming the one that cannot be read."""
        if (self.cert is None) != (self.key is None):
            raise BadRequest(
                "TLS",
                why="a client certificate needs its key, and a key its certificate",
                advice="name both files or neither",
            )
        return grpc.ssl_channel_credentials(
            _read(self.ca),
            _read(self.key) if self.key else None,
            _read(self.cert) if self.cert else None,
        )

    def stamp(self) -> tuple[tuple[int, int, int], ...]:
        """What tells these files from those that are put in their place."""
        found = []
        for path in (self.ca, self.cert, self.key):
            with contextlib.suppress(OSError):
                status = path.stat() if path else None
                if status is not None:
                    found.append((status.st_mtime_ns, status.st_ino, status.st_size))
        return tuple(found)


class Unary(Protocol[T]):
    """A generated stub's method with one request and one answer."""

    def __call__(self, request: Message, *, timeout: float, metadata: object) -> Awaitable[T]: ...


class Endpoint:
    """One etcd endpoint: its URL, its channel and the generated stubs over it."""

    def __init__(self, url: str, tls: Tls | None) -> None:
        self.url = url
        self.stamp = tls.stamp() if tls else ()
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.path.strip("/"):
            raise BadRequest("connecting", url, "not an endpoint", "write http(s)://HOST:PORT")
        if parts.scheme == "http":
            self.channel = aio.insecure_channel(parts.netloc, CHANNEL_OPTIONS)
        elif tls is None:
            raise BadRequest(
                "connecting",
                url,
                "https without an authority to check it against",
                "configure TLS: at least the CA's file",
            )
        else:
            self.channel = aio.secure_channel(parts.netloc, tls.credentials(), CHANNEL_OPTIONS)
        self.kv = rpc.KVStub(self.channel)
        self.watch = rpc.WatchStub(self.channel)
        self.lease = rpc.LeaseStub(self.channel)
        self.maintenance = rpc.MaintenanceStub(self.channel)

    async def settled(self, seconds: float) -> bool:
        """Wait while the channel connects; False: it did not within this time, nothing was sent.

        A channel whose last attempt failed counts as settled: a call over it fails at once, with
        the reason, before anything is sent.
        """
        state = self.channel.get_state(try_to_connect=True)
        deadline = time.monotonic() + seconds
        while state in (ChannelConnectivity.IDLE, ChannelConnectivity.CONNECTING):
            try:
                async with asyncio.timeout_at(
                    asyncio.get_running_loop().time() + deadline - time.monotonic()
                ):
                    await self.channel.wait_for_state_change(state)
            except TimeoutError:
                return False
            state = self.channel.get_state(try_to_connect=True)
        return True


class Header(Protocol):
    """What each of etcd's answers says of the cluster."""

    @property
    def cluster_id(self) -> int: ...
    @property
    def revision(self) -> int: ...


class Connections:
    """All endpoints of one etcd cluster, in the order in which they are asked.

    `revision` is the latest that etcd has told of. `history` counts how often etcd was found to
    have another history than before: its data were restored from a snapshot. What was read or
    written in an earlier one may be there no more, and its revisions mean something else.
    """

    def __init__(self, urls: Sequence[str], tls: Tls | None) -> None:
        if not urls:
            raise BadRequest(
                "connecting",
                why="no endpoint given",
                advice="name at least one: http(s)://HOST:PORT",
            )
        self._tls = tls
        self.endpoints = [Endpoint(url, tls) for url in urls]
        self._closing = set[asyncio.Task[None]]()
        self.history = 0
        self.revision = 0
        self._cluster = 0
        self._turned = asyncio.Event()
        self._first = 0

    @property
    def current(self) -> Endpoint:
        """The endpoint to ask first."""
        return self.endpoints[self._first]

    def failed(self, endpoint: Endpoint) -> None:
        """Ask another one first from now on. Where its files are others than they were, it is
        connected to anew: certificates end, and new ones are put in their place."""
        if endpoint is self.current:
            self._first = (self._first + 1) % len(self.endpoints)
        if self._tls is not None and endpoint in self.endpoints:
            self._renew(endpoint, self._tls)

    def _renew(self, endpoint: Endpoint, tls: Tls) -> None:
        if tls.stamp() == endpoint.stamp:
            return
        try:
            fresh = Endpoint(endpoint.url, tls)
        except BadRequest as error:
            log.warning("etcd's new TLS files cannot be used, the old ones stay: %s", error)
            return
        log.info("etcd's TLS files were read anew for %s", endpoint.url)
        self.endpoints[self.endpoints.index(endpoint)] = fresh
        closing = asyncio.ensure_future(endpoint.channel.close(CLOSING))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def reached(self, revision: int) -> None:
        """A revision that etcd has told of; what is asked later never comes before it."""
        self.revision = max(self.revision, revision)

    async def turned(self, history: int) -> None:
        """Return once the history is another one than this."""
        while self.history == history:
            await self._turned.wait()

    def judge(self, header: Header, before: int) -> None:
        """Looks at the answer to a linearizable read or write, begun when `before` was the latest
        revision. From another cluster, or from an earlier revision, it is of another history."""
        known = self._cluster or header.cluster_id
        if header.cluster_id == known and header.revision >= before:
            self.reached(header.revision)
        elif header.cluster_id != known or before <= self.revision:
            log.error(
                "etcd's data were restored: it is at revision %d of cluster %x, and was at %d of"
                " %x; everything is read anew",
                header.revision, header.cluster_id, self.revision, known,
            )  # fmt: skip
            self.revision = header.revision
            self.history += 1
            self._turned.set()
            self._turned = asyncio.Event()
        self._cluster = header.cluster_id

    async def close(self) -> None:
        """Close all channels; calls under way fail."""
        for closing in self._closing:
            closing.cancel()
        closed = (endpoint.channel.close() for endpoint in self.endpoints)
        await asyncio.gather(*closed, *self._closing, return_exceptions=True)

    async def call(
        self,
        what: str,
        method: Callable[[Endpoint], Unary[T]],
        request: Message,
        write: bool,
        timeout: float,
    ) -> T:
        """Ask the endpoints in turn, within `timeout` seconds, until one answers.

        Reads are tried everywhere; a write is tried again only after it surely was not carried
        out. Raises what `classify` says of the last failure.
        """
        deadline = time.monotonic() + timeout
        tries = 0
        error: StoreError | None = None
        while True:
            left = deadline - time.monotonic()
            if error is not None and left <= 0:
                raise error
            endpoint = self.current
            others = len(self.endpoints) > 1
            # A member that accepts and never answers must not use up a read's whole time.
            share = left if write or not others else max(left / 2, min(left, 0.5))
            try:
                return await attempt(
                    endpoint,
                    what,
                    method(endpoint),
                    request,
                    write,
                    share,
                    min(left, CONNECT) if others else left,
                )
            except (Unavailable, OutcomeUnknown) as failure:
                error = failure
                self.failed(endpoint)
                if isinstance(failure, OutcomeUnknown):
                    raise
            tries += 1
            if tries % len(self.endpoints) == 0:
                await asyncio.sleep(min(PAUSE, max(0.0, deadline - time.monotonic())))


async def attempt(
    endpoint: Endpoint,
    what: str,
    method: Unary[T],
    request: Message,
    write: bool,
    timeout: float,
    connect: float,
) -> T:
    """One call to one endpoint; `timeout` and `connect` in seconds. Raises a `StoreError`."""
    if not await endpoint.settled(connect):
        raise Unavailable(what, endpoint.url, f"no connection within {connect:.1f} s")
    try:
        return await method(request, timeout=timeout, metadata=REQUIRE_LEADER)
    except aio.AioRpcError as error:
        raise translated(error, what, endpoint, write) from error
    except aio.UsageError as error:
        raise Unavailable(what, endpoint.url, str(error), "the store is closed") from error
    except asyncio.InvalidStateError as error:
        # A stream (none of them writes) that failed before its request was handed over.
        raise Unavailable(what, endpoint.url, str(error)) from error


def translated(error: aio.AioRpcError, what: str, endpoint: Endpoint, write: bool) -> StoreError:
    """The `StoreError` for gRPC's."""
    code, message = error.code(), error.details() or ""
    why = f"no answer in time ({message})" if code is StatusCode.DEADLINE_EXCEEDED else message
    return classify(code, message, write)(what, endpoint.url, why or code.name)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadRequest(
            "TLS",
            why=f"{path}: {error.strerror}",
            advice="check the file's name and who may read it",
        ) from error
