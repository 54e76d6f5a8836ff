"""`netspace-agent diagnose` on a node's way to Services."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import hostnet
from cni_plugins.findings import Finding
from cni_plugins.node_config import NodeConfig
from cni_plugins.records import Record
from cni_plugins.services.book import Book, read_book
from cni_plugins.services.faults import path_filter
from cni_plugins.services.handed import read_handed
from cni_plugins.services.keeper import NodeServices, VmacClient
from cni_plugins.services.wanted import parent_of
from cni_plugins.steps import in_thread
from hostnet import Kernel, KernelError, Net
from netspace.messages import Network

_AGENT = "netspace-agent serve puts it right; where it comes back, see what else changes it"


async def services_findings(
    config: NodeConfig,
    kernel: Kernel,
    client: VmacClient,
    networks: Sequence[Network],
    records: Sequence[Record],
) -> list[Finding]:
    """All findings; where the configuration wants no way to Services only whether pods would need
    one."""
    if config.services is None:
        handed = await in_thread(lambda: read_handed(Path(config.handover)))
        said = "a federation has routes for pods, and without the section services no way for them"
        do = "add the section services to the configuration"
        return [Finding("fault", "federation", said, do)] if handed else []
    folder = Path(config.state_dir)
    services = NodeServices(config, kernel, client, folder)
    book = await in_thread(lambda: read_book(folder))
    do = "load the kernel's modules, or do without Services"
    found = [Finding("fault", "services", line, do) for line in await services.missing()]
    if not found:
        found.append(Finding("ok", "services", "the kernel has what they need"))
    try:
        faults = await services.faults(records)
        found += [Finding("fault", "services", fault, _AGENT) for fault in faults]
        if book.places and not faults:
            found.append(Finding("ok", "services", "chains, hooks, sets and settings are ours"))
        found += await kernel.run(None, lambda net: list(_vmacs(net, book, networks)))
    except KernelError as error:
        found.append(Finding("fault", "services", str(error), error.remedy))
    return found


def _vmacs(net: Net, book: Book, networks: Sequence[Network]) -> Iterator[Finding]:
    for network in networks:
        parent = hostnet.find_link(net, parent_of(network))
        if parent is not None and book.segment(network.name) is None:
            do = "see the agent's log for why there is none, or start netspace-agent serve"
            yield Finding("fault", f"network {network.name}", f"no vmac on {parent.name}", do)
    for place in book.places:
        if hostnet.find_link(net, place.name) is not None:
            strict = path_filter(net, place.name)
            said = f"{', '.join(place.addresses)} on {place.parent}, rp_filter {strict}"
            yield Finding("ok", f"vmac {place.name}", said)
