"""`netspacectl federation diagnose`: what is wrong, why, and what to do."""

from __future__ import annotations

import time

import click

from netspacectl import exits
from netspacectl.app import App
from netspacectl.output import say, write_list
from netspacectl.tree import Verb


@click.command(
    "diagnose",
    cls=Verb,
    examples=["netspacectl federation diagnose", "netspacectl federation diagnose -o json"],
)
@click.pass_context
def diagnose(ctx: click.Context) -> None:
    """Say what is wrong, why and what to do.

    It looks at what the leader knows (contact, clocks, certificates, overlaps, gateways) and at
    what every node finds wrong with itself and its paths (closed ports, MTU, what the kernel lacks,
    charon, firewall). Nothing is sent: for that there is 'netspacectl federation verify'.
    The exit status is 5 where something is a fault; a warning keeps no pod from reaching others.
    """
    from netspacectl.federation_diagnosis import FINDINGS, diagnosed

    app: App = ctx.obj
    status = app.ask_federation(lambda client, cluster: client.status(cluster))
    found = diagnosed(status, time.time())
    if found or app.output != "table":
        write_list(app.output, FINDINGS, found)
    else:
        say(app.output, "nothing is wrong")
    ctx.exit(exits.DIFFERS if any(each.verdict == "fault" for each in found) else exits.DONE)
