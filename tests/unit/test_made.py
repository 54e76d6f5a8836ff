"""Which VLAN interfaces are ours."""

from __future__ import annotations

from pathlib import Path

from cni_plugins.made import Made


def test_one_that_was_made_anew_under_the_name_stays_ours(tmp_path: Path) -> None:
    made = Made(tmp_path)
    made.remember("bond0.910", 7)
    made.remember("bond0.910", 9)
    made.forget("bond0.910", 7)
    assert made.all() == {"bond0.910": 9}
    made.forget("bond0.910", 9)
    assert made.all() == {}


def test_what_is_gone_is_forgotten_whatever_it_was(tmp_path: Path) -> None:
    made = Made(tmp_path)
    made.remember("bond0.910", 7)
    made.forget("bond0.910")
    made.forget("bond0.911")
    assert made.all() == {}
