"""The host's links put right: bonds, the links that pods' interfaces lie on, their settings.

Each function is a job in the host's namespace, or starts some. What fails is told in the report and
stops nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

import hostnet
from cni_plugins.attachment import Host
from cni_plugins.locks import held
from cni_plugins.node_state.desired import Desired, Parent, Setting, WantedBond, settings
from cni_plugins.node_state.faults import Step, bond_faults, parent_steps, unwanted
from cni_plugins.node_state.moving import Journal
from cni_plugins.node_state.report import Change, Failure, Report
from cni_plugins.protocol import CniError
from cni_plugins.records import Record
from cni_plugins.steps import in_thread
from hostnet import Kernel, KernelError, Link, Moving, Net, Take

LOCK_WAIT = 1.0
"""Seconds that a repair waits for an ADD which is making the same VLAN."""


async def mend_links(
    kernel: Kernel, host: Host, bonds: Bonds, wanted: Desired, report: Report
) -> None:
    """Bonds first, then what lies on them, then settings; and what nobody wants goes."""
    made = await in_thread(host.records.made.all)
    await kernel.run(None, lambda net: bonds.mend(net, wanted.bonds, report))
    for name, index in list(made.items()):
        link = report.links.get(name)
        if link is None or link.index != index:
            await in_thread(partial(host.records.made.forget, name, index))
            del made[name]
    for parent in wanted.parents:
        await _parent(kernel, host, parent, made, report)
    await kernel.run(None, lambda net: _settings(net, wanted.parents, made, report))
    await _unwanted(kernel, host, wanted, made, report)


def look(net: Net) -> dict[str, Link]:
    """The host's links by name."""
    return {link.name: link for link in hostnet.list_links(net)}


def settings_differ(net: Net, wanted: Iterable[Setting]) -> bool:
    """Whether any setting has another value; one that is not there differs from nothing."""
    for setting in wanted:
        try:
            if hostnet.read_sysctl(net, *setting.segments) != setting.value:
                return True
        except KernelError:
            continue
    return False


def settings_of(wanted: Desired, made: Mapping[str, int]) -> list[Setting]:
    """All settings of the links that pods' interfaces lie on."""
    return [each for parent in wanted.parents for each in settings(parent, own=parent.name in made)]


