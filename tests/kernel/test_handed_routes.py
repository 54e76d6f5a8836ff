"""Pods on macvlan and other clusters, over untagged VLANs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.handed_cases import *  # noqa: F403
from tests.handed_cases import Rig, rig_in


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    yield from rig_in(tmp_path_factory.mktemp("handed"), tagged=False)
