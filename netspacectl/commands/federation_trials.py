"""`netspacectl federation verify` and `bench`: real traffic between the nodes of two clusters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from netspace.messages.federation_trials import (
    MOST_RATE,
    NewTrial,
    PodTarget,
    TrialReport,
    longest,
)
from netspace.problems import Problem
from netspacectl import exits
from netspacectl.app import App
from netspacectl.output import dump, write_list
from netspacectl.text import printable
from netspacectl.tree import Verb
from netspacectl.words import FEDERATION, NODE, Context, Duration, Parameter, Type, label

if TYPE_CHECKING:
    from federation.client import Client

LOOK: Final = 0.5
"""Seconds between two looks at a trial."""
MARGIN: Final = 30.0
"""Seconds more than a trial may take."""
F = TypeVar("F", bound=Callable[..., Any])


class PodAddress(Type):
    """`10.2.0.5`, `10.2.0.5:443`, `fd00::5` or `[fd00::5]:443`."""

    name = "pod"

    def convert(self, value: Any, param: Parameter, ctx: Context) -> PodTarget:
        if isinstance(value, PodTarget):
            return value
        try:
            return pod_of(str(value))
        except ValueError:
            self.fail(
                f"{str(value)[:80]!r}: write 10.2.0.5, 10.2.0.5:443 or [fd00::5]:443", param, ctx
            )


def pod_of(text: str) -> PodTarget:
    """`ValueError` for what is none."""
    host, port = text, ""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        if not rest.startswith(":"):
            raise ValueError(text)
        port = rest[1:]
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    elif text.endswith(":"):
        raise ValueError(text)
    address = str(ip_address(host))
    if host == text:
        return PodTarget(address=address)
    if not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65_535:
        raise ValueError(text)
    return PodTarget(address=address, port=int(port))


def _both_ways(function: F) -> F:
    for option in reversed(
        (
            click.argument("federation", type=FEDERATION),
            click.argument("member", type=label("cluster")),
            click.option(
                "--node",
                "nodes",
                multiple=True,
                type=NODE,
                metavar="NODE",
                help="By this node of the own cluster alone; repeatable.  [default: all of them]",
            ),
            click.option("--one-way", is_flag=True, help="Only from the own cluster's nodes."),
        )
    ):
        function = option(function)
    return function


@click.command(
    "verify",
    cls=Verb,
    examples=[
        "netspacectl federation verify prod west",
        "netspacectl federation verify prod west --to 10.245.3.17:443 --to 10.244.0.9",
    ],
)
@_both_ways
@click.option(
    "--to",
    "pods",
    multiple=True,
    type=PodAddress(),
    help="A pod too, of either cluster, reached from the nodes of the other one: ADDRESS by a ping,"
    " ADDRESS:PORT by a TCP connection; repeatable.",
)
@click.pass_context
def verify(
    ctx: click.Context,
    federation: str,
    member: str,
    nodes: tuple[str, ...],
    one_way: bool,
    pods: tuple[PodTarget, ...],
) -> None:
    """Name the hop that fails, by real traffic.

    The hops are node, underlay, tunnel, gateway and mtu, and with --to the pod. The nodes of the
    own cluster try their paths to the other one, that one's nodes, by its own servers, theirs to
    this one. It takes some seconds: nodes learn of it when they next speak to their server.
    The exit status is 5 where something fails.
    """
    from netspacectl.federation_views import TRIED, verified_rows

    app: App = ctx.obj
    new = NewTrial(cluster=member, nodes=list(nodes), pods=list(pods), both=not one_way)
    report = _tried(app, federation, new)
    rows = verified_rows(report)
    if app.output == "table":
        write_list(app.output, TRIED, rows)
        _say_left_out(report)
    else:
        dump(app.output, report)
    ctx.exit(exits.DIFFERS if any(row.fails for row in rows) else exits.DONE)


@click.command(
    "bench",
    cls=Verb,
    examples=[
        "netspacectl federation bench prod west",
        "netspacectl federation bench prod west --seconds 5 --rate 50 --node node-1 --one-way",
    ],
)
@_both_ways
@click.option(
    "--seconds",
    type=Duration(),
    default="2s",
    show_default=True,
    help="How long each path carries the load, 0.1 to 10 seconds.",
)
@click.option(
    "--rate",
    type=click.FloatRange(0, MOST_RATE / 1e6),
    default=10.0,
    show_default=True,
    help="The load in Mbit/s, all nodes of a cluster together; 0 for the round trip alone.",
)
@click.pass_context
def bench(
    ctx: click.Context,
    federation: str,
    member: str,
    nodes: tuple[str, ...],
    one_way: bool,
    seconds: float,
    rate: float,
) -> None:
    """Measure round trip, throughput and loss.

    Up to eight nodes of each cluster try up to four paths, one after the other, with packets as
    large as the path takes, at the given rate and not more: it shows that a path carries that much,
    not what it could carry. The exit status is 5 where a path has no figures.
    """
    from netspacectl.federation_views import BENCHED, benched_rows

    if not 0.1 <= seconds <= 10:
        raise click.BadParameter("0.1 to 10 seconds", ctx, param_hint="--seconds")
    app: App = ctx.obj
    new = NewTrial(
        cluster=member,
        what="bench",
        nodes=list(nodes),
        both=not one_way,
        seconds=seconds,
        rate=int(rate * 1e6),
    )
    report = _tried(app, federation, new)
    rows = benched_rows(report)
    if app.output == "table":
        write_list(app.output, BENCHED, rows)
        _say_left_out(report)
    else:
        dump(app.output, report)
    ctx.exit(exits.DIFFERS if any(row.why for row in rows) else exits.DONE)


def _tried(app: App, federation: str, new: NewTrial) -> TrialReport:
    """The trial once it is over; `Problem`."""

    async def tried(client: Client, cluster: str) -> TrialReport:
        report = await client.begin_trial(cluster, federation, new)
        try:
            async with asyncio.timeout(longest(new.what, new.seconds) + MARGIN):
                while not report.done:
                    await asyncio.sleep(LOOK)
                    report = await client.trial(cluster, federation, report.id)
        except TimeoutError:
            raise Problem("unavailable", "the trial does not end", do="ask again") from None
        return report

    return app.ask_federation(tried)


def _say_left_out(report: TrialReport) -> None:
    from netspacectl.federation_views import left_out

    for text in left_out(report):
        click.echo(printable(f"not tried: {text}"))
