"""The certificates of the rows with mutual TLS, made as an operator makes them."""

from __future__ import annotations

import subprocess
from pathlib import Path

from lab import programs
from netspace.tls import Tls

HOST, SERVER = "127.0.0.1", "s0"


def server(folder: Path) -> Tls:
    """A new authority in `folder`, and what a server on `HOST` needs."""
    folder.mkdir(parents=True, exist_ok=True)
    _certs(folder, "ca")
    _certs(folder, "server", SERVER, "--host", HOST)
    return _files(folder, f"server-{SERVER}")


def node(folder: Path, cluster: str, name: str) -> Tls:
    """What a node of a cluster needs, from the authority in `folder`."""
    _certs(folder, "node", cluster, name)
    return _files(folder, f"node-{cluster}-{name}")


def _certs(folder: Path, *arguments: str) -> None:
    program = programs.VENV / "bin" / "netspacectl"
    command = [str(program), "certs", *arguments, "--dir", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _files(folder: Path, stem: str) -> Tls:
    return Tls(folder / "ca.pem", folder / f"{stem}.pem", folder / f"{stem}.key")