class Bonds:
    """The bonds, and those whose addresses came back because a gateway was lost: they are not
    tried again, since every try cuts the node off for a moment."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._given_up: dict[str, str] = {}

    def mend(self, net: Net, bonds: Iterable[WantedBond], report: Report) -> None:
        """Makes and repairs what differs."""
        for wanted in bonds:
            name = wanted.bond.name
            subject = f"bond {name}"
            try:
                if (why := self._given_up.get(name)) is not None:
                    report.failures.append(Failure(subject, why))
                elif (change := self._one(net, wanted)) is not None:
                    report.changes.append(Change(subject, *change))
            except KernelError as error:
                if isinstance(error, hostnet.GatewaySilent):
                    self._given_up[name] = str(error)
                report.failures.append(Failure(subject, str(error)))
        report.links = look(net)

    def _one(self, net: Net, wanted: WantedBond) -> tuple[str, str] | None:
        bond = wanted.bond
        if (cut_off := self._journal.read(bond.name)) is not None:
            hostnet.put_back(net, bond.name, cut_off)
            self._journal.done(bond.name)
        there = hostnet.find_link(net, bond.name)
        state = None if there is None else hostnet.bond_state(net, bond.name)
        found = bond_faults(bond, state)
        if not found:
            return None
        moved: list[str] = []

        def before(moving: Moving) -> None:
            self._journal.write(bond.name, moving)
            moved.extend(str(a) for goods in moving.values() for a in goods.addresses)

        take = None if wanted.take is None else Take(wanted.take, before)
        try:
            hostnet.ensure_bond(net, bond, take)
        finally:
            if moved:
                self._journal.done(bond.name)
        done = "made" if state is None else "put right"
        if moved:
            found.append(f"cards had {', '.join(moved)}, which moved to it")
        return ", ".join(found), done


async def _parent(
    kernel: Kernel, host: Host, parent: Parent, made: dict[str, int], report: Report
) -> None:
    subject = f"link {parent.name}"
    if parent.master not in report.links:
        if parent.pods:
            why = (
                f"this node has no link {parent.master}, and {parent.pods} pods' interfaces need it"
            )
            report.failures.append(Failure(subject, f"{why}: give it back"))
        return
    steps = parent_steps(parent, report.links, made)
    if not steps:
        return
    try:
        if any(step.act == "make" for step in steps):
            # Not while an ADD makes it, which may take it back.
            async with held(host.records.lock_file, f"vlan-{parent.name}", LOCK_WAIT):
                await kernel.run(None, lambda net: _take(net, parent, steps, report))
                link = report.links.get(parent.name)
                if link is not None and Change(subject, "it was missing", "made") in report.changes:
                    made[link.name] = link.index
                    await in_thread(lambda: host.records.made.remember(link.name, link.index))
        else:
            await kernel.run(None, lambda net: _take(net, parent, steps, report))
    except CniError:
        report.again = True


def _take(net: Net, parent: Parent, steps: Iterable[Step], report: Report) -> None:
    subject = f"link {parent.name}"
    for step in steps:
        try:
            if step.act == "make":
                there = hostnet.find_link(net, step.name) is not None
                hostnet.ensure_vlan(net, parent.master, parent.vlan)
                done = "there already" if there else "made"
            elif step.act == "up":
                hostnet.set_up(net, hostnet.get_link(net, step.name))
                done = f"{step.name} set up"
            else:
                link = hostnet.get_link(net, step.name)
                hostnet.set_mtu(net, link, step.value)
                if link.mtu < step.value:
                    report.lowered.setdefault(step.name, set()).add(link.mtu)
                done = f"{step.name} given the MTU {step.value}"
        except KernelError as error:
            report.failures.append(Failure(subject, str(error)))
            break
        report.changes.append(Change(subject, step.found, done))
    report.links = look(net)


def _settings(net: Net, parents: Iterable[Parent], made: Mapping[str, int], report: Report) -> None:
    for parent in parents:
        if parent.name not in report.links:
            continue
        for setting in settings(parent, own=parent.name in made):
            try:
                before = hostnet.write_sysctl(net, setting.value, *setting.segments)
            except (hostnet.Ipv6Missing, hostnet.SysctlMissing):
                continue
            except KernelError as error:
                report.failures.append(Failure(f"link {parent.name}", str(error)))
                continue
            if before != setting.value:
                name = "/".join(setting.segments)
                found = f"{name} was {before}, not {setting.value} ({setting.why})"
                report.changes.append(Change(f"link {parent.name}", found, "set"))


async def _unwanted(
    kernel: Kernel, host: Host, wanted: Desired, made: Mapping[str, int], report: Report
) -> None:
    links = report.links
    if not set(made) - {parent.name for parent in wanted.parents}:
        return
    forwarded = await kernel.run(None, hostnet.list_forwarded)
    for link in unwanted(wanted, links, made, forwarded):
        subject = f"link {link.name}"
        try:
            async with held(host.records.lock_file, f"vlan-{link.name}", 0):
                # An ADD that came meanwhile has its record on disk before it makes anything.
                records = await in_thread(host.records.all)
                if any(not record.master or _lies_on(record, link) for record in records):
                    report.again = True
                    return
                await kernel.run(None, partial(hostnet.delete_link, which=link.index))
        except CniError:
            report.again = True
        except KernelError as error:
            report.failures.append(Failure(subject, str(error)))
        else:
            await in_thread(partial(host.records.made.forget, link.name, link.index))
            report.links.pop(link.name, None)
            report.changes.append(Change(subject, "no network and no pod wants it", "deleted"))


def _lies_on(record: Record, link: Link) -> bool:
    vlan = record.vlan
    return vlan is not None and hostnet.vlan_name(record.master, vlan) == link.name
