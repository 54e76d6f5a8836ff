"""The firewall's part: what this kernel can, and chains and sets brought to what they should be.

One job with a `Net` of the host's namespace, since the programs run in the job's thread.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from cni_plugins.services.chains import HOOKS, KINDS, SET_NAMES, sets_of, tables_of
from cni_plugins.services.wanted import Wanted
from hostnet import KernelError, Net
from hostnet import firewall as fw
from hostnet import sets as ipsets
from hostnet.chains import IPV4, IPV6, Family, differences, removal_text, restore_text

_TRIALS: Final = {kind: f"netspace-trial-{at}" for at, kind in enumerate(KINDS)}
_DIMENSIONS: Final = {"hash:ip,mac": "src,src"}


@dataclass(frozen=True)
class Ability:
    """What the kernel has: by family its firewall, and the kinds of sets that rules can match.
    `missing`: in words what it has not, and what is done instead."""

    firewalls: dict[Family, fw.Firewall] = field(default_factory=dict)
    kinds: frozenset[str] = frozenset()
    missing: tuple[str, ...] = ()


def probe(net: Net) -> Ability:
    """Finds out; what it makes for that is gone afterwards."""
    firewalls: dict[Family, fw.Firewall] = {}
    missing = []
    for family in (IPV4, IPV6):
        try:
            firewalls[family] = fw.find_firewall(net, family)
        except KernelError as error:
            missing.append(f"no translation of IPv{family} for pods' Services: {error.why}")
    made = [kind for kind, name in _TRIALS.items() if ipsets.has_set_type(net, kind, name)]
    four = firewalls.get(IPV4)
    matches = {_TRIALS[kind]: _DIMENSIONS.get(kind, "src") for kind in made}
    kinds = set(made) if four is not None and fw.matches_sets(net, four, matches) else set()
    try:
        ipsets.delete_sets(net, list(_TRIALS.values()))
    except KernelError:
        kinds.clear()
    lacking = [kind for kind in KINDS if kind not in kinds]
    if lacking:
        missing.append(f"no sets of kind {', '.join(lacking)}: a rule for each address instead")
    return Ability(firewalls, frozenset(kinds), tuple(missing))


def ensure_firewall(net: Net, wanted: Wanted, ability: Ability) -> list[str]:
    """Brings sets, chains and hooks to what they should be; what was changed, in words."""
    if not wanted.places:
        return remove_firewall(net, ability)
    sets = sets_of(wanted, ability.kinds)
    done = ipsets.ensure_sets(net, sets)
    for family, firewall in ability.firewalls.items():
        tables = tables_of(wanted, family, ability.kinds)
        present = fw.read_firewall(net, firewall)
        text = restore_text(tables, HOOKS, present)
        if text:
            fw.restore(net, firewall, text)
            done += [f"IPv{family}: {what}" for what in differences(tables, HOOKS, present)]
    if ability.kinds:
        named = {each.name for each in sets}
        done += ipsets.delete_sets(net, [name for name in SET_NAMES if name not in named])
    return done


def remove_firewall(net: Net, ability: Ability) -> list[str]:
    """Takes away all that `ensure_firewall` made."""
    done = []
    for family, firewall in ability.firewalls.items():
        text = removal_text(HOOKS, fw.read_firewall(net, firewall))
        if text:
            fw.restore(net, firewall, text)
            done.append(f"IPv{family}: deleted our chains")
    return done + (ipsets.delete_sets(net, list(SET_NAMES)) if ability.kinds else [])


def marks(net: Net, ability: Ability) -> tuple[bytes | int, ...]:
    """What changes when somebody changes the rules, or how many entries our sets have."""
    rules = [fw.mark(net, firewall) for firewall in ability.firewalls.values()]
    sizes = ipsets.set_sizes(net) if ability.kinds else {}
    return (*rules, *(sizes.get(name, -1) for name in SET_NAMES))
