"""`netspacectl pool`: isolated parts of a network, which pods get their addresses from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click
import msgspec
from msgspec import UNSET

from netspace.messages import ChangePool, Elastic, NewPool, Pool, PoolKind, ResizePool
from netspacectl.app import App
from netspacectl.options import existing, naming, owner_of, to_owner
from netspacectl.output import say, write, write_list
from netspacectl.tree import Noun
from netspacectl.views import POOLS
from netspacectl.words import NAMESPACE_OR_ANY, Bounds, Duration, Replicas, Size, Span, label

if TYPE_CHECKING:
    from ipam_server.client import Client

command = Noun("pool", help="Pools: parts of a network that pods get addresses from.")
NAME = label("pool")
KINDS: tuple[PoolKind, ...] = ("application", "netspace", "default")
F = TypeVar("F", bound=Callable[..., Any])


def space(what: str) -> Callable[[F], F]:
    """`--size` or `--range`, exactly one of which a command needs."""

    def options(function: F) -> F:
        ranges = click.option(
            "--range",
            "ranges",
            multiple=True,
            type=Span(),
            help=f"Addresses to {what}: one, FIRST-LAST or a subnet; repeatable.",
        )
        size = click.option("--size", type=Size(), help=f"How many addresses to {what}.")
        return size(ranges(function))

    return options


def elastic(function: F) -> F:
    """The options that bound a pool which grows and shrinks by itself."""
    for option in reversed(
        (
            click.option(
                "--elastic",
                "bounds",
                type=Bounds(),
                help="Grow and shrink by itself between so many addresses: 4:64; none: a fixed"
                " size.",
            ),
            click.option(
                "--step",
                type=click.IntRange(1, 65_536),
                help="By how many addresses an elastic pool grows and shrinks at once.  [default:"
                " 8]",
            ),
            click.option(
                "--low",
                type=click.IntRange(0, 65_536),
                help="Grow as soon as fewer addresses than this are free.  [default: 0, when one"
                " is needed]",
            ),
            click.option(
                "--quiet",
                type=Duration(),
                help="How long addresses must have been left over before they are given back."
                "  [default: 5m]",
            ),
        )
    ):
        function = option(function)
    return function


def bounds_of(bounds: tuple[int, int] | None, before: Elastic | None, **given: Any) -> Elastic:
    """The bounds given, the others as they were. Raises `click.UsageError` without any."""
    if bounds is None and before is None:
        raise click.UsageError(
            "--step, --low and --quiet are for elastic pools: give --elastic too",
            click.get_current_context(),
        )
    known = {} if before is None else msgspec.structs.asdict(before)
    if bounds is not None:
        known |= {"minimum": bounds[0], "maximum": bounds[1]}
    return Elastic(**(known | {name: what for name, what in given.items() if what is not None}))


def one_of(size: str | None, ranges: Sequence[str]) -> None:
    """Refuses both and neither."""
    if (size is None) == (not ranges):
        raise click.UsageError(
            "give --size or --range" + ("" if size is None else ", not both"),
            click.get_current_context(),
        )


@command.command(
    "create",
    examples=[
        "netspacectl pool create tenant-a --kind netspace --network vlan910 --size 64"
        " --namespace team-a",
        "netspacectl pool create tenant-b --kind netspace --network vlan920"
        " --range 10.92.0.16-10.92.0.31 --range 10.92.0.64/27 --namespace team-b --cooldown 5m",
        "netspacectl pool create orders-db --kind application --network vlan910 --parent tenant-a"
        " --elastic 4:64 --step 4 --namespace team-a --retention 24h",
        "netspacectl pool create default --kind default --network vlan910 --size 100",
    ],
)
@click.argument("pool", type=NAME)
@click.option(
    "--kind",
    type=click.Choice(KINDS),
    required=True,
    help="application: for one stateful application; netspace: chosen by name; default: the"
    " cluster's one for pods that choose nothing.",
)
@naming(
    "--network",
    "network",
    required=True,
    help="The network it is a part of.",
)
@naming(
    "--parent",
    "pool",
    help="The netspace pool that an application pool is carved from.  [default: the total pool]",
)
@space("carve")
@click.option(
    "--namespace",
    "namespaces",
    multiple=True,
    type=NAMESPACE_OR_ANY,
    metavar="NAMESPACE",
    help="A namespace whose pods may name the pool, '*' for all; repeatable.",
)
@click.option(
    "--cooldown",
    type=Duration(),
    default="30s",
    show_default=True,
    help="How long a released address rests before another pod gets it: 30s, 5m, 2h.",
)
@click.option(
    "--retention",
    type=Duration(),
    default="0s",
    show_default=True,
    help="How long a released address is kept for the pod name that had it.",
)
@click.option(
    "--probe",
    is_flag=True,
    help="Have nodes ask the VLAN for another owner of an address before a pod gets it.",
)
@elastic
@click.pass_obj
def create(
    app: App,
    pool: str,
    kind: PoolKind,
    network: str,
    parent: str | None,
    size: str | None,
    ranges: tuple[str, ...],
    namespaces: tuple[str, ...],
    cooldown: float,
    retention: float,
    probe: bool,
    bounds: tuple[int, int] | Literal["none"] | None,
    step: int | None,
    low: int | None,
    quiet: float | None,
) -> None:
    """Create a pool.

    It is carved from its network's total pool or from another pool.
    Give --size for the lowest free addresses, or --range for certain ones.
    An elastic pool begins with its minimum if neither is given.
    """
    wanted = None
    if bounds not in (None, "none") or any(each is not None for each in (step, low, quiet)):
        pair = None if bounds == "none" else bounds
        wanted = bounds_of(pair, None, step=step, low=low, quiet=quiet)
    if wanted is None or (size is not None and ranges):
        one_of(size, ranges)
    new = NewPool(
        name=pool,
        kind=kind,
        network=network,
        parent=parent,
        ranges=list(ranges),
        size=size,
        namespaces=list(dict.fromkeys(namespaces)),
        cooldown=cooldown,
        retention=retention,
        elastic=wanted,
        probe=probe,
    )
    write(app.output, app.ask_in_cluster(lambda client, cluster: client.create_pool(cluster, new)))


@command.command("list", examples=["netspacectl pool list", "netspacectl pool list -o yaml"])
@click.pass_obj
def list_(app: App) -> None:
    """List the pools and how much of them is in use."""
    write_list(app.output, POOLS, app.ask_in_cluster(lambda client, cluster: client.pools(cluster)))


@command.command("show", examples=["netspacectl pool show tenant-a"])
@existing("pool")
@click.pass_obj
def show(app: App, pool: str) -> None:
    """Show a pool."""
    write(app.output, app.ask_in_cluster(lambda client, cluster: client.pool(cluster, pool)))


@command.command(
    "change",
    examples=[
        "netspacectl pool change tenant-a --cooldown 2h",
        "netspacectl pool change tenant-a --elastic 8:128 --low 4",
        "netspacectl pool change tenant-a --elastic none",
        "netspacectl pool change orders-db --replicas 5 --surplus 2",
        "netspacectl pool change tenant-a --add-namespace team-c --remove-namespace team-a",
    ],
)
@existing("pool")
@click.option(
    "--add-namespace",
    "added",
    multiple=True,
    type=NAMESPACE_OR_ANY,
    metavar="NAMESPACE",
    help="A namespace whose pods may name the pool from now on; repeatable.",
)
@click.option(
    "--remove-namespace",
    "removed",
    multiple=True,
    type=NAMESPACE_OR_ANY,
    metavar="NAMESPACE",
    help="A namespace whose pods may no longer name it; repeatable.",
)
@click.option("--cooldown", type=Duration(), help="How long a released address rests.")
@click.option(
    "--retention",
    type=Duration(),
    help="How long a released address is kept for the pod name that had it.",
)
@click.option(
    "--probe/--no-probe",
    default=None,
    help="Have nodes ask the VLAN for another owner of an address before a pod gets it.",
)
@elastic
@click.option(
    "--replicas",
    type=Replicas(),
    help="Of an application pool: have an address for each of so many replicas from now on; none:"
    " follow no replicas.",
)
@click.option(
    "--surplus",
    type=click.IntRange(0, 65_536),
    help="How many addresses more than replicas.  [default: 0]",
)
@click.pass_obj
def change(
    app: App,
    pool: str,
    added: tuple[str, ...],
    removed: tuple[str, ...],
    cooldown: float | None,
    retention: float | None,
    probe: bool | None,
    bounds: tuple[int, int] | Literal["none"] | None,
    step: int | None,
    low: int | None,
    quiet: float | None,
    replicas: int | Literal["none"] | None,
    surplus: int | None,
) -> None:
    """Change who may name a pool, its times and its bounds.

    Addresses that pods hold stay theirs.
    """
    tuned = any(each is not None for each in (step, low, quiet))
    given = (bounds, cooldown, retention, probe, replicas, surplus)
    if not (added or removed or tuned) and all(each is None for each in given):
        raise click.UsageError("nothing to change is given", click.get_current_context())
    both = set(added) & set(removed)
    if both:
        raise click.UsageError(
            f"namespace {min(both)} is both added and removed", click.get_current_context()
        )

    def namespaces(now: Pool) -> list[str]:
        return [name for name in dict.fromkeys((*now.namespaces, *added)) if name not in removed]

    async def changed(client: Client, cluster: str) -> Pool:
        wanted = ChangePool(
            cooldown=UNSET if cooldown is None else cooldown,
            retention=UNSET if retention is None else retention,
            probe=UNSET if probe is None else probe,
            surplus=UNSET if surplus is None else surplus,
        )
        if replicas is not None:
            wanted.replicas = None if replicas == "none" else replicas
        now = await client.pool(cluster, pool) if added or removed or bounds or tuned else None
        if now is not None:
            wanted.revision = now.revision
        if now is not None and (added or removed):
            wanted.namespaces = namespaces(now)
        if bounds == "none":
            if tuned:
                bounds_of(None, None)
            wanted.elastic = None
        elif now is not None and (bounds is not None or tuned):
            wanted.elastic = bounds_of(bounds, now.elastic, step=step, low=low, quiet=quiet)
        return await client.change_pool(cluster, pool, wanted)

    write(app.output, app.ask_in_cluster(changed))


@command.command(
    "grow",
    examples=[
        "netspacectl pool grow tenant-a --size 32",
        "netspacectl pool grow tenant-a --range 10.91.0.128/28",
    ],
)
@existing("pool")
@space("add")
@click.pass_obj
def grow(app: App, pool: str, size: str | None, ranges: tuple[str, ...]) -> None:
    """Add free addresses to a pool, from where it was carved."""
    one_of(size, ranges)
    resize = ResizePool(size=size, ranges=list(ranges))
    write(
        app.output,
        app.ask_in_cluster(lambda client, cluster: client.grow_pool(cluster, pool, resize)),
    )


@command.command(
    "shrink",
    examples=[
        "netspacectl pool shrink tenant-a --size 16",
        "netspacectl pool shrink tenant-a --range 10.91.0.128/28",
    ],
)
@existing("pool")
@space("give back")
@click.pass_obj
def shrink(app: App, pool: str, size: str | None, ranges: tuple[str, ...]) -> None:
    """Take addresses out of a pool.

    They go back to where they came from; by size the highest go. Those in use stay.
    """
    one_of(size, ranges)
    resize = ResizePool(size=size, ranges=list(ranges))
    write(
        app.output,
        app.ask_in_cluster(lambda client, cluster: client.shrink_pool(cluster, pool, resize)),
    )


@command.command(
    "hand-over",
    examples=[
        "netspacectl pool hand-over tenant-a --to kubernetes",
        "netspacectl pool hand-over tenant-a --to people",
    ],
)
@existing("pool")
@to_owner
@click.pass_obj
def hand_over(app: App, pool: str, owner: str) -> None:
    """Say who looks after a pool from now on.

    What Kubernetes looks after follows the object pools.ipam.netspace.io of the same name and is
    changed with kubectl alone; what people look after, by netspacectl alone. Nothing else of the
    pool changes.
    """
    new = owner_of(owner)
    write(
        app.output,
        app.ask_in_cluster(lambda client, cluster: client.hand_over_pool(cluster, pool, new)),
    )


@command.command("delete", examples=["netspacectl pool delete tenant-a"])
@existing("pool")
@click.pass_obj
def delete(app: App, pool: str) -> None:
    """Delete a pool that is not in use.

    Its addresses go back to where they came from.
    """
    app.ask_in_cluster(lambda client, cluster: client.delete_pool(cluster, pool))
    say(app.output, f"pool {pool} deleted")
