"""`netspacectl federation`: clusters whose pods reach one another."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import ip_network
from typing import Any, Final, TypeVar, cast

import click
import msgspec
from msgspec import UNSET

from netspace.messages.federating import (
    TOKEN_LIFETIME,
    ChangeFederation,
    FederationDetails,
    JoinFederation,
    Local,
    NewFederation,
)
from netspace.messages.federation import Kind, Layout, Member, Pair, PortSpan, Settings, Transport
from netspacectl.app import DEFAULT_FEDERATION_SERVER, App
from netspacectl.commands.federation_diagnose import diagnose
from netspacectl.commands.federation_picture import picture
from netspacectl.commands.federation_status import status
from netspacectl.commands.federation_trials import bench, verify
from netspacectl.output import dump, say, write, write_list
from netspacectl.tree import Noun, typed
from netspacectl.views import Column, details
from netspacectl.words import FEDERATION, Context, Duration, Parameter, ServerUrl, Type, label

command = Noun("federation", help="Clusters whose pods reach one another.")
CLUSTER: Final = label("cluster")
LAYOUTS: Final[tuple[Layout, ...]] = ("distributed", "centralised")
KINDS: Final[tuple[Kind, ...]] = ("heterogeneous", "homogeneous")
F = TypeVar("F", bound=Callable[..., Any])

FEDERATIONS: Final[Sequence[Column[FederationDetails]]] = (
    Column("FEDERATION", lambda each: each.name),
    Column("FOUNDER", lambda each: each.federation.founder),
    Column("MEMBERS", lambda each: [one.cluster for one in each.federation.members], wraps=True),
    Column("RANGES", lambda each: each.local.ranges, wraps=True),
    Column("POOLS", lambda each: each.local.pools, wraps=True),
    Column("NETWORKS", lambda each: each.local.networks, wraps=True),
)
MEMBERS: Final[Sequence[Column[Member]]] = (
    Column("MEMBER", lambda member: member.cluster),
    Column("CNI", lambda member: member.cni),
    Column("RANGES", lambda member: member.ranges, wraps=True),
    Column("SERVICES", lambda member: member.services, wraps=True),
    Column("ENDPOINTS", lambda member: member.endpoints, wraps=True),
)


class Range(Type):
    """A subnet of either family, in its usual notation afterwards."""

    name = "range"

    def convert(self, value: Any, param: Parameter, ctx: Context) -> str:
        try:
            return str(ip_network(str(value)))
        except ValueError as error:
            self.fail(f"{error}: write for example 10.244.0.0/16", param, ctx)


class Ports(Type):
    """`tcp/443`, `udp/5000-5010`, or `all`."""

    name = "ports"

    def convert(self, value: Any, param: Parameter, ctx: Context) -> PortSpan | str:
        if isinstance(value, PortSpan) or value == "all":
            return cast("PortSpan | str", value)
        transport, _, ports = str(value).partition("/")
        first, _, last = ports.partition("-")
        try:
            span = PortSpan(
                transport=cast(Transport, transport), first=int(first), last=int(last or first)
            )
            span = msgspec.convert(msgspec.to_builtins(span), PortSpan)
        except (ValueError, msgspec.ValidationError):
            span = None
        if span is None or span.last < span.first:
            self.fail(f"{value!r}: write tcp/443, udp/5000-5010, sctp/3868 or all", param, ctx)
        return span


class PairKind(Type):
    """`CLUSTER:CLUSTER:KIND`."""

    name = "pair"

    def convert(self, value: Any, param: Parameter, ctx: Context) -> Pair:
        if isinstance(value, Pair):
            return value
        try:
            one, other, kind = str(value).split(":")
            pair = Pair(one=one, other=other, kind=cast(Kind, kind))
            return msgspec.convert(msgspec.to_builtins(pair), Pair)
        except (ValueError, msgspec.ValidationError):
            self.fail(f"{value!r}: write for example east:west:homogeneous", param, ctx)


def _keep_servers(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> None:
    app = ctx.ensure_object(App)
    if value:
        app.whom = replace(app.whom, federation=value)
        if typed(ctx, param):
            app.typed |= {"federation-server"}


asked_there = click.option(
    "--federation-server",
    multiple=True,
    type=ServerUrl(),
    envvar="NETSPACE_FEDERATION_SERVER",
    callback=_keep_servers,
    expose_value=False,
    help="Where a federation server of the cluster listens; repeatable, tried in turn."
    f"  [default: {DEFAULT_FEDERATION_SERVER}]",
)


def brought(function: F) -> F:
    """The options that say what the cluster brings in."""
    for option in reversed(
        (
            click.option(
                "--range",
                "ranges",
                multiple=True,
                type=Range(),
                help="A range of pods that the others may reach; repeatable.",
            ),
            click.option(
                "--pool",
                "pools",
                multiple=True,
                type=label("pool"),
                metavar="POOL",
                help="A pool of a Netspace cluster whose ranges are federated; repeatable.",
            ),
            click.option(
                "--network",
                "networks",
                multiple=True,
                type=label("network"),
                metavar="NETWORK",
                help="A network all of whose pools are federated; repeatable.",
            ),
            click.option(
                "--expose",
                "exposed",
                multiple=True,
                type=Ports(),
                help="Ports that the others may reach: tcp/443, udp/5000-5010, all; repeatable."
                "  [default: all]",
            ),
            click.option(
                "--layout",
                type=click.Choice(LAYOUTS),
                help="Whether every node is a gateway, or only those whose configuration says so."
                "  [default: distributed]",
            ),
        )
    ):
        function = option(function)
    return function


def tuned(function: F) -> F:
    """The settings of a federation as a whole."""
    for option in reversed(
        (
            click.option(
                "--gateways",
                type=click.IntRange(1, 14),
                help="Gateways of another cluster that a node holds tunnels to, at most.",
            ),
            click.option("--probe", type=Duration(), help="Time between two probes of a path."),
            click.option(
                "--losses",
                type=click.IntRange(1, 100),
                help="So many lost probes in a row take a gateway out.",
            ),
            click.option(
                "--rekey", type=click.IntRange(10, 86_400), help="Seconds that an ESP key is used."
            ),
            click.option("--port", type=click.IntRange(1, 65_535), help="UDP port of VXLAN."),
            click.option(
                "--probe-port", type=click.IntRange(1, 65_535), help="UDP port of the probes."
            ),
            click.option(
                "--mark",
                type=str,
                callback=lambda ctx, param, value: _mark(value),
                help="Bits of the packet mark that are ours, at least four side by side: 0xf00000.",
            ),
        )
    ):
        function = option(function)
    return function


def _mark(value: str | None) -> int | None:
    if value is None:
        return None
    try:
        return int(value, 0)
    except ValueError:
        raise click.BadParameter(f"{value!r} is no number: write for example 0xf00000") from None


def local_of(**given: Any) -> dict[str, Any]:
    """What was said of what the cluster brings in."""
    exposed = given.pop("exposed", ())
    said = {name: list(value) for name, value in given.items() if value and name != "layout"}
    if given.get("layout"):
        said["layout"] = given["layout"]
    if exposed:
        said["exposed"] = [each for each in exposed if each != "all"]
    return said


def settings_of(given: dict[str, Any], before: Settings) -> Settings:
    """The settings given, the others as they were."""
    said = {name: value for name, value in given.items() if value is not None}
    return msgspec.structs.replace(before, **said)


def show_details(app: App, found: FederationDetails) -> None:
    """One federation: its own lines, and a table of its members."""
    if app.output != "table":
        dump(app.output, found)
        return
    from netspacectl.tables import Table

    federation, local = found.federation, found.local
    shown = msgspec.defstruct(
        "Shown",
        ["federation", "founder", "number", "vni", "layout", "ranges", "pools", "networks",
         "exposed", "pairs", *Settings.__struct_fields__],
    )(
        federation.name, federation.founder, federation.number, federation.vni, local.layout,
        local.ranges, local.pools, local.networks,
        [_ports(each) for each in local.exposed] or ["all"],
        [f"{pair.one}:{pair.other}:{pair.kind}" for pair in federation.pairs],
        *(getattr(federation.settings, name) for name in Settings.__struct_fields__),
    )  # fmt: skip
    for line in (*details(shown), "", *Table(MEMBERS).lines(federation.members)):
        click.echo(line)


def _ports(span: PortSpan) -> str:
    last = "" if span.last == span.first else f"-{span.last}"
    return f"{span.transport}/{span.first}{last}"


@command.command(
    "init",
    examples=[
        "netspacectl federation init prod --network vlan910",
        "netspacectl federation init prod --range 10.244.0.0/16 --expose tcp/443 --gateways 2",
    ],
)
@click.argument("federation", type=FEDERATION)
@brought
@click.option("--vni", type=click.IntRange(1, 2**24 - 1), help="Of its VXLAN meshes.")
@tuned
@asked_there
@click.pass_obj
def init(app: App, /, federation: str, vni: int | None, **given: Any) -> None:
    """Found a federation.

    The cluster is its first member, and its federation server keeps the others.
    """
    local = {name: given.pop(name) for name in Local.__struct_fields__}
    new = NewFederation(
        name=federation,
        local=Local(**local_of(**local)),
        vni=vni,
        settings=settings_of(given, Settings()),
    )
    show_details(app, app.ask_federation(lambda client, cluster: client.found(cluster, new)))


@command.command(
    "token",
    examples=[
        "netspacectl federation token prod",
        "netspacectl federation token prod --lifetime 5m -o json",
    ],
)
@click.argument("federation", type=FEDERATION)
@click.option(
    "--lifetime",
    type=Duration(),
    default=f"{TOKEN_LIFETIME / 60:g}m",
    show_default=True,
    help="How long it works, unless it is used before.",
)
@asked_there
@click.pass_obj
def token(app: App, federation: str, lifetime: float) -> None:
    """Make a token by which one other cluster can join, once."""
    made = app.ask_federation(lambda client, cluster: client.token(cluster, federation, lifetime))
    if app.output == "table":
        click.echo(made.token)
    else:
        write(app.output, made)


@command.command(
    "join",
    examples=[
        "netspacectl federation join nsf1.eyJmZWRlcmF0aW9uIjoicHJvZCJ9 --range 10.245.0.0/16",
        "netspacectl federation join - --name prod --network vlan920",
    ],
)
@click.argument("token")
@click.option(
    "--name",
    type=FEDERATION,
    metavar="FEDERATION",
    help="The federation that the token must be of; it is not used up for another one."
    "  [default: any]",
)
@brought
@asked_there
@click.pass_obj
def join(app: App, /, token: str, name: str | None, **given: Any) -> None:
    """Join a federation by a token of its founder.

    With - the token is read from the input, so that it stands in no list of processes.
    """
    text = sys.stdin.readline().strip() if token == "-" else token
    wanted = JoinFederation(token=text, name=name, local=Local(**local_of(**given)))
    show_details(app, app.ask_federation(lambda client, cluster: client.join(cluster, wanted)))


@command.command("list", examples=["netspacectl federation list"])
@asked_there
@click.pass_obj
def list_(app: App) -> None:
    """List the federations that the cluster is in."""
    found = app.ask_federation(lambda client, cluster: client.federations(cluster))
    write_list(app.output, FEDERATIONS, found)


@command.command("show", examples=["netspacectl federation show prod"])
@click.argument("federation", type=FEDERATION)
@asked_there
@click.pass_obj
def show(app: App, federation: str) -> None:
    """Show a federation and its members."""
    found = app.ask_federation(lambda client, cluster: client.federation(cluster, federation))
    show_details(app, found)


@command.command(
    "set",
    examples=[
        "netspacectl federation set prod --range 10.244.0.0/16 --range fd00:244::/64",
        "netspacectl federation set prod --expose tcp/443 --expose udp/53",
        "netspacectl federation set prod --pair east:west:homogeneous --gateways 2",
    ],
)
@click.argument("federation", type=FEDERATION)
@brought
@click.option(
    "--pair",
    "pairs",
    multiple=True,
    type=PairKind(),
    help="How two members reach one another, where it does not follow from their CNIs; at the"
    " founder; repeatable.",
)
@tuned
@asked_there
@click.pass_obj
def set_(app: App, /, federation: str, pairs: tuple[Pair, ...], **given: Any) -> None:
    """Change what the cluster brings in.

    What is given replaces all that there was of its kind.
    At the founder, pairs and settings too.
    """
    local = local_of(**{name: given.pop(name) for name in Local.__struct_fields__})
    tuning = any(value is not None for value in given.values())
    if not (local or pairs or tuning):
        raise click.UsageError("nothing to change is given", click.get_current_context())
    change = ChangeFederation(**local, pairs=list(pairs) or UNSET)

    async def changed(client: Any, cluster: str) -> FederationDetails:
        wanted = change
        if tuning:
            now = await client.federation(cluster, federation)
            settings = settings_of(given, now.federation.settings)
            wanted = msgspec.structs.replace(change, settings=settings)
        return cast(FederationDetails, await client.change(cluster, federation, wanted))

    show_details(app, app.ask_federation(changed))


@command.command("remove", examples=["netspacectl federation remove prod west"])
@click.argument("federation", type=FEDERATION)
@click.argument("member", type=CLUSTER)
@asked_there
@click.pass_obj
def remove(app: App, federation: str, member: str) -> None:
    """Put another cluster out of a federation (the founder)."""
    app.ask_federation(lambda client, cluster: client.remove_member(cluster, federation, member))
    say(app.output, f"cluster {member} is no member of federation {federation}")


@command.command("leave", examples=["netspacectl federation leave prod"])
@click.argument("federation", type=FEDERATION)
@click.option("--force", is_flag=True, help="Even if the founder cannot be told.")
@asked_there
@click.pass_obj
def leave(app: App, federation: str, force: bool) -> None:
    """Leave a federation: its pods are not reached any more."""
    app.ask_federation(lambda client, cluster: client.leave(cluster, federation, force=force))
    say(app.output, f"federation {federation} left")


@command.command("delete", examples=["netspacectl federation delete prod"])
@click.argument("federation", type=FEDERATION)
@click.option("--force", is_flag=True, help="Even if it has other members.")
@asked_there
@click.pass_obj
def delete(app: App, federation: str, force: bool) -> None:
    """End a federation that this cluster has founded."""
    app.ask_federation(lambda client, cluster: client.delete(cluster, federation, force=force))
    say(app.output, f"federation {federation} deleted")


for verb in (status, verify, diagnose, bench, picture):
    command.add_command(asked_there(verb))
