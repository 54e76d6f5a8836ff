"""What a frozen program does before anything of its own: PyInstaller runs this first.

The bootloader started the program a second time with its own libraries in LD_LIBRARY_PATH. The
dynamic loader has read that; programs that this one starts (iptables, another CNI plugin) are to
have the system's libraries. And modules are read from the executable when they are imported: it
stays open, so that an upgrade in the midst of a call gives nobody the modules of another version.
"""

import fcntl
import os

import pyimod02_importers

_MARKS = ("_PYI_", "LD_LIBRARY_PATH")
_ABOVE_STREAMS = 3


def _as_it_was() -> None:
    before = os.environ.get("LD_LIBRARY_PATH_ORIG")
    for name in [name for name in os.environ if name.startswith(_MARKS)]:
        del os.environ[name]
    if before is not None:
        os.environ["LD_LIBRARY_PATH"] = before


def _keep_open() -> None:
    archive = pyimod02_importers.pyz_archive
    opened = os.open(archive._filename, os.O_RDONLY | os.O_CLOEXEC)
    kept = fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, _ABOVE_STREAMS)
    os.close(opened)
    archive._filename = f"/proc/self/fd/{kept}"


_as_it_was()
_keep_open()
