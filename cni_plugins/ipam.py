"""`netspace-ipam`: an IPAM plugin on its own, below any main plugin.

It keeps the same records as the macvlan plugin and holds the same lock; what it leaves to its
caller is the interface.
"""

from __future__ import annotations

import logging

from cni_plugins.attachment import Host, key_of, load, log_fields, save
from cni_plugins.attempt import begin, lease, refuse_other_network
from cni_plugins.check import check_lease, required_prev_result
from cni_plugins.netconf import OWN_IPAM, parse_netconf
from cni_plugins.protocol import INVALID_CONFIG, CniError, Invocation
from cni_plugins.results import Result

logger = logging.getLogger(__name__)


async def add(host: Host, invocation: Invocation) -> Result:
    """Addresses, gateways and routes for the attachment; the same ones when it asks again."""
    conf = parse_netconf(invocation.config)
    if conf.ipam.type != OWN_IPAM:
        raise CniError(
            INVALID_CONFIG,
            f"ipam.type is {conf.ipam.type!r}",
            f"{OWN_IPAM} was called: name it there",
        )
    async with host.lock(key_of(invocation)):
        old = await load(host, key_of(invocation))
        refuse_other_network(old, invocation)
        attempt = begin(host, invocation, conf, old, "netspace-ipam")
        record = attempt.record
        try:
            result = await lease(attempt)
            record.result, record.state = result, "held"
            await save(host, record)
            host.step("held")
        except BaseException as error:
            await attempt.taken_back(error)
            raise
        attempt.undo.forget()
    logger.info(
        "addresses are given",
        extra={**log_fields(record), "addresses": [ip.address for ip in result.ips]},
    )
    return result


async def check(host: Host, invocation: Invocation) -> None:
    """The server must hold what `prevResult` lists."""
    await check_lease(host, invocation, required_prev_result(invocation))
