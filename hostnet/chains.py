"""Chains of ours in the firewall as text: what is there, what brings it to what should be. Pure.

A chain of ours is jumped to from a built-in one by a hook, ahead of others' rules. Rules are
written as iptables-save writes them, so that they can be compared; nothing here knows what they
mean, and no text names a chain of others but to hook ours into it.

Source: iptables-restore(8), iptables-save(8).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

Family = Literal[4, 6]
IPV4: Final[Family] = 4
IPV6: Final[Family] = 6
Tables = dict[str, dict[str, list[str]]]
"""By table and chain the rules, each as `-A` has it without the chain's name."""
Judge = Callable[[str], bool]
"""Whether a rule may not stand ahead of ours."""

_CHAIN: Final = re.compile(r":(\S+) ")
_RULE: Final = re.compile(r"(?:\[\d+:\d+\] )?-A (\S+) (.*)")
_MAC: Final = re.compile(r"(--mac-source )([0-9A-Fa-f:]{17})")
_SETTLED: Final = ("ACCEPT", "DROP", "REJECT", "MASQUERADE", "SNAT", "DNAT", "NETMAP", "QUEUE")


class Hook(NamedTuple):
    """The built-in chain of a table jumps to our chain."""

    table: str
    built_in: str
    chain: str

    @property
    def jump(self) -> str:
        return f"-j {self.chain}"


@dataclass(frozen=True)
class Present:
    """What one family's tables hold: all chains of the tables asked for, built-in ones too."""

    tables: Tables = field(default_factory=dict)

    def rules(self, table: str, chain: str) -> list[str] | None:
        """The chain's rules; None where there is no such chain."""
        return self.tables.get(table, {}).get(chain)


def parse(saved: str) -> Tables:
    """What iptables-save wrote."""
    tables: Tables = {}
    chains: dict[str, list[str]] = {}
    for line in saved.splitlines():
        if line.startswith("*"):
            chains = tables.setdefault(line[1:], {})
        elif (chain := _CHAIN.match(line)) is not None:
            chains.setdefault(chain[1], [])
        elif (rule := _RULE.fullmatch(line)) is not None:
            lower = _MAC.sub(lambda found: found[1] + found[2].lower(), rule[2])
            chains.setdefault(rule[1], []).append(lower)
    return tables


def settles(rule: str) -> bool:
    """Whether a packet that the rule matches goes no further."""
    return any(f" -j {target}" in f" {rule}" for target in _SETTLED)


def restore_text(
    wanted: Tables, hooks: Sequence[Hook], present: Present, judge: Judge = settles
) -> str:
    """What to give to `iptables-restore --noflush` so that our chains are as wanted, and each is
    jumped to once and before what `judge` names; empty where they are and it is."""
    parts = []
    for table, chains in wanted.items():
        lines = []
        for chain, rules in chains.items():
            if present.rules(table, chain) != rules:
                lines += [f":{chain} - [0:0]", *(f"-A {chain} {rule}" for rule in rules)]
        for hook in _of(hooks, table):
            if not _hooked(hook, present, judge):
                jumps = (present.rules(table, hook.built_in) or []).count(hook.jump)
                lines += [f"-D {hook.built_in} {hook.jump}"] * jumps
                lines.append(f"-I {hook.built_in} 1 {hook.jump}")
        parts += _table(table, lines)
    return "".join(f"{part}\n" for part in parts)


def removal_text(hooks: Sequence[Hook], present: Present) -> str:
    """The same so that nothing of ours is left; empty where nothing is."""
    parts = []
    for table in dict.fromkeys(hook.table for hook in hooks):
        lines = []
        for hook in _of(hooks, table):
            rules = present.rules(table, hook.built_in) or []
            lines += [f"-D {hook.built_in} {hook.jump}"] * rules.count(hook.jump)
        for chain in dict.fromkeys(hook.chain for hook in _of(hooks, table)):
            if present.rules(table, chain) is not None:
                lines += [f"-F {chain}", f"-X {chain}"]
        parts += _table(table, lines)
    return "".join(f"{part}\n" for part in parts)


def differences(
    wanted: Tables, hooks: Sequence[Hook], present: Present, judge: Judge = settles
) -> list[str]:
    """What `restore_text` puts right, in words."""
    found = []
    for table, chains in wanted.items():
        found += [
            f"wrote the chain {chain} ({len(rules)} rules)"
            for chain, rules in chains.items()
            if present.rules(table, chain) != rules
        ]
        found += [
            f"hooked {hook.chain} into {hook.built_in}"
            for hook in _of(hooks, table)
            if not _hooked(hook, present, judge)
        ]
    return found


def faults(
    wanted: Tables, hooks: Sequence[Hook], present: Present, judge: Judge = settles
) -> Iterator[str]:
    """The same as it is now, and what stands ahead of ours."""
    for table, chains in wanted.items():
        for chain, rules in chains.items():
            there = present.rules(table, chain)
            if there is None:
                yield f"the chain {chain} ({table}) is missing"
            elif there != rules:
                yield f"the chain {chain} ({table}) has {len(there)} rules that are not ours"
        for hook in _of(hooks, table):
            built_in = present.rules(table, hook.built_in) or []
            jumps = built_in.count(hook.jump)
            if jumps != 1:
                yield f"{hook.built_in} ({table}) jumps to {hook.chain} {jumps} times, not once"
                continue
            ahead = [rule for rule in built_in[: built_in.index(hook.jump)] if judge(rule)]
            if ahead:
                yield (
                    f"{hook.built_in} ({table}) has another's rule ahead of {hook.chain}: "
                    f"{ahead[0]}"
                )


def _hooked(hook: Hook, present: Present, judge: Judge) -> bool:
    rules = present.rules(hook.table, hook.built_in) or []
    return rules.count(hook.jump) == 1 and not any(map(judge, rules[: rules.index(hook.jump)]))


def _of(hooks: Iterable[Hook], table: str) -> list[Hook]:
    return [hook for hook in hooks if hook.table == table]


def _table(table: str, lines: list[str]) -> list[str]:
    return [f"*{table}", *lines, "COMMIT"] if lines else []
