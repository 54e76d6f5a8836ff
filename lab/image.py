"""./run image: the container images for Kubernetes, in one archive.

`ctr images import` and `docker load` take it: an OCI layout, with Docker's own list beside. The
root file systems are those that `packaging/kubernetes/Dockerfile` describes, put together without a
registry or a daemon: Debian by debootstrap, on it the tree of the packages (`package_tree`), or
etcd. Both images share the layer of Debian. What was built is kept in `.lab/image` under the hash
of all that it was made of. Needs root, as debootstrap does.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import io
import json
import os
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lab import debian, freezing, launcher, package, programs

KEPT: Final = programs.STATE / "image"
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_MEDIA: Final = "application/vnd.oci.image"
# What Debian's own slim images leave out, what only a build has, and what a runtime mounts.
_LEFT_OUT: Final = (
    *("usr/share/man/", "usr/share/locale/", "usr/share/info/", "usr/share/lintian/"),
    *("usr/share/groff/", "var/cache/apt/", "var/lib/apt/lists/", "var/log/", "debootstrap/"),
    *("dev/", "proc/", "sys/", "run/", "tmp/"),
)
_DOCUMENTS: Final = "usr/share/doc/"
_BLOCK: Final = 1 << 20


@dataclass(frozen=True)
class Layer:
    """A tar file, not packed, and the hash of what is in it."""

    path: Path
    sha256: str


@dataclass(frozen=True)
class Image:
    """A name with a tag, the layers from the lowest up, and what is run in it."""

    name: str
    layers: tuple[Layer, ...]
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()


def run(arguments: Sequence[str]) -> int:
    """Build what is not built yet and put it where `--out` says (dist); the exit status."""
    parser = argparse.ArgumentParser(prog="./run image")
    parser.add_argument("--out", type=Path, default=programs.CLONE / "dist", metavar="DIR")
    out: Path = parser.parse_args(arguments).out
    if os.geteuid():
        print("./run image: needs root: the files belong to whom Debian says", file=sys.stderr)
        return 1
    try:
        built = build()
    except (freezing.FreezeError, launcher.BuildError, debian.DebianError) as error:
        print(f"./run image: {error}", file=sys.stderr)
        return 1
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(built, out / built.name)
    print(f"{out / built.name}  {built.stat().st_size / 2**20:.1f} MiB: {', '.join(names())}")
    return 0


def names() -> tuple[str, str]:
    """Return what the images are called: ours, and etcd's."""
    tag = package.version()
    return f"localhost/netspace:{tag}", f"localhost/netspace-etcd:{tag}"


def build() -> Path:
    """Return the archive of the sources as they are now.

    Raises what `package.build` raises, and debian.DebianError.
    """
    base = debian.base()
    KEPT.mkdir(parents=True, exist_ok=True)
    with package.built() as packages, (KEPT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made_by = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
        place = KEPT / f"{packages.folder.name}-{made_by}"
        archive = place / f"netspace-images-{package.version()}-linux-{package.architecture()}.tar"
        if not archive.exists():
            for old in KEPT.iterdir():
                if old.is_dir():
                    shutil.rmtree(old)
            with tempfile.TemporaryDirectory(prefix="new-", dir=KEPT) as name:
                _build(Path(name), packages.root, base, archive.name)
                (Path(name) / "built").rename(place)
    return archive


def _build(place: Path, root: Path, base: Path, archive: str) -> None:
    system = layer_of(base, place / "system.tar", _needed)
    ours = layer_of(root, place / "ours.tar")
    etcd = tree_layer(
        {"usr/bin/etcd": programs.find("etcd").read_bytes()}, place / "etcd.tar", mode=0o755
    )
    (place / "built").mkdir()
    name, etcd_name = names()
    images = [
        Image(name, (system, ours), command=("netspacectl", "--help")),
        Image(etcd_name, (system, etcd), entrypoint=("/usr/bin/etcd",)),
    ]
    write_archive(images, place / "built" / archive)


def _needed(path: str) -> bool:
    """Whether a file of Debian's is in the image; folders that are left out stay, empty."""
    if path.startswith(_DOCUMENTS):
        return path.endswith("/copyright") or path.count("/") == _DOCUMENTS.count("/")
    return not path.startswith(_LEFT_OUT)


def layer_of(root: Path, into: Path, needed: Callable[[str], bool] = lambda _: True) -> Layer:
    """Write the tree below `root` as a layer; `needed` is asked for each path relative to it."""

    def settled(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if entry.name and not needed(entry.name):
            return None
        # The image's own users count, not the names that this machine has for their numbers.
        entry.uname = entry.gname = ""
        return entry

    with tarfile.open(into, "w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(root.iterdir()):
            archive.add(path, path.name, filter=settled)
    return Layer(into, _sha256(into))


def tree_layer(files: dict[str, bytes], into: Path, mode: int) -> Layer:
    """Write files, path → content, all of one mode and the super-user's, as a layer."""
    with tarfile.open(into, "w") as archive:
        for name, content in files.items():
            _add(archive, name, content, mode)
    return Layer(into, _sha256(into))


def write_archive(images: Sequence[Image], into: Path) -> None:
    """Write the images into one archive."""
    system = {"architecture": package.architecture(), "os": "linux"}
    blobs: dict[str, bytes] = {}
    index: list[dict[str, object]] = []
    listed: list[dict[str, object]] = []
    for image in images:
        digests = [f"sha256:{layer.sha256}" for layer in image.layers]
        run = {"Env": [f"PATH={PATH}"], "Entrypoint": image.entrypoint, "Cmd": image.command}
        config = _json(
            {
                **system,
                "config": {key: value for key, value in run.items() if value},
                "rootfs": {"type": "layers", "diff_ids": digests},
            }
        )
        layers = [
            {
                "mediaType": f"{_MEDIA}.layer.v1.tar",
                "digest": f"sha256:{layer.sha256}",
                "size": layer.path.stat().st_size,
            }
            for layer in image.layers
        ]
        manifest = _json(
            {
                "schemaVersion": 2,
                "mediaType": f"{_MEDIA}.manifest.v1+json",
                "config": _descriptor(config, f"{_MEDIA}.config.v1+json"),
                "layers": layers,
            }
        )
        # containerd reads the first, podman the second.
        called = {
            "io.containerd.image.name": image.name,
            "org.opencontainers.image.ref.name": image.name,
        }
        about = {"platform": system, "annotations": called}
        index.append(_descriptor(manifest, f"{_MEDIA}.manifest.v1+json") | about)
        listed.append(
            {
                "Config": _place(_digest(config)),
                "RepoTags": [image.name],
                "Layers": [_place(digest) for digest in digests],
            }
        )
        blobs |= {_place(_digest(blob)): blob for blob in (config, manifest)}
    with tarfile.open(into, "w") as archive:
        _add(archive, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _add(archive, "index.json", _json({"schemaVersion": 2, "manifests": index}))
        _add(archive, "manifest.json", _json(listed))
        for name, blob in blobs.items():
            _add(archive, name, blob)
        for layer in _once(layer for image in images for layer in image.layers):
            entry = tarfile.TarInfo(_place(f"sha256:{layer.sha256}"))
            entry.size = layer.path.stat().st_size
            with layer.path.open("rb") as file:
                archive.addfile(entry, file)


def _once(layers: Iterable[Layer]) -> list[Layer]:
    return list({layer.sha256: layer for layer in layers}.values())


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))


def _descriptor(blob: bytes, media: str) -> dict[str, object]:
    return {"mediaType": media, "digest": _digest(blob), "size": len(blob)}


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _place(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _json(value: object) -> bytes:
    return json.dumps(value).encode()
