"""`netspacectl network`: layer-2 segments, their subnets, gateways and excluded addresses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from netspace.messages import ChangeNetwork, Network, NewNetwork, Services
from netspace.slots import Mapping, SlotError, SlotMap
from netspacectl import exits
from netspacectl.app import App
from netspacectl.options import existing, naming, owner_of, to_owner
from netspacectl.output import dump, say, write, write_list
from netspacectl.text import printable
from netspacectl.tree import Noun
from netspacectl.views import NETWORKS
from netspacectl.words import (
    LINK,
    MTU,
    NONE,
    VLAN,
    Address,
    OrNone,
    Span,
    Subnet,
    check_gateway,
    label,
)

if TYPE_CHECKING:
    from ipam_server.client import Client

command = Noun("network", help="Networks: VLANs with subnets, gateways and MTU.")
NAME = label("network")
SERVICES: tuple[Services, ...] = ("open", "isolated")
MAPPINGS: tuple[Mapping, ...] = ("offset", "embedded")


@command.command(
    "create",
    examples=[
        "netspacectl network create vlan910 --parent bond0 --vlan 910 --ipv4 10.91.0.0/24"
        " --ipv6 fd00:91::/64 --gateway4 10.91.0.1 --gateway6 fd00:91::1"
        " --exclude 10.91.0.200-10.91.0.254",
        "netspacectl network create storage --parent bond1 --ipv6 fd00:5::/64 --mtu 9000",
        "netspacectl network create shared --vlan 930 --ipv4 10.93.0.0/16 --fabric rack-7"
        " --range 10.93.64.0/18",
    ],
)
@click.argument("network", type=NAME)
@naming(
    "--fabric",
    "fabric",
    default="default",
    show_default=True,
    help="The fabric it lies in.",
)
@click.option(
    "--parent",
    type=LINK,
    metavar="LINK",
    default="bond0",
    show_default=True,
    help="The link below the VLAN, on every node.",
)
@click.option("--vlan", type=VLAN, metavar="VLAN", help="The VLAN's number.  [default: untagged]")
@click.option("--ipv4", type=Subnet(4), help="The IPv4 subnet.")
@click.option("--ipv6", type=Subnet(6), help="The IPv6 subnet.")
@click.option("--gateway4", type=Address(4), help="The pods' IPv4 default gateway.")
@click.option("--gateway6", type=Address(6), help="The pods' IPv6 default gateway.")
@click.option(
    "--mapping",
    type=click.Choice(MAPPINGS),
    default="offset",
    show_default=True,
    help="How IPv4 and IPv6 addresses belong together: by their distance from the subnet's start,"
    " or with the IPv4 address in the low 32 bits of the IPv6 one.",
)
@click.option(
    "--mtu", type=MTU, metavar="BYTES", help="The MTU of pods' interfaces.  [default: the parent's]"
)
@click.option(
    "--range",
    "ranges",
    multiple=True,
    type=Span(),
    help="Only these addresses of the subnets are this cluster's; repeatable.",
)
@click.option(
    "--exclude",
    "excluded",
    multiple=True,
    type=Span(),
    help="Addresses no pool gets: one, FIRST-LAST or a subnet; repeatable.",
)
@click.option(
    "--services",
    type=click.Choice(SERVICES),
    default="open",
    show_default=True,
    help="Whether Services lead from this network to other VLANs and back, or stay apart too.",
)
@click.pass_obj
def create(
    app: App,
    network: str,
    fabric: str,
    parent: str,
    vlan: int | None,
    ipv4: str | None,
    ipv6: str | None,
    gateway4: str | None,
    gateway6: str | None,
    mapping: Mapping,
    mtu: int | None,
    ranges: tuple[str, ...],
    excluded: tuple[str, ...],
    services: Services,
) -> None:
    """Create a network with an IPv4 subnet, an IPv6 subnet or both.

    Subnets, range and mapping never change afterwards.
    """
    try:
        slots = SlotMap.of(ipv4, ipv6, mapping)
        slots.parse_ranges(ranges)
        slots.parse_ranges(excluded)
        check_gateway(gateway4, slots.ipv4)
        check_gateway(gateway6, slots.ipv6)
    except SlotError as error:
        raise click.UsageError(str(error), click.get_current_context()) from None
    new = NewNetwork(
        name=network,
        fabric=fabric,
        parent=parent,
        vlan=vlan,
        ipv4=ipv4,
        ipv6=ipv6,
        gateway4=gateway4,
        gateway6=gateway6,
        mapping=mapping,
        mtu=mtu or 0,
        range=list(ranges),
        exclude=list(excluded),
        services=services,
    )
    write(
        app.output, app.ask_in_cluster(lambda client, cluster: client.create_network(cluster, new))
    )


@command.command("list", examples=["netspacectl network list"])
@click.pass_obj
def list_(app: App) -> None:
    """List the networks and how much of them is used."""
    write_list(
        app.output, NETWORKS, app.ask_in_cluster(lambda client, cluster: client.networks(cluster))
    )


@command.command("show", examples=["netspacectl network show vlan910"])
@existing("network")
@click.pass_obj
def show(app: App, network: str) -> None:
    """Show a network."""
    write(app.output, app.ask_in_cluster(lambda client, cluster: client.network(cluster, network)))


@command.command(
    "change",
    examples=[
        "netspacectl network change vlan910 --gateway4 10.91.0.254 --mtu 9000",
        "netspacectl network change vlan910 --gateway6 none",
        "netspacectl network change vlan910 --exclude 10.91.0.40 --include 10.91.0.200/29",
    ],
)
@existing("network")
@click.option("--parent", type=LINK, metavar="LINK", help="The link below the VLAN.")
@click.option(
    "--vlan", type=OrNone(VLAN), metavar="VLAN", help="The VLAN's number; 'none' for untagged."
)
@click.option("--gateway4", type=OrNone(Address(4)), help="The IPv4 gateway; 'none' for none.")
@click.option("--gateway6", type=OrNone(Address(6)), help="The IPv6 gateway; 'none' for none.")
@click.option(
    "--mtu", type=MTU, metavar="BYTES", help="The MTU of pods' interfaces; 0 for the parent's."
)
@click.option(
    "--exclude",
    "excluded",
    multiple=True,
    type=Span(),
    help="Addresses no pool gets from now on, besides those excluded already; repeatable.",
)
@click.option(
    "--include",
    "included",
    multiple=True,
    type=Span(),
    help="Addresses that are no longer excluded; repeatable.",
)
@click.option(
    "--services",
    type=click.Choice(SERVICES),
    help="Whether Services lead to other VLANs and back, or stay apart too.",
)
@click.pass_obj
def change(
    app: App,
    /,
    network: str,
    excluded: tuple[str, ...],
    included: tuple[str, ...],
    **fields: str | int | None,
) -> None:
    """Change a network.

    What is not named stays as it is.
    """
    given: dict[str, Any] = {
        field: None if value == NONE else value
        for field, value in fields.items()
        if value is not None
    }
    if not (given or excluded or included):
        raise click.UsageError("nothing to change is given", click.get_current_context())

    async def changed(client: Client, cluster: str) -> Network:
        wanted = ChangeNetwork(**given)
        if excluded or included:
            now = await client.network(cluster, network)
            wanted.exclude, wanted.revision = exclude(now, excluded, included), now.revision
        return await client.change_network(cluster, network, wanted)

    write(app.output, app.ask_in_cluster(changed))


@command.command(
    "adopt",
    examples=[
        "netspacectl network adopt --dry-run",
        "netspacectl network adopt vlan910 vlan920",
        "netspacectl network adopt --node node-1",
    ],
)
@click.argument("names", nargs=-1, type=NAME, metavar="[NETWORK]...")
@naming("--node", "node", help="Only what this node reports; of others nothing is asked.")
@click.option("--dry-run", is_flag=True, help="Show what would be made and make nothing.")
@click.pass_context
def adopt(ctx: click.Context, names: tuple[str, ...], node: str | None, dry_run: bool) -> None:
    """Make networks of the address space that nodes report.

    What stands as `links` in the nodes' configuration becomes networks, and so the cluster's total
    pool. A network about which nodes disagree is not made; with --node one node's word counts.
    Networks that are there are never changed.

    With --dry-run the exit status is 5 where there is something to make. Where nodes disagree with
    each other, or with what is there, it is 1.
    """
    from netspacectl.adoption import Adoption, adoption

    app = ctx.ensure_object(App)

    async def asked(client: Client, cluster: str) -> Adoption:
        nodes = [await client.node(cluster, node)] if node else await client.nodes(cluster)
        found = adoption(nodes, await client.networks(cluster), names)
        if not dry_run:
            for new in found.make:
                await client.create_network(cluster, new)
        return found

    found = app.ask_in_cluster(asked)
    if app.output == "table":
        for line in found.lines(made=not dry_run):
            click.echo(printable(line))
    else:
        dump(app.output, found)
    if found.disagreements:
        raise click.ClickException(f"{len(found.disagreements)} networks are not as nodes report")
    ctx.exit(exits.DIFFERS if dry_run and found.make else exits.DONE)


@command.command(
    "hand-over",
    examples=[
        "netspacectl network hand-over vlan910 --to kubernetes",
        "netspacectl network hand-over vlan910 --to people",
    ],
)
@existing("network")
@to_owner
@click.pass_obj
def hand_over(app: App, network: str, owner: str) -> None:
    """Say who looks after a network from now on.

    What Kubernetes looks after follows the object networks.ipam.netspace.io of the same name and is
    changed with kubectl alone; what people look after, by netspacectl alone. Nothing else of the
    network changes.
    """
    new = owner_of(owner)
    write(
        app.output,
        app.ask_in_cluster(lambda client, cluster: client.hand_over_network(cluster, network, new)),
    )


@command.command("delete", examples=["netspacectl network delete vlan910"])
@existing("network")
@click.pass_obj
def delete(app: App, network: str) -> None:
    """Delete a network without pools."""
    app.ask_in_cluster(lambda client, cluster: client.delete_network(cluster, network))
    say(app.output, f"network {network} deleted")


def exclude(now: Network, excluded: tuple[str, ...], included: tuple[str, ...]) -> list[str]:
    """The network's excluded addresses after the change."""
    slots = SlotMap.of(now.ipv4, now.ipv6, now.mapping)
    try:
        wanted = slots.parse_ranges(now.exclude) | slots.parse_ranges(excluded)
        return slots.format_ranges(wanted - slots.parse_ranges(included))
    except SlotError as error:
        raise click.UsageError(f"network {now.name}: {error}") from None
