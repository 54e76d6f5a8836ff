"""An image whose one program waits until it is ended: a pod's sandbox, made without a registry."""

from __future__ import annotations

import subprocess
from pathlib import Path

from lab import image, programs

NAME = "localhost/pause:1"

_SOURCE = """
#include <signal.h>
#include <unistd.h>
static void end(int number) { (void)number; _exit(0); }
int main(void) { signal(SIGTERM, end); signal(SIGINT, end); for (;;) pause(); }
"""


def pause_archive(folder: Path) -> Path:
    """The image as an archive in the folder. Raises ProgramMissing without a C compiler."""
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
    layer = image.tree_layer({"pause": program.read_bytes()}, folder / "layer.tar", mode=0o755)
    image.write_archive([image.Image(NAME, (layer,), entrypoint=("/pause",))], archive)
    return archive
