"""Names: what is taken, and that a refusal says the rule in words."""

from __future__ import annotations

import msgspec
import pytest

from netspace import names
from netspace.messages import AllocateRequest, NewPool, ReleaseRequest


@pytest.mark.parametrize("text", ["a", "a.b-c", "0", "a" * 63])
def test_a_plain_name_is_taken(text: str) -> None:
    assert names.matches(names.NAME, text)


@pytest.mark.parametrize(
    "text", ["", "-a", "a-", ".", "..", "a/b", "A", "a\n", "a b", "é", "a" * 64]
)
def test_what_could_leave_its_place_in_a_key_or_a_path_is_no_name(text: str) -> None:
    assert not names.matches(names.NAME, text)


@pytest.mark.parametrize(
    "text", ["lo", ".", "..", "a/b", "a:b", "a b", "eth0\n", "x" * 16, "é" * 8]
)
def test_an_interface_has_a_name_that_the_kernel_takes(text: str) -> None:
    assert not names.is_ifname(text)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (NewPool, {"name": "Bad/Name", "kind": "netspace", "network": "n"}),
        (NewPool, {"name": "n", "kind": "netspace", "network": "n", "namespaces": ["-"]}),
        (NewPool, {"name": "n", "kind": "netspace", "network": "n", "size": "-1"}),
        (ReleaseRequest, {"attachment": {"container": "/", "ifname": "eth0"}}),
        (AllocateRequest, {"attachment": {"container": "c", "ifname": "eth0"}, "claim": "x"}),
    ],
)
def test_a_refusal_shows_words_and_no_regular_expression(
    kind: type[msgspec.Struct], value: dict[str, object]
) -> None:
    with pytest.raises(msgspec.ValidationError) as refused:
        msgspec.convert(value, kind)
    assert "regex" in str(refused.value)
    assert "regex" not in names.in_words(str(refused.value))
