"""`netspacectl address`: who holds which address, reservations, and an operator's release."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from netspace.messages import AddressEntry, OperatorRelease, Reserve
from netspace.problems import Problem
from netspacectl.app import App
from netspacectl.options import naming
from netspacectl.output import ask_person, listing, say, write
from netspacectl.text import listed, printable
from netspacectl.tree import Noun
from netspacectl.views import ADDRESSES, pod_of
from netspacectl.words import NAMESPACE, POD, Address, Note

if TYPE_CHECKING:
    from ipam_server.client import Client

command = Noun("address", help="Addresses: who holds them, reservations.")
STATES = ("used", "reserved", "cooling", "retained", "free")
PAGE = 500
"""Addresses in one question to the server."""

which = click.argument("address", type=Address())
of_network = naming(
    "--network",
    "network",
    help="The network, where several have the address.",
)


@command.command(
    "list",
    examples=[
        "netspacectl address list --pool tenant-a --state used",
        "netspacectl address list --namespace team-a --pod web-0",
        "netspacectl address list --node node-1 -o json",
    ],
)
@naming(
    "--network",
    "network",
    help="Only of this network.",
)
@naming(
    "--pool",
    "pool",
    help="Only of this pool.",
)
@click.option("--namespace", type=NAMESPACE, metavar="NAMESPACE", help="Only of its pods.")
@click.option("--pod", type=POD, metavar="POD", help="Only of pods of this name.")
@naming(
    "--node",
    "node",
    help="Only on this node.",
)
@click.option(
    "--state",
    type=click.Choice(STATES),
    help="Only in this state; retained: kept for the pod that had it; free: released, and past the"
    " pool's cool-down.",
)
@click.pass_obj
def list_(app: App, /, **filters: str | None) -> None:
    """List the addresses that are or were somebody's."""
    lines = listing(app.output, ADDRESSES)

    async def pages(client: Client, cluster: str) -> None:
        after: str | None = None
        while True:
            page = await client.addresses(cluster, **filters, limit=PAGE, after=after)
            lines.add(page.items)
            after = page.next
            if after is None:
                return

    app.ask_in_cluster(pages)
    lines.close()


@command.command("show", examples=["netspacectl address show 10.91.0.16"])
@which
@of_network
@click.pass_obj
def show(app: App, address: str, network: str | None) -> None:
    """Show an address and who holds it or held it last."""
    write(app.output, _entry(app, address, network))


@command.command(
    "history",
    examples=[
        "netspacectl address history 10.91.0.16",
        "netspacectl address history fd00:91::10 --network vlan910 -o json",
    ],
)
@which
@of_network
@click.pass_obj
def history(app: App, address: str, network: str | None) -> None:
    """Show who holds an address and who held it before.

    The latest stands first. How far back it goes, the server's configuration says.
    """
    answer = app.ask_in_cluster(
        lambda client, cluster: client.address_history(cluster, address, network)
    )
    write(app.output, answer)


@command.command(
    "reserve",
    examples=["netspacectl address reserve 10.91.0.20 --network vlan910 --note 'load balancer'"],
)
@which
@naming(
    "--network",
    "network",
    required=True,
    help="The network of the address.",
)
@click.option("--note", type=Note(), default="", help="What it is for.")
@click.pass_obj
def reserve(app: App, address: str, network: str, note: str) -> None:
    """Take an address out of use for something that is no pod."""
    request = Reserve(network=network, address=address, note=note)
    write(app.output, app.ask_in_cluster(lambda client, cluster: client.reserve(cluster, request)))


@command.command("unreserve", examples=["netspacectl address unreserve 10.91.0.20"])
@which
@of_network
@click.pass_obj
def unreserve(app: App, address: str, network: str | None) -> None:
    """Give a reserved address back."""
    app.ask_in_cluster(lambda client, cluster: client.unreserve(cluster, address, network))
    say(app.output, f"address {address} is no longer reserved")


@command.command(
    "release",
    examples=[
        "netspacectl address release 10.91.0.16",
        "netspacectl address release 10.91.0.16 --network vlan910 --yes",
    ],
)
@which
@of_network
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def release(app: App, address: str, network: str | None, yes: bool) -> None:
    """Release an address whose pod is gone for good, on your word.

    Shows who holds it and asks first. What is released is what was shown: if another pod got the
    address meanwhile, nothing happens.
    """
    entry = _entry(app, address, network)
    if entry.state != "used" or entry.generation is None:
        raise Problem("not-found", f"address {address} is held by no pod: it is {entry.state}")
    click.echo(_holder(entry, address), err=True)
    if not yes and not ask_person("Another pod may get it then. Is its pod gone, and shall it go?"):
        raise click.ClickException(f"address {address} was not released: nobody said yes")
    request = OperatorRelease(network=entry.network, address=address, generation=entry.generation)
    answer = app.ask_in_cluster(lambda client, cluster: client.operator_release(cluster, request))
    if not answer.released:
        raise Problem("changed", f"address {address} was not released: {answer.why}")
    if app.output == "table":
        say(app.output, f"address {address} released")
    else:
        write(app.output, answer)


def _entry(app: App, address: str, network: str | None) -> AddressEntry:
    return app.ask_in_cluster(lambda client, cluster: client.address(cluster, address, network))


def _holder(entry: AddressEntry, address: str) -> str:
    both = listed(text for text in (entry.ipv4, entry.ipv6) if text)
    return printable(
        f"address {both or address} of network {entry.network} is held by pod {pod_of(entry)}"
        f" on node {entry.node} (container {entry.container}, interface {entry.ifname},"
        f" generation {entry.generation})"
    )
