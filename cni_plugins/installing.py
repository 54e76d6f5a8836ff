"""Puts what a container of Netspace has onto the node it runs on, and takes it away again.

Below one root, where the container has the node's folders: the executables in `opt/cni/bin`, the
configuration in `etc/netspace`, the list of plugins in `etc/cni/net.d`, which comes last, since
with it the runtime begins to call. Every file is written beside its place and renamed: one that
runs is no obstacle, and the runtime sees a list that is whole. The complete plugin is a folder, and
a folder cannot be renamed over another: it lies under a name of its own, to which `netspace-plugin`
is a link. The one before stays, for calls that it has begun.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from cni_plugins import node_config
from netspace.problems import Problem

LABEL: Final = "ipam.netspace.io/config"
"""A node's label that names its configuration."""
DEFAULT: Final = "default"
"""The configuration of nodes without it."""
EXECUTABLES: Final = ("netspace", "netspace-ipam")
PLUGIN: Final = "netspace-plugin"
CNI: Final = Path("opt/cni/bin")
LISTS: Final = Path("etc/cni/net.d")
SETTINGS: Final = Path("etc/netspace/node.yaml")


def chosen(labels: Mapping[str, str], there: Sequence[str]) -> str:
    """The name of a node's configuration, of those that are there. Raises `Problem`."""
    name = labels.get(LABEL, DEFAULT)
    if name in there:
        return name
    shown = ", ".join(sorted(there)) or "none"
    raise Problem(
        "not-found",
        f"the node's configuration is to be {name!r}, and there is none of that name: {shown}",
        do=f"add {name}.yaml to the ConfigMap netspace-node, or change the node's label {LABEL}",
    )


def for_node(text: bytes, node: str, path: Path) -> bytes:
    """The configuration with the node's name in it, unless it has one. `Problem` invalid where it
    cannot be used; the path is for the errors."""
    named = f"node: {node}\n".encode() + text
    if node_config.parse(text, path).node:
        return text
    node_config.parse(named, path)
    return named


def configurations(folder: Path) -> dict[str, Path]:
    """The configurations in a folder that a ConfigMap is mounted on: name → file."""
    return {path.stem: path for path in folder.glob("*.yaml")}


def install(source: Path, root: Path, settings: bytes, conflist: Path) -> None:
    """Puts the executables of the folder `source`, the configuration and the list of plugins below
    `root`. Raises `Problem`, and OSError."""
    for folder in (CNI, LISTS, SETTINGS.parent):
        (root / folder).mkdir(parents=True, exist_ok=True)
    _put_plugin(source / PLUGIN, root / CNI)
    for name in EXECUTABLES:
        _put(root / CNI / name, (source / name).read_bytes(), 0o755)
    _put(root / SETTINGS, settings, 0o644)
    _put(root / LISTS / conflist.name, conflist.read_bytes(), 0o644)


def uninstall(root: Path, conflist: str) -> None:
    """Takes list and executables away; configuration and records stay."""
    (root / LISTS / conflist).unlink(missing_ok=True)
    for name in (*EXECUTABLES, PLUGIN):
        (root / CNI / name).unlink(missing_ok=True)
    for folder in _plugins(root / CNI):
        shutil.rmtree(folder)


def _put_plugin(source: Path, bin_folder: Path) -> None:
    link = bin_folder / PLUGIN
    if link.is_dir() and not link.is_symlink():
        raise Problem(
            "exists",
            f"{link} is a folder: Netspace was installed on this node by a package",
            do="remove the package first; its configuration and records stay",
        )
    before = link.readlink().name if link.is_symlink() else ""
    name = f"{PLUGIN}-{fingerprint(source)}"
    for leftover in bin_folder.glob(f".{PLUGIN}-*"):
        shutil.rmtree(leftover)
    if not (bin_folder / name).is_dir():
        passing = bin_folder / f".{name}"
        shutil.copytree(source, passing, symlinks=True)
        passing.rename(bin_folder / name)
    passing = bin_folder / f".{PLUGIN}.{secrets.token_hex(6)}"
    passing.symlink_to(name)
    passing.replace(link)
    for folder in _plugins(bin_folder):
        if folder.name not in (name, before):
            shutil.rmtree(folder)


def fingerprint(folder: Path) -> str:
    """A name for all that is in a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            digest.update(f"{path.relative_to(folder)} {path.stat().st_size}\n".encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _plugins(bin_folder: Path) -> Iterator[Path]:
    yield from (path for path in bin_folder.glob(f"{PLUGIN}-*") if path.is_dir())


def _put(path: Path, content: bytes, mode: int) -> None:
    """As it is already it stays, so that a runtime that watches the file does not stir."""
    if path.is_file() and path.read_bytes() == content:
        return
    passing = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        with passing.open("wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        passing.replace(path)
    finally:
        passing.unlink(missing_ok=True)
