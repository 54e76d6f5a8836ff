"""The firewall through iptables-restore and iptables-save, of whichever back end this kernel has.

Chains go in as text, a whole table at once, and come out as text; what the text is, is
`chains.py`'s. `--noflush` leaves every chain alone that the text does not name. A job runs in the
namespace that its thread is in, and so do the programs.

Source: iptables-restore(8), iptables-save(8); linux/netfilter_ipv4/ip_tables.h and
linux/netfilter/nf_tables.h for the marks by which a change is noticed.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from hostnet.chains import Family, Present, parse
from hostnet.errors import KernelError, NotSupported
from hostnet.netlink import Net

TABLES: Final = ("raw", "mangle", "filter", "nat")
BACK_ENDS: Final = ("nft", "legacy")
_FOLDERS: Final = "/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin"
_SECONDS: Final = 20.0
_INFO: Final = {4: (socket.AF_INET, 0), 6: (socket.AF_INET6, 41)}
_SO_GET_INFO, _SO_GET_ENTRIES, _INFO_BYTES = 64, 65, 84
_NAME_BYTES, _ENTRIES_AT, _COUNTERS = 32, 40, 16
_ENTRY: Final = {4: (90, 96), 6: (142, 152)}
"""Where in struct ipt_entry and ip6t_entry its length and its counters are."""
_SMALL: Final = 1 << 17
_libc = ctypes.CDLL(None)
_NETFILTER, _GET_GENERATION = 12, 10 << 8 | 16


@dataclass(frozen=True)
class Firewall:
    """One family's programs: `back_end` is nft or legacy, `save` and `restore` their paths."""

    family: Family
    back_end: str
    save: str
    restore: str


def find_firewall(net: Net, family: Family) -> Firewall:
    """The back end that this kernel has and whose programs are there. Where both are, the one that
    already holds kube-proxy's chains, else nft. ``NotSupported`` where neither works."""
    found, reasons = [], []
    for back_end in BACK_ENDS:
        name = "iptables" if family == 4 else "ip6tables"
        programs = [_program(f"{name}-{back_end}-{verb}") for verb in ("save", "restore")]
        if not all(programs):
            reasons.append(f"{name}-{back_end}-restore is not installed")
            continue
        firewall = Firewall(family, back_end, *(program or "" for program in programs))
        try:
            # Reading an empty table asks nothing of nft: only a change shows what the kernel has.
            _run(firewall.restore, "--noflush", text=_TRIAL)
            _run(firewall.restore, "--noflush", text=_TRIAL_OVER)
            found.append((firewall, "KUBE-" in _run(firewall.save, "-t", "nat")))
        except KernelError as error:
            reasons.append(f"{back_end}: {error.why}")
    if not found:
        raise NotSupported(
            "use the firewall for", f"IPv{family}", "; ".join(reasons), "install iptables"
        )
    return max(found, key=lambda each: each[1])[0]


_TRIAL: Final = (
    "*nat\n:NETSPACE-TRIAL - [0:0]\n"
    "-A NETSPACE-TRIAL -m conntrack --ctstate DNAT -j MASQUERADE\nCOMMIT\n"
)
_TRIAL_OVER: Final = "*nat\n-F NETSPACE-TRIAL\n-X NETSPACE-TRIAL\nCOMMIT\n"


def read_firewall(net: Net, firewall: Firewall) -> Present:
    """All rules of all tables."""
    return Present(parse(_run(firewall.save)))


def restore(net: Net, firewall: Firewall, text: str) -> None:
    """Carries the text out, each table whole or not at all. ``Refused`` with the program's word."""
    _run(firewall.restore, "--noflush", text=text)
    net.changed("firewall restore")


def matches_sets(net: Net, firewall: Firewall, sets: Mapping[str, str]) -> bool:
    """Whether rules can match the sets of these names, each with its dimensions (``src,src``)."""
    return takes_rules(
        net,
        firewall,
        "raw",
        [f"-m set --match-set {name} {dimensions} -j RETURN" for name, dimensions in sets.items()],
    )


def takes_rules(net: Net, firewall: Firewall, table: str, rules: Sequence[str]) -> bool:
    """Whether the kernel and the programs have what these rules need; nothing of them stays."""
    lines = "".join(f"-A NETSPACE-TRIAL {rule}\n" for rule in rules)
    trial = f"*{table}\n:NETSPACE-TRIAL - [0:0]\n{lines}COMMIT\n"
    try:
        _run(firewall.restore, "--noflush", text=trial)
    except KernelError:
        return False
    _run(firewall.restore, "--noflush", text=_TRIAL_OVER.replace("*nat", f"*{table}"))
    return True


