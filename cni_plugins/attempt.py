"""One ADD under way, and the steps that our two plugins share: record, older sandboxes, slot."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from cni_plugins.answers import result_of
from cni_plugins.attachment import Host, forget, save
from cni_plugins.failures import FOREIGN_INTERFACE, to_cni_error
from cni_plugins.leases import acquire, clear_older_sandboxes, give_back, surely_not_done
from cni_plugins.netconf import (
    OWN_IPAM,
    NetConf,
    annotations_passed,
    ipam_routes,
    pod_of,
    selections,
)
from cni_plugins.protocol import TRY_AGAIN, CniError, Invocation
from cni_plugins.records import Plugin, Record
from cni_plugins.results import Result
from cni_plugins.steps import Undo
from netspace.messages import Selection


class Attempt(msgspec.Struct, kw_only=True):
    """What the steps of an ADD work on. `reused`: an earlier ADD left a record of the attachment.
    `pending`: the record of a DEL whose release is not done. `stuck`: the interface could not be
    removed again, so the record must stay."""

    host: Host
    invocation: Invocation
    conf: NetConf
    record: Record
    undo: Undo
    reused: bool
    pending: Record | None
    stuck: bool = False

    async def taken_back(self, error: BaseException) -> None:
        """Undoes every step. `CniError` 11 where something is left: it is in the record, and the
        next call of this attachment or the node's agent sees to it."""
        failures = await self.undo.run()
        if failures:
            raise CniError(
                TRY_AGAIN,
                to_cni_error(error).msg if isinstance(error, Exception) else "interrupted",
                f"{error}; and it is not all undone yet: {'; '.join(map(str, failures))}: the rest "
                "is done by the DEL that follows, or later",
            ) from error


def begin(
    host: Host, invocation: Invocation, conf: NetConf, old: Record | None, plugin: Plugin
) -> Attempt:
    """An attempt with the record of an attachment that is about to be made. An earlier ADD's claim
    is used again, so that what it may hold is found; after a DEL it is a new one, so that a release
    of the old one that arrives late frees nothing."""
    own = conf.ipam.type == OWN_IPAM
    reused = old is not None and not old.pending
    claim = (old.claim if old and reused else None) or host.new_claim()
    record = Record(
        state="adding",
        plugin=plugin,
        network=invocation.network,
        ipam=conf.ipam.type,
        cluster=host.cluster,
        node=host.node,
        container=invocation.container,
        ifname=invocation.ifname,
        netns=invocation.netns,
        pod=pod_of(invocation),
        claim=claim if own else None,
    )
    return Attempt(
        host=host,
        invocation=invocation,
        conf=conf,
        record=record,
        undo=Undo(),
        reused=reused,
        pending=None if reused else old,
    )


def refuse_other_network(old: Record | None, invocation: Invocation) -> None:
    """`CniError` 111 where the sandbox has the interface from another CNI network."""
    if old is not None and old.network != invocation.network:
        raise CniError(
            FOREIGN_INTERFACE,
            f"{invocation.ifname} of {invocation.container} belongs to the network {old.network}",
            "choose another interface name for this network",
        )


async def write_record(attempt: Attempt) -> None:
    """Puts the record on disk, before anything is made or asked for."""
    await save(attempt.host, attempt.record)
    attempt.host.step("record")


async def drop_record(attempt: Attempt) -> None:
    """Undoes `write_record`, unless there is an interface left to remember."""
    if attempt.stuck:
        attempt.record.state = "releasing"
        await save(attempt.host, attempt.record)
    else:
        await forget(attempt.host, attempt.record.key)


async def wishes(host: Host, conf: NetConf, invocation: Invocation) -> tuple[Selection, Selection]:
    """What the pod asks for and the conflist's default, by annotations of the runtime's or, where
    it passes none, of Kubernetes' API."""
    annotations: Mapping[str, str] | None = None
    pod = pod_of(invocation)
    if host.pods is not None and not annotations_passed(invocation) and pod.namespace and pod.name:
        annotations = await host.pods.annotations(pod)
        host.step("annotations")
    return selections(conf, invocation, annotations)


async def lease(attempt: Attempt) -> Result:
    """The slot of our own server as an IPAM result."""
    host, record = attempt.host, attempt.record
    if attempt.pending is not None:
        await give_back(host, attempt.pending)
        host.step("pending release")
    asked, default = await wishes(host, attempt.conf, attempt.invocation)
    ipam_routes(attempt.conf)  # Wrong ones are refused before a slot is asked for.
    may_hold = attempt.reused

    async def take_back() -> None:
        if may_hold:
            record.state = "releasing"
            try:
                await give_back(host, record)
            except BaseException:
                await save(host, record)
                raise
        await drop_record(attempt)

    attempt.undo.push("record", take_back)
    await write_record(attempt)
    removed = await clear_older_sandboxes(host, record)
    host.step("older sandboxes")
    may_hold = True
    try:
        allocation = await acquire(host, record, asked, default, removed)
    except BaseException as error:
        may_hold = attempt.reused or not surely_not_done(error)
        raise
    host.step("slot")
    return result_of(allocation, attempt.conf)
