"""`netspacectl certs`: an authority and certificates, for those who have none.

No server is asked.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import click

from netspace.callers import ORGANIZATIONS, Role
from netspacectl.tree import Noun
from netspacectl.words import NODE, HostName, PersonName, label

F = TypeVar("F", bound=Callable[..., Any])

command = Noun("certs", help="Certificates for servers and for everybody who asks.")
WEBHOOKS: Final = "netspace:webhooks"
"""No role of a server's: the webhook asks with the controller's certificate."""
CA_DAYS: Final = 3650
DAYS: Final = 365
SERVER_CONF: Final = "/etc/netspace/server.yaml"
NODE_CONF: Final = "/etc/netspace/node.yaml"


def _folder(help_: str, *names: str) -> Callable[[F], F]:
    kind = click.Path(file_okay=False, path_type=Path)
    return click.option(*names, type=kind, metavar="DIR", help=help_)


def _days(default: int) -> Callable[[F], F]:
    return click.option(
        "--days",
        type=click.IntRange(1, 36_500),
        default=default,
        metavar="DAYS",
        help=f"How long it is valid.  [default: {default}]",
    )


force_option = click.option("--force", is_flag=True, help="Replace files that are there.")
dir_option = _folder("Where the files go.  [default: here]", "--dir", "folder")
ca_option = _folder("Where ca.pem and ca.key are.  [default: as --dir]", "--ca-dir", "ca_folder")
hosts_option = click.option(
    "--host",
    "hosts",
    type=HostName(),
    multiple=True,
    required=True,
    metavar="HOST",
    help="A name or address by which it is asked; repeatable.",
)


def _issued(function: F) -> F:
    for option in (force_option, _days(DAYS), ca_option, dir_option):
        function = option(function)
    return function


@command.command("ca", examples=["netspacectl certs ca --dir /root/netspace-ca"])
@dir_option
@_days(CA_DAYS)
@click.option("--name", type=PersonName(), default="netspace", help="What it is called.")
@force_option
def ca(folder: Path | None, days: int, name: str, force: bool) -> None:
    """Make an authority.

    ca.pem is for everybody, ca.key for nobody: it signs all other certificates.
    """
    from netspacectl import certificates

    cert, key = _files(folder, "ca")
    certificates.write_pair(certificates.authority(name, days), cert, key, force=force)
    click.echo(f"{cert}: the authority's certificate, for every server, node and person")
    click.echo(f"{key}: its key: whoever has it can be anybody; keep it off the servers")
    click.echo("next: netspacectl certs server NAME --host HOST")


@command.command(
    "server",
    examples=["netspacectl certs server ipam-1 --host 10.0.0.5 --host ipam-1.example.net"],
)
@click.argument("name", type=NODE, metavar="NAME")
@hosts_option
@_issued
def server(name: str, hosts: tuple[str, ...], **where: Any) -> None:
    """Make a server's certificate. NAME is its name in server.yaml."""
    files = _issue("server", f"server-{name}", {"CN": name}, hosts=hosts, **where)
    click.echo(f"next: name them in {SERVER_CONF}:\n")
    click.echo(_yaml("tls", *files))


@command.command("node", examples=["netspacectl certs node east node-1 --dir /root/netspace-ca"])
@click.argument("cluster", type=label("cluster"))
@click.argument("node", type=NODE)
@_issued
def node(cluster: str, node: str, **where: Any) -> None:
    """Make a node's certificate.

    With it a node asks for its own pods, in its own cluster.
    """
    files = _issue("node", f"node-{cluster}-{node}", {"OU": cluster, "CN": node}, **where)
    click.echo(f"next: copy them to the node and name them in {NODE_CONF}:\n")
    click.echo(_yaml("server", *files))


@command.command("controller", examples=["netspacectl certs controller east"])
@click.argument("cluster", type=label("cluster"))
@_issued
def controller(cluster: str, **where: Any) -> None:
    """Make the certificate of a cluster's controller."""
    _issue("controller", f"controller-{cluster}", {"OU": cluster}, **where)
    click.echo("next: give them to the controller of the cluster")


@command.command("admin", examples=["netspacectl certs admin alice --days 90"])
@click.argument("name", type=PersonName(), metavar="NAME")
@_issued
def admin(name: str, **where: Any) -> None:
    """Make the certificate of an admin, who may do everything."""
    files = _issue("admin", f"admin-{name.replace(' ', '-')}", {"CN": name}, **where)
    click.echo("next: name them in ~/.config/netspace/ctl.yaml:\n")
    click.echo("server: https://HOST:8470")
    click.echo(_yaml("", *files))


@command.command("monitor", examples=["netspacectl certs monitor prometheus"])
@click.argument("name", type=PersonName(), metavar="NAME")
@_issued
def monitor(name: str, **where: Any) -> None:
    """Make the certificate of a monitor, who may read metrics.

    It may do nothing else: what a Prometheus needs.
    """
    _issue("monitor", f"monitor-{name.replace(' ', '-')}", {"CN": name}, **where)
    click.echo("next: give them to Prometheus; packaging/observability has a configuration")


@command.command(
    "webhook",
    examples=["netspacectl certs webhook --host netspace-webhook.netspace-system.svc"],
)
@hosts_option
@_issued
def webhook(hosts: tuple[str, ...], **where: Any) -> None:
    """Make the certificate of the webhook that checks annotations.

    Kubernetes' API knows it by its host. With it nobody may ask a server for anything.
    """
    ca_cert, *_ = _issue("webhook", "webhook", {"CN": hosts[0][:64]}, hosts=hosts, **where)
    click.echo(f"next: the Secret netspace-webhook-tls, and {ca_cert} as its caBundle in base64")


def _issue(
    role: Role | Literal["webhook"],
    stem: str,
    subject: dict[str, str],
    *,
    folder: Path | None,
    ca_folder: Path | None,
    days: int,
    force: bool,
    hosts: tuple[str, ...] = (),
) -> tuple[Path, Path, Path]:
    """Writes the pair; the paths of the authority, the certificate and the key."""
    from netspacectl import certificates

    ca_cert, ca_key = _files(ca_folder or folder, "ca")
    cert, key = _files(folder, stem)
    organization = WEBHOOKS if role == "webhook" else ORGANIZATIONS[role]
    pair = certificates.issue(
        certificates.read_authority(ca_cert, ca_key),
        {"O": organization, **subject},
        days,
        hosts=hosts,
        server=bool(hosts),
    )
    certificates.write_pair(pair, cert, key, force=force)
    shown = ", ".join(f"{part}={value}" for part, value in {"O": organization, **subject}.items())
    until = pair.certificate.not_valid_after_utc.date()
    click.echo(f"{cert}: {shown}, valid until {until}")
    click.echo(f"{key}: its key, for its owner alone")
    return ca_cert, cert, key


def _files(folder: Path | None, stem: str) -> tuple[Path, Path]:
    there = (folder or Path()).absolute()
    return there / f"{stem}.pem", there / f"{stem}.key"


def _yaml(section: str, ca: Path, cert: Path, key: Path) -> str:
    indent = "  " if section else ""
    lines = [f"{section}:"] if section else []
    lines += [
        f"{indent}{name}: {path}" for name, path in (("ca", ca), ("cert", cert), ("key", key))
    ]
    return "\n".join(lines)
