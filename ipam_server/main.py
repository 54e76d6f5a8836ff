"""`netspace-server`: reads its configuration, listens, serves until it is told to stop.

Exit status: 0 stopped as asked, 1 it could not listen or the state store refuses it, 2 the
configuration or the command line is wrong.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from pathlib import Path

import click

import netspace
from ipam_server import auditing
from ipam_server.api import Backend, make_application, why_not_ready
from ipam_server.config import DEFAULT_PATH, ServerConfig, own_tls
from ipam_server.directory import Directory
from ipam_server.metrics import Metrics
from ipam_server.term import Limits
from netspace import logs, programs
from netspace.certificates import Certificates
from netspace.config import load
from netspace.http_client import HttpClient
from netspace.http_server import HttpServer, many_files
from netspace.problems import Problem
from statestore import Store, StoreError, Tls

log = logging.getLogger(__name__)

PROGRAM = "netspace-server"

COLLECT = (50_000, 20, 50)
"""When the garbage collector looks at the objects of each generation. Requests leave no cycles to
speak of, and a fifth of the processor's time went into looking for them."""

WATCH_INTERVAL = 2.0
"""Seconds between two looks at whether the server can serve."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@programs.configured(DEFAULT_PATH)
@programs.CHECK
@click.option(auditing.OPTION, "audit", is_flag=True, hidden=True)
@click.version_option(netspace.__version__, prog_name=PROGRAM)
def main(path: Path, check: bool, audit: bool) -> None:
    """Hand out pod addresses from pools kept in etcd."""
    if audit:
        auditing.main()
        return
    config = programs.configuration(PROGRAM, lambda: load(path, ServerConfig))
    if check:
        click.echo(f"{path}: correct")
        return
    logs.setup(config.log_level)
    programs.done(PROGRAM, lambda: serve(config), StoreError)


async def serve(config: ServerConfig) -> None:
    """Serves until SIGTERM or SIGINT. Raises `Problem` where it cannot listen, `StoreError` where
    the files for etcd's TLS cannot be used; an etcd that is away is waited for."""
    stop = programs.told_to_stop()
    loop = asyncio.get_running_loop()
    many_files()
    gc.set_threshold(*COLLECT)
    backend = Backend()
    backend.metrics.etcd_quota = config.etcd.quota
    tls = own_tls(config)
    certificates = None if tls is None else Certificates(tls, backend.metrics.certificate_expires)
    limits = config.limits.http()
    http = HttpServer(
        make_application(backend, limits),
        limits,
        certificates.renewed if certificates else None,
        backend.metrics.cut,
    )
    try:
        if certificates is not None:
            loop.add_signal_handler(signal.SIGHUP, certificates.look)
        for endpoint in config.listeners:
            await http.listen(endpoint, int(config.socket_mode, 8))
        async with _store(config) as store:
            backend.directory = await _directory(store, config)
            log.info("listening", extra={"server": config.name, "listen": config.listen})
            watching = [asyncio.create_task(_watch_readiness(backend.directory, backend.metrics))]
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
                await backend.directory.retire()
                await http.stop()
                await backend.directory.close()
    finally:
        await http.stop()
    log.info("stopped")


def _store(config: ServerConfig) -> Store:
    tls = config.etcd.tls
    return Store(
        config.etcd.endpoints,
        None if tls is None else Tls(tls.ca, tls.cert, tls.key),
        config.etcd.timeout,
    )


async def _directory(store: Store, config: ServerConfig) -> Directory:
    limits = Limits(
        max_operations=config.etcd.max_operations,
        max_waiting=config.limits.waiting,
        timeout=config.limits.commit,
        clock_interval=config.clock_interval,
        audit_entries=config.audit.entries,
        audit_age=config.audit.days * 86400,
        history_entries=config.history.entries,
        history_age=config.history.days * 86400,
        reclaim_grace=config.reclaim.grace,
        reclaim_interval=config.reclaim.interval,
        controller_networks=config.controller_networks,
    )
    return await Directory.open(
        store,
        config.name,
        config.leader_ttl,
        limits,
        endpoint=config.reached_at,
        client=lambda endpoint: HttpClient([endpoint], tls=own_tls(config)),
    )


async def _watch_readiness(directory: Directory, metrics: Metrics) -> None:
    """Says in the log when the server becomes able to serve, and when and why it no longer is; and
    keeps what was heard for the metrics."""
    said: str | None = None
    while True:
        try:
            status = await directory.status()
            why = why_not_ready(status)
            metrics.looked(not why, status, directory)
        except Problem as problem:
            why = str(problem)
        if why != said:
            if why:
                log.warning("not ready, trying on", extra={"why": why})
            else:
                log.info("ready")
        said = why
        await asyncio.sleep(WATCH_INTERVAL)


if __name__ == "__main__":
    main()