def mark(net: Net, firewall: Firewall) -> bytes:
    """What changes when somebody changes the rules, and costs some microseconds: nft's generation,
    or of the legacy tables a hash of what is in them; of one over `_SMALL` bytes only its size and
    hooks, which miss a rule replaced by one of the same size."""
    if firewall.back_end == "nft":
        return _generation()
    with socket.socket(_INFO[firewall.family][0], socket.SOCK_RAW, socket.IPPROTO_RAW) as opened:
        return b"".join(_legacy(opened, firewall.family, table) for table in TABLES)


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_FOLDERS}")


def start_restore(firewall: Firewall) -> subprocess.Popen[bytes]:
    """The program that carries a text out, waiting for it: then `give` and `end_restore`."""
    return _start(firewall.restore, "--noflush")


def give(process: subprocess.Popen[bytes], text: str) -> None:
    """The whole text; the program goes to work. ``OSError`` where it has ended."""
    stdin, process.stdin = process.stdin, None
    assert stdin is not None
    with stdin:
        stdin.write(text.encode())


def end_restore(firewall: Firewall, process: subprocess.Popen[bytes]) -> None:
    """Waits until a program that was given its text is done. ``KernelError`` with its word."""
    _end(firewall.restore, process)


def _run(*command: str, text: str = "") -> str:
    """What the program writes to standard output."""
    return _end(command[0], _start(*command), text)


def _start(*command: str) -> subprocess.Popen[bytes]:
    name = Path(command[0]).name
    # xtables-legacy locks a file; another program may hold it for a moment.
    waiting = ("-w", "5") if name.endswith("-legacy-restore") else ()
    try:
        return subprocess.Popen(
            [*command, *waiting],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(os.environ),
        )
    except OSError as error:
        raise KernelError("run", name, str(error), "look at the machine's load") from None


def _end(program: str, process: subprocess.Popen[bytes], text: str = "") -> str:
    name = Path(program).name
    with process:
        try:
            given = text.encode() if process.stdin is not None else None
            output, errors = process.communicate(given, timeout=_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            process.kill()
            raise KernelError("run", name, str(error), "look at the machine's load") from None
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        said = " ".join(errors.decode(errors="replace").split())[:300]
        raise KernelError(
            "change the rules by", name, said or f"status {process.returncode}", _REMEDY
        )
    return output.decode(errors="replace")


_REMEDY: Final = "see netspace-agent diagnose for what this kernel has"


def _environment(ours: Mapping[str, str]) -> dict[str, str]:
    kept = ("PATH", "LD_LIBRARY_PATH", "XTABLES_LIBDIR")
    return {name: ours[name] for name in kept if name in ours} | {"LC_ALL": "C"}


def _legacy(opened: socket.socket, family: Family, table: str) -> bytes:
    """struct ipt_getinfo less the name (hooks, entry points, number of entries and size), and the
    hash of a small table's entries."""
    level = _INFO[family][1]
    info = _told(opened, level, _SO_GET_INFO, table, b"", _INFO_BYTES)[_NAME_BYTES:]
    size = info[-4:]
    if not info or not 0 < int.from_bytes(size, sys.byteorder) <= _SMALL:
        return info
    whole = _ENTRIES_AT + int.from_bytes(size, sys.byteorder)
    entries = bytearray(_told(opened, level, _SO_GET_ENTRIES, table, size, whole)[_ENTRIES_AT:])
    # Packets are counted in each entry: that is no change.
    next_at, counters_at = _ENTRY[family]
    at = 0
    while at + counters_at + _COUNTERS <= len(entries):
        entries[at + counters_at : at + counters_at + _COUNTERS] = bytes(_COUNTERS)
        step = int.from_bytes(entries[at + next_at : at + next_at + 2], sys.byteorder)
        if not step:
            break
        at += step
    return info + sha256(entries).digest()


def _told(
    opened: socket.socket, level: int, option: int, table: str, more: bytes, size: int
) -> bytes:
    """What the kernel says of the table, empty where nothing: its name goes in and out."""
    given = table.encode().ljust(_NAME_BYTES, b"\0") + more
    buffer = ctypes.create_string_buffer(given.ljust(size, b"\0"), size)
    length = ctypes.c_uint32(size)
    if _libc.getsockopt(opened.fileno(), level, option, buffer, ctypes.byref(length)):
        return b""
    return buffer.raw[: length.value]


def _generation() -> bytes:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER) as opened:
        opened.settimeout(1)
        try:
            opened.send(struct.pack("=IHHIIBBH", 20, _GET_GENERATION, 1, 1, 0, 0, 0, 0))
            return opened.recv(4096)[20:28]
        except OSError:
            return b""
