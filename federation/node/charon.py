"""`netspace-federation charon`: strongSwan's charon as the node's federations need it.

Writes its configuration into the run folder and becomes it. A process of its own, so that security
associations outlive the agent; the agent alone tells it what to do, over VICI. charon writes its
process id to a fixed place under /run: it gets a /run of its own with nothing in it but its
folder, so that it neither meets nor is taken for another charon of the host.

Source: strongswan.conf(5) of 5.9.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NoReturn

import click

PROGRAMS: Final = (
    Path("/usr/lib/ipsec/charon"),
    Path("/usr/libexec/ipsec/charon"),
    Path("/usr/libexec/strongswan/charon"),
)
"""Where distributions have it."""

_PLUGINS: Final = (
    "nonce",
    "random",
    "openssl",
    "gcm",
    "kdf",
    "pem",
    "pkcs1",
    "pkcs8",
    "x509",
    "pubkey",
    "constraints",
    "kernel-netlink",
    "socket-default",
    "vici",
)
_CLONE_NEWNS, _MS_BIND, _MS_REC, _MS_SLAVE = 0x20000, 4096, 16384, 1 << 19
_FAILED: Final = 1


@dataclass(frozen=True, slots=True)
class Charon:
    """`vici`: its socket; the folder that holds it is charon's. `port`, `nat_port`: UDP, of IKE.
    `level`: of its log, 0 to 4."""

    vici: Path = Path("/run/netspace/charon.vici")
    program: Path = PROGRAMS[0]
    port: int = 500
    nat_port: int = 4500
    threads: int = 32
    level: int = 1

    @property
    def configuration(self) -> Path:
        """The file that it reads."""
        return self.vici.with_name("charon.conf")


def configuration(charon: Charon) -> str:
    """strongswan.conf. A silent peer is given up after 6 s, what arrives late from before a rekey
    is taken for 5 s, and thousands of peers may begin at once."""
    settings = {
        "load": " ".join(_PLUGINS),
        "install_routes": "no",
        "install_virtual_ip": "no",
        "port": charon.port,
        "port_nat_t": charon.nat_port,
        "threads": charon.threads,
        "retransmit_timeout": "1.0",
        "retransmit_base": "1.3",
        "retransmit_tries": 3,
        "retransmit_jitter": 10,
        "delete_rekeyed_delay": 5,
        "make_before_break": "yes",
        "close_ike_on_child_failure": "yes",
        "half_open_timeout": 10,
        "block_threshold": 100,
        "ikesa_table_size": 4096,
        "ikesa_table_segments": 16,
        "replay_window": 2048,
        "send_vendor_id": "no",
    }
    lines = [f"    {key} = {value}" for key, value in settings.items()]
    return "\n".join(
        [
            "charon {",
            *lines,
            "    plugins {",
            f"        vici {{\n            socket = unix://{charon.vici}\n        }}",
            "        kernel-netlink {",
            "            install_routes_xfrmi = no",
            "            roam_events = no",
            "        }",
            "    }",
            "    filelog {",
            "        stderr {",
            f"            default = {charon.level}",
            # The kernel asks for a tunnel at each packet without one: the agent brings them up.
            f"            cfg = {charon.level - 1}",
            f"            knl = {charon.level - 1}",
            f"            enc = {charon.level - 1}",
            f"            net = {charon.level - 1}",
            "            ike_name = yes",
            "            flush_line = yes",
            "        }",
            "    }",
            "    syslog {",
            "    }",
            "}",
            "",
        ]
    )


def prepare(charon: Charon) -> dict[str, str]:
    """Writes the configuration and gives this process the mounts that charon is to have; what to
    add to its environment. Raises OSError; the process is then to end."""
    folder = charon.vici.parent
    folder.mkdir(parents=True, exist_ok=True, mode=0o755)
    charon.configuration.write_text(configuration(charon))
    charon.vici.unlink(missing_ok=True)
    _hide_run(folder)
    os.umask(0o077)
    return {"STRONGSWAN_CONF": str(charon.configuration)}


def become(charon: Charon) -> NoReturn:
    """Prepares, and becomes charon. Raises OSError; the process is then to end."""
    os.execve(charon.program, [str(charon.program)], os.environ | prepare(charon))


def _hide_run(folder: Path) -> None:
    """Gives this process a /run with nothing but the folder, where that is under it."""
    libc = ctypes.CDLL(None, use_errno=True)

    def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
        values = [part.encode() for part in (source, target, kind)]
        if libc.mount(*values, flags, data.encode()) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"cannot mount {target}: {os.strerror(code)}", target)

    real = folder.resolve()
    if libc.unshare(_CLONE_NEWNS) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"cannot have mounts of its own: {os.strerror(code)}")
    # A folder of the mounts left behind could not be mounted here.
    kept = os.open(real, os.O_RDONLY | os.O_DIRECTORY)
    try:
        mount("none", "/", "none", _MS_REC | _MS_SLAVE)
        mount("tmpfs", "/run", "tmpfs", 0, "mode=755")
        if real.is_relative_to("/run"):
            real.mkdir(parents=True)
            mount(f"/proc/self/fd/{kept}", str(real), "none", _MS_BIND)
    finally:
        os.close(kept)


def find(programs: Sequence[Path]) -> Path | None:
    """The first of the programs that is there."""
    return next((path for path in programs if os.access(path, os.X_OK)), None)


@click.command("charon")
@click.option(
    "--vici",
    type=click.Path(path_type=Path),
    default=Charon().vici,
    show_default=True,
    help="Its socket, as in the agent's configuration.",
)
@click.option(
    "--program", type=click.Path(path_type=Path), help="charon, where it is in an unusual place."
)
@click.option("--log-level", type=click.IntRange(0, 4), default=1, show_default=True)
def command(vici: Path, program: Path | None, log_level: int) -> None:
    """Be the node's IKE daemon, until told to stop."""
    chosen = program or find(PROGRAMS)
    if chosen is None:
        looked = ", ".join(str(path) for path in PROGRAMS)
        click.echo(
            f"netspace-federation charon: strongSwan's charon is not at {looked}; install"
            " strongswan-charon, strongswan-swanctl and libstrongswan-standard-plugins, or name it"
            " with --program",
            err=True,
        )
        sys.exit(_FAILED)
    try:
        become(replace(Charon(), vici=vici, program=chosen, level=log_level))
    except OSError as error:
        click.echo(f"netspace-federation charon: {error}", err=True)
        sys.exit(_FAILED)
