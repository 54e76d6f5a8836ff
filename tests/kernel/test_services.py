"""Services and the own node over untagged VLANs, each with a card of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.services_cases import *  # noqa: F403
from tests.services_cases import Rig, rig_in


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    yield from rig_in(tmp_path_factory.mktemp("services"), tagged=False)
