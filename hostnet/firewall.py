"""The firewall through iptables-restore and iptables-save, of whichever back end this kernel has.

Chains go in as text, a whole table at once, and come out as text; nothing here knows what the rules
mean. `--noflush` leaves every chain alone that the text does not name. A job runs in the namespace
that its thread is in, and so do the programs.

Source: iptables-restore(8), iptables-save(8); linux/netfilter_ipv4/ip_tables.h and
linux/netfilter/nf_tables.h for the marks by which a change is noticed.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import socket
import struct
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from hostnet.errors import KernelError, NotSupported
from hostnet.netlink import Net

Family = Literal[4, 6]
IPV4: Final[Family] = 4
IPV6: Final[Family] = 6
Tables = dict[str, dict[str, list[str]]]
"""By table and chain the rules, each as `-A` has it without the chain's name."""

TABLES: Final = ("raw", "filter", "nat")
BACK_ENDS: Final = ("nft", "legacy")
_FOLDERS: Final = "/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin"
_SECONDS: Final = 20.0
_CHAIN: Final = re.compile(r":(\S+) ")
_RULE: Final = re.compile(r"(?:\[\d+:\d+\] )?-A (\S+) (.*)")
_MAC: Final = re.compile(r"(--mac-source )([0-9A-Fa-f:]{17})")
_INFO: Final = {4: (socket.AF_INET, 0), 6: (socket.AF_INET6, 41)}
_SO_GET_INFO, _INFO_BYTES = 64, 84
_NETFILTER, _GET_GENERATION = 12, 10 << 8 | 16


@dataclass(frozen=True)
class Firewall:
    """One family's programs: `back_end` is nft or legacy, `save` and `restore` their paths."""

    family: Family
    back_end: str
    save: str
    restore: str


@dataclass(frozen=True)
class Present:
    """What one family's tables hold: all chains of the tables asked for, built-in ones too."""

    tables: Tables = field(default_factory=dict)

    def rules(self, table: str, chain: str) -> list[str] | None:
        """The chain's rules; None where there is no such chain."""
        return self.tables.get(table, {}).get(chain)


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
    rules = "".join(
        f"-A NETSPACE-TRIAL -m set --match-set {name} {dimensions} -j RETURN\n"
        for name, dimensions in sets.items()
    )
    try:
        _run(
            firewall.restore,
            "--noflush",
            text=f"*raw\n:NETSPACE-TRIAL - [0:0]\n{rules}COMMIT\n",
        )
    except KernelError:
        return False
    _run(firewall.restore, "--noflush", text=_TRIAL_OVER.replace("*nat", "*raw"))
    return True


def mark(net: Net, firewall: Firewall) -> bytes:
    """What changes when somebody changes the rules, and costs some microseconds: nft's generation,
    or the sizes of the legacy tables, which miss a rule replaced by one of the same size."""
    if firewall.back_end == "nft":
        return _generation()
    return b"".join(_info(firewall.family, table) for table in TABLES)


def parse(saved: str) -> Tables:
    """What iptables-save wrote."""
    tables: Tables = {}
    chains: dict[str, list[str]] = {}
    for line in saved.splitlines():
        if line.startswith("*"):
            chains = tables.setdefault(line[1:], {})
        elif (chain := _CHAIN.match(line)) is not None:
            chains.setdefault(chain[1], [])
        elif (rule := _RULE.fullmatch(line)) is not None:
            lower = _MAC.sub(lambda found: found[1] + found[2].lower(), rule[2])
            chains.setdefault(rule[1], []).append(lower)
    return tables


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_FOLDERS}")


def _run(*command: str, text: str = "") -> str:
    """What the program writes to standard output."""
    name = Path(command[0]).name
    # xtables-legacy locks a file; another program may hold it for a moment.
    waiting = ("-w", "5") if name.endswith("-legacy-restore") else ()
    try:
        done = subprocess.run(
            [*command, *waiting],
            input=text.encode(),
            capture_output=True,
            timeout=_SECONDS,
            check=False,
            env=_environment(os.environ),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelError("run", name, str(error), "look at the machine's load") from None
    if done.returncode:
        said = " ".join(done.stderr.decode(errors="replace").split())[:300]
        raise KernelError("change the rules by", name, said or f"status {done.returncode}", _REMEDY)
    return done.stdout.decode(errors="replace")


_REMEDY: Final = "see netspace-agent diagnose for what this kernel has"


def _environment(ours: Mapping[str, str]) -> dict[str, str]:
    kept = ("PATH", "LD_LIBRARY_PATH", "XTABLES_LIBDIR")
    return {name: ours[name] for name in kept if name in ours} | {"LC_ALL": "C"}


def _info(family: Family, table: str) -> bytes:
    """struct ipt_getinfo less the name: hooks, entry points, number of entries and size."""
    domain, level = _INFO[family]
    buffer = ctypes.create_string_buffer(table.encode(), _INFO_BYTES)
    size = ctypes.c_uint32(_INFO_BYTES)
    with socket.socket(domain, socket.SOCK_RAW, socket.IPPROTO_RAW) as opened:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.getsockopt(opened.fileno(), level, _SO_GET_INFO, buffer, ctypes.byref(size)):
            return b""
    return buffer.raw[32 : size.value]


def _generation() -> bytes:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER) as opened:
        opened.settimeout(1)
        try:
            opened.send(struct.pack("=IHHIIBBH", 20, _GET_GENERATION, 1, 1, 0, 0, 0, 0))
            return opened.recv(4096)[20:28]
        except OSError:
            return b""
