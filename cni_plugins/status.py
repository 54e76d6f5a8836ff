"""STATUS: whether an ADD could be served now. Asked every half second, so `check`, which has a
process of its own, loads as little as it can: no event loop, no client, no netlink. `check_here` is
for a process that has all that already.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cni_plugins.netconf import OWN_IPAM, parse_netconf
from cni_plugins.node_config import NodeConfig, ServerSection
from cni_plugins.protocol import UNAVAILABLE, CniError, Invocation
from cni_plugins.setting import node_of
from netspace.endpoints import Endpoint
from netspace.problems import Problem

if TYPE_CHECKING:
    from netspace.tls import Tls

TIMEOUT: Final = 2.0
"""Seconds one server may take to say that it is ready."""


def check(plugin: str, invocation: Invocation, environ: Mapping[str, str]) -> None:
    """`CniError` 50 where ADD could not be served; pods that are there keep their connectivity
    without us, so 51 is never said."""
    conf = parse_netconf(invocation.config)
    node = node_of(conf)
    if conf.ipam.type not in ("", OWN_IPAM):
        import asyncio

        asyncio.run(forward(invocation, environ))
        return
    _refuse_unwritable(plugin, node)
    if conf.ipam.type == OWN_IPAM:
        _ask_servers(node.server)


async def check_here(
    plugin: str, invocation: Invocation, node: NodeConfig, ready: Callable[[], Awaitable[None]]
) -> None:
    """As `check`, where `ready` raises `Problem` if no server is; not for other IPAM plugins."""
    _refuse_unwritable(plugin, node)
    if parse_netconf(invocation.config).ipam.type == OWN_IPAM:
        try:
            await ready()
        except Problem as problem:
            raise _nobody_ready(problem.detail) from None


async def forward(invocation: Invocation, environ: Mapping[str, str]) -> None:
    """Asks the other IPAM plugin, whose word counts; its error is passed on."""
    from cni_plugins import delegate

    ipam = parse_netconf(invocation.config).ipam.type
    await delegate.run(invocation, ipam, "STATUS", environ)


def _refuse_unwritable(plugin: str, node: NodeConfig) -> None:
    folder = Path(node.state_dir)
    if not _writable(folder):
        raise CniError(
            UNAVAILABLE, f"{plugin} cannot keep its records", f"{folder} is not writable"
        )


def _nobody_ready(why: str) -> CniError:
    return CniError(UNAVAILABLE, "no IPAM server is ready", why)


def _ask_servers(server: ServerSection) -> None:
    failures = []
    for url in server.endpoints:
        try:
            failure = _readiness(Endpoint.parse(url), server.tls())
        except Problem as problem:
            failure = problem.detail
        if not failure:
            return
        failures.append(f"{url}: {failure}")
    raise _nobody_ready("; ".join(failures))


def _readiness(endpoint: Endpoint, tls: Tls | None) -> str:
    """Nothing where the server's /readyz answers 200, else why not."""
    request = (
        f"GET /readyz HTTP/1.1\r\nHost: {endpoint.authority}\r\nConnection: close\r\n\r\n".encode()
    )
    try:
        with _connected(endpoint, tls) as connection:
            connection.sendall(request)
            with connection.makefile("rb") as answer:
                line = answer.readline(1024).split()
    except OSError as error:
        if endpoint.tls:
            from netspace.tls import explained

            return explained(error)
        return error.strerror or str(error)
    if len(line) < 2 or not line[0].startswith(b"HTTP/1."):
        return "its answer is not HTTP"
    return "" if line[1] == b"200" else f"it answered {line[1].decode(errors='replace')}"


def _connected(endpoint: Endpoint, tls: Tls | None) -> socket.socket:
    if not endpoint.path:
        plain = socket.create_connection((endpoint.host, endpoint.port), TIMEOUT)
        if tls is None or not endpoint.tls:
            return plain
        from netspace.tls import client_context

        with plain:  # what is wrapped has taken the descriptor over
            return client_context(tls).wrap_socket(plain, server_hostname=endpoint.host)
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(TIMEOUT)
        connection.connect(endpoint.path)
    except BaseException:
        connection.close()
        raise
    return connection


def _writable(folder: Path) -> bool:
    """Whether records can be kept there, or the folder can be made for them."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return os.access(folder, os.W_OK | os.X_OK)
