"""The firewall's part of a node's federations: what this kernel can, and sets, chains and hooks
brought to what they should be, again when another program rewrote a table.

Where another program too wants to be first, ours are hooked ahead of its chains again only every
`PATIENCE` seconds, so that the two never keep each other busy; a hook that is gone, or behind a
verdict, is put right at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from federation.desired import DesiredNode
from federation.node.chains import (
    HOOKS,
    PREFIX,
    Able,
    Bytecode,
    leads_away,
    marks_text,
    names_sctp,
    redirected,
    sets_of,
    share,
    tables_of,
    wanted_at_all,
)
from federation.node.keeping import Done
from federation.plan.hashing import bytecode
from hostnet import Kernel, KernelError, Net
from hostnet import firewall as fw
from hostnet import sets as ipsets
from hostnet.chains import (
    IPV4,
    IPV6,
    Family,
    Judge,
    Present,
    Tables,
    differences,
    faults,
    removal_text,
    restore_text,
    settles,
)
from hostnet.warm import WarmRestores

SETTLE: Final = 1.0
"""Seconds after a write until what others may have written beside it is looked for; flows that
move in that time need not wait for the reading."""
PATIENCE: Final = 30.0
_TRIAL: Final = "netspace-fed-trial"
_ALL: Final = '-m bpf --bytecode "1,6 0 0 1" -j RETURN'


@dataclass(frozen=True)
class Ability:
    """By family the firewall, what its rules may use, and in words what is missing."""

    firewalls: dict[Family, fw.Firewall] = field(default_factory=dict)
    able: Able = field(default_factory=Able)
    missing: tuple[str, ...] = ()


def probe(net: Net) -> Ability:
    """Finds out; what it makes for that is gone afterwards."""
    firewalls: dict[Family, fw.Firewall] = {}
    missing = []
    for family in (IPV4, IPV6):
        try:
            firewalls[family] = fw.find_firewall(net, family)
        except KernelError as error:
            missing.append(f"no federation by IPv{family}: {error.why}")
    if not firewalls:
        return Ability(missing=tuple(missing))
    one = next(iter(firewalls.values()))
    made = ipsets.has_set_type(net, "hash:net", _TRIAL)
    sets = made and fw.matches_sets(net, one, {_TRIAL: "src"})
    if made:
        ipsets.delete_sets(net, [_TRIAL])
    if not sets:
        missing.append("no sets of kind hash:net: a rule for each pair of ranges instead")
    buckets = fw.takes_rules(net, one, "mangle", [_ALL])
    if not buckets:
        missing.append("no match bpf (xt_bpf): all flows to a cluster take one gateway")
    reject = fw.takes_rules(net, one, "filter", ["-p tcp -j REJECT --reject-with tcp-reset"])
    sctp = fw.takes_rules(net, one, "filter", ["-p sctp -m sctp --dport 9 -j RETURN"])
    return Ability(firewalls, Able(sets, buckets, reject, sctp), tuple(missing))


class FirewallDriver:
    """Call it with the desired node to bring the firewall in line; `differs` says cheaply whether
    somebody changed rules or sets since. `missing`: what this kernel lacks, once it was called.
    While there are tunnels, a program of each family waits for flows to move; `close` ends them."""

    def __init__(
        self,
        kernel: Kernel,
        program: Bytecode = bytecode,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kernel = kernel
        self._program = program
        self._clock = clock
        self._ability: Ability | None = None
        self._marks: tuple[bytes | int, ...] | None = None
        # Whether the marks are of what was read, and else what was written and when: what others
        # wrote beside it is not known until the next reading.
        self._read = True
        self._wrote: tuple[list[str], float] = [], -SETTLE
        self._pushed = -PATIENCE
        self._waits = False
        self._sets: list[str] = []
        self._last: DesiredNode | None = None
        self._newest: DesiredNode | None = None
        self._warm = WarmRestores()

    def close(self) -> None:
        self._warm.close()

    @property
    def left_out(self) -> str:
        """What of the rules is left out since the kernel has not what it needs; empty: nothing."""
        ability, last = self._ability, self._last
        if ability is None or ability.able.sctp or last is None or not names_sctp(last):
            return ""
        return "no match sctp (xt_sctp): what is exposed by SCTP is refused"

    @property
    def missing(self) -> tuple[str, ...]:
        return () if self._ability is None else self._ability.missing

    def hurry(self, desired: DesiredNode) -> None:
        """Has flows take other tunnels at the next moment, though a round goes on."""
        self._newest = desired

    async def __call__(self, desired: DesiredNode) -> Done:
        last, self._last = self._last, None
        self._newest = desired
        self._last, done = await self._kernel.run(None, lambda net: self._keep(net, last, desired))
        return Done(tuple(done), ())

    async def differs(self) -> bool:
        """Whether rules, or the sizes of our sets, are others than they were left; some tens of
        microseconds and a thread."""
        ability = self._ability
        if ability is None or self._marks is None or self._last is None:
            return False
        if self._waits and self._clock() - self._pushed >= PATIENCE:
            return True
        if not self._read and self._clock() - self._wrote[1] >= SETTLE:
            return True
        return await self._kernel.run(None, lambda net: self._look(net, ability)) != self._marks

    async def faults(self, desired: DesiredNode) -> list[str]:
        """What is not as it should be, in words; nothing is changed."""

        def job(net: Net) -> list[str]:
            ability = self._able(net)
            found = []
            for family, firewall in ability.firewalls.items():
                tables = tables_of(desired, family, ability.able, self._program)
                present = fw.read_firewall(net, firewall)
                found += [f"IPv{family}: {each}" for each in faults(tables, HOOKS, present)]
            return found

        return await self._kernel.run(None, job) if wanted_at_all(desired) else []

    def _keep(
        self, net: Net, last: DesiredNode | None, desired: DesiredNode
    ) -> tuple[DesiredNode, list[str]]:
        """The node as the firewall has it now, and what was changed. Flows are moved first, in one
        step; where all else is as it was and nobody changed any of it, that is all."""
        ability = self._ability
        if last is None or ability is None:
            return self._ensure(net, desired)
        untouched = self._look(net, ability) == self._marks
        led, moved = self._move(net, ability, last, desired)
        if moved and untouched and (share(led), led.flows) == (share(desired), desired.flows):
            return desired, moved
        kept, done = self._ensure(net, desired)
        return kept, moved + done

    def _move(
        self, net: Net, ability: Ability, last: DesiredNode, desired: DesiredNode
    ) -> tuple[DesiredNode, list[str]]:
        """Has flows take the tunnels that they are to take, where they take any."""
        led = redirected(last, desired)
        if led.flows == last.flows:
            return last, []
        texts = {
            firewall: marks_text(led, family, ability.able, self._program)
            for family, firewall in ability.firewalls.items()
        }
        self._warm.restore(net, texts)
        self._marks = self._look(net, ability)
        done = ["flows take other tunnels"]
        self._read, self._wrote = False, (done, self._clock())
        self._warm.prepare(texts)
        return led, done

    def _overtaken(
        self, net: Net, ability: Ability, desired: DesiredNode, done: list[str]
    ) -> DesiredNode:
        """What is wanted by now as to the tunnels that flows take."""
        led, moved = self._move(net, ability, desired, self._newest or desired)
        done += moved
        return led

    def _ensure(self, net: Net, desired: DesiredNode) -> tuple[DesiredNode, list[str]]:
        ability = self._able(net)
        wanted = wanted_at_all(desired)
        sets = sets_of(desired, ability.able)
        self._sets = sorted(each.name for each in sets)
        before = self._look(net, ability)
        done = ipsets.ensure_sets(net, sets)
        judge = self._judge()
        for family, firewall in ability.firewalls.items():
            present = fw.read_firewall(net, firewall)
            if not wanted:
                text = removal_text(HOOKS, present)
                words = ["deleted our chains"]
            else:
                desired = self._overtaken(net, ability, desired, done)
                tables = tables_of(desired, family, ability.able, self._program)
                text = restore_text(tables, HOOKS, present, judge)
                words = differences(tables, HOOKS, present, judge)
                self._waits |= not text and bool(restore_text(tables, HOOKS, present, leads_away))
                self._note_push(tables, present, text)
            if text:
                fw.restore(net, firewall, text)
                done += [f"IPv{family}: {what}" for what in words]
        if wanted:
            desired = self._overtaken(net, ability, desired, done)
        if ability.able.sets:
            known = [name for name in ipsets.set_names(net) if name.startswith(PREFIX)]
            done += ipsets.delete_sets(net, [name for name in known if name not in self._sets])
        # What is written again and again, though it never stays, is no news.
        self._read = not done or done == self._wrote[0]
        self._wrote = done, self._clock()
        self._marks = None
        if wanted:
            self._marks = self._look(net, ability) if done else before
        self._warm.prepare(ability.firewalls.values() if desired.tunnels else ())
        return desired, done

    def _judge(self) -> Judge:
        """What may not stand ahead of ours: others' chains too, if not put right just lately."""
        self._waits = False
        return leads_away if self._clock() - self._pushed >= PATIENCE else settles

    def _note_push(self, tables: Tables, present: Present, text: str) -> None:
        """Remembers when ours were only moved ahead of other programs' chains."""
        if text and not restore_text(tables, HOOKS, present, settles):
            self._pushed = self._clock()

    def _able(self, net: Net) -> Ability:
        if self._ability is None:
            self._ability = probe(net)
        return self._ability

    def _look(self, net: Net, ability: Ability) -> tuple[bytes | int, ...]:
        rules = [fw.mark(net, firewall) for firewall in ability.firewalls.values()]
        sizes = ipsets.set_sizes(net) if ability.able.sets else {}
        return (*rules, *(sizes.get(name, -1) for name in self._sets))
