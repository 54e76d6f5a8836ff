"""`netspace-federation serve`: reads its configuration, listens at both doors, serves until it is
told to stop.

Exit status: 0 stopped as asked, 1 it could not listen or the state store refuses it, 2 the
configuration or the command line is wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from pathlib import Path

import click

from federation.server.api import Backend, make_application
from federation.server.config import DEFAULT_PATH, FederationConfig
from federation.server.door import make_door
from federation.server.service import Service
from netspace import logs, programs
from netspace.certificates import Certificates
from netspace.config import load
from netspace.http_server import HttpServer, many_files
from statestore import Store, StoreError, Tls

log = logging.getLogger(__name__)

PROGRAM = "netspace-federation"
WATCH_INTERVAL, SOON = 1.0, 0.1
"""Seconds between two looks at whether the server can serve, while it can and while it cannot."""


@click.command("serve")
@programs.configured(DEFAULT_PATH)
@programs.CHECK
def command(path: Path, check: bool) -> None:
    """Be a federation server of a cluster."""
    config = programs.configuration(PROGRAM, lambda: load(path, FederationConfig))
    if check:
        click.echo(f"{path}: correct")
        return
    logs.setup(config.log_level)
    programs.done(PROGRAM, lambda: serve(config), StoreError)


async def serve(config: FederationConfig) -> None:
    """Serves until SIGTERM or SIGINT. Raises `Problem` where it cannot listen, `StoreError` where
    the files for etcd's TLS cannot be used; an etcd that is away is waited for."""
    stop = programs.told_to_stop()
    loop = asyncio.get_running_loop()
    many_files()
    etcd = config.etcd.tls
    store = Store(
        config.etcd.endpoints,
        None if etcd is None else Tls(etcd.ca, etcd.cert, etcd.key),
        config.etcd.timeout,
    )
    backend, limits = Backend(), config.limits.http()
    files = config.own_tls
    certificates = (
        None if files is None else Certificates(files, backend.metrics.certificate_expires)
    )
    renewed = None if certificates is None else certificates.renewed
    inner = HttpServer(make_application(backend, limits), limits, renewed, backend.metrics.cut)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(inner.stop)
        if certificates is not None:
            loop.add_signal_handler(signal.SIGHUP, certificates.look)
        for endpoint in config.listeners:
            await inner.listen(endpoint, int(config.socket_mode, 8))
        await stack.enter_async_context(store)
        service = Service(config, store)
        outer = HttpServer(
            make_door(backend, limits), limits, service.identity, backend.metrics.cut
        )
        stack.push_async_callback(outer.stop)
        for endpoint in config.federation.listeners:
            await outer.listen(endpoint)
        service.start()
        backend.service = service
        log.info("listening", extra={"server": config.name, "listen": config.listen})
        watching = [asyncio.create_task(_watch_readiness(service))]
        if certificates is not None:
            watching.append(asyncio.create_task(certificates.watch()))
        try:
            await stop.wait()
            log.info("stopping: requests under way are finished")
        finally:
            for watch in watching:
                watch.cancel()
            await asyncio.gather(*watching, return_exceptions=True)
            # Another server leads before this one stops listening: nobody is turned away.
            await service.retire()
            await asyncio.gather(inner.stop(), outer.stop())
            await service.close()
    log.info("stopped")


async def _watch_readiness(service: Service) -> None:
    """Says in the log when the server becomes able to serve, and when and why it no longer is."""
    said: str | None = None
    while True:
        why = service.why_not_ready()
        if why != said:
            if why:
                log.warning("not ready, trying on", extra={"why": why})
            else:
                log.info("ready")
        said = why
        await asyncio.sleep(SOON if why else WATCH_INTERVAL)
