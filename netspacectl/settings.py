"""The file of settings, conf/ctl.yaml: what need not be said on every command line."""

from __future__ import annotations

from pathlib import Path

from pydantic import field_validator

from netspace import names
from netspace.config import Settings, load
from netspace.endpoints import Endpoint
from netspace.problems import Problem
from netspacectl.app import Whom


def _several(server: object) -> object:
    return (server,) if isinstance(server, str) else server


def _addresses(server: tuple[str, ...] | None) -> tuple[str, ...] | None:
    for url in server or ():
        try:
            Endpoint.parse(url)
        except Problem as problem:
            raise ValueError(str(problem)) from None
    return server


class FederationConfig(Settings):
    """`server`: one URL or several, of the cluster's federation servers."""

    server: tuple[str, ...] | None = None

    _several = field_validator("server", mode="before")(_several)
    _addresses = field_validator("server")(_addresses)


class CtlConfig(Settings):
    """`server`: one URL or several. Paths may begin with `~`; others are beside the file."""

    server: tuple[str, ...] | None = None
    cluster: str | None = None
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    federation: FederationConfig = FederationConfig()

    _several = field_validator("server", mode="before")(_several)
    _addresses = field_validator("server")(_addresses)

    @field_validator("cluster")
    @classmethod
    def _named(cls, cluster: str | None) -> str | None:
        if cluster is not None and not names.matches(names.NAME, cluster):
            raise ValueError(f"{cluster[:80]!r} is no cluster's name")
        return cluster


def read(path: Path) -> Whom:
    """What the file says; `Problem` invalid with all its faults."""
    config = load(path, CtlConfig)

    def file(named: Path | None) -> Path | None:
        return None if named is None else path.parent / named.expanduser()

    return Whom(
        config.server,
        config.cluster,
        file(config.ca),
        file(config.cert),
        file(config.key),
        config.federation.server,
    )
