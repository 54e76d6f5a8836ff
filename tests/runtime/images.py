"""An image whose one program waits until it is ended: a pod's sandbox, made without a registry."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import subprocess
import tarfile
from pathlib import Path

from lab import programs

NAME = "localhost/pause:1"

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_SOURCE = """
#include <signal.h>
#include <unistd.h>
static void end(int number) { (void)number; _exit(0); }
int main(void) { signal(SIGTERM, end); signal(SIGINT, end); for (;;) pause(); }
"""


def pause_archive(folder: Path) -> Path:
    """The image as an OCI archive in the folder. Raises ProgramMissing without a C compiler."""
    program, archive = folder / "pause", folder / "pause.tar"
    command = [
        str(programs.find("gcc")),
        "-static",
        "-O2",
        "-s",
        "-x",
        "c",
        "-o",
        str(program),
        "-",
    ]
    subprocess.run(command, input=_SOURCE.encode(), check=True)
    layer = _tar({"pause": program.read_bytes()}, mode=0o755)
    architecture = _ARCHITECTURES.get(platform.machine(), platform.machine())
    config = _json(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {"Entrypoint": ["/pause"]},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        }
    )
    media = "application/vnd.oci.image"
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{media}.manifest.v1+json",
            "config": _descriptor(config, f"{media}.config.v1+json"),
            "layers": [_descriptor(layer, f"{media}.layer.v1.tar")],
        }
    )
    index = {
        "schemaVersion": 2,
        "manifests": [
            _descriptor(manifest, f"{media}.manifest.v1+json")
            | {
                "platform": {"architecture": architecture, "os": "linux"},
                # containerd reads the first, podman the second.
                "annotations": {
                    "io.containerd.image.name": NAME,
                    "org.opencontainers.image.ref.name": NAME,
                },
            }
        ],
    }
    blobs = {f"blobs/sha256/{_digest(blob)[7:]}": blob for blob in (layer, config, manifest)}
    head = {"oci-layout": _json({"imageLayoutVersion": "1.0.0"}), "index.json": _json(index)}
    archive.write_bytes(_tar({**head, **blobs}))
    return archive


def _tar(files: dict[str, bytes], mode: int = 0o644) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
    return made.getvalue()


def _descriptor(blob: bytes, media: str) -> dict[str, object]:
    return {"mediaType": media, "digest": _digest(blob), "size": len(blob)}


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _json(value: object) -> bytes:
    return json.dumps(value).encode()
