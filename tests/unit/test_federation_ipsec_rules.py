"""What the IPsec driver decides without charon and kernel: connections, reasons, policies."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from federation.desired import Accept, Policy, Tunnel
from federation.desired import Path as TunnelPath
from federation.node import charon
from federation.node.charon import Charon, configuration
from federation.node.connections import (
    PREFIX,
    Membership,
    accept_connection,
    accept_name,
    associations,
    fits,
    reason,
    tunnel_connection,
    tunnel_name,
)
from federation.node.leftovers import orphans
from federation.node.policies import PRIORITIES, changes, for_kernel
from hostnet import xfrm

PATH = TunnelPath("one", "b", "b1")
TUNNEL = Tunnel(PATH, "192.0.2.1", "192.0.2.11", 3, 0x4E500001, True)
ACCEPT = Accept("one", "b", "CA OF B", "192.0.2.1", 0x4E500001)
MINE = Membership(
    "one", "a1", "KEY", "CERTIFICATE", "ROOT", {"a": "CA OF A", "b": "CA OF B"}, 0xF00000
)
ANY = ip_network("0.0.0.0/0")
FAR, NEAR = ip_network("10.2.0.0/16"), ip_network("10.1.0.0/16")


def _sa(**changed: Any) -> dict[str, Any]:
    child = {
        "uniqueid": b"7", "reqid": str(TUNNEL.reqid).encode(), "state": b"INSTALLED",
        "spi-in": b"c0000001", "spi-out": b"c0000002",
    } | changed.pop("child", {})  # fmt: skip
    sa = {
        "uniqueid": b"2", "state": b"ESTABLISHED", "local-host": b"192.0.2.1",
        "remote-host": b"192.0.2.11", "child-sas": {"x-7": child},
    }  # fmt: skip
    return {tunnel_name(PATH): sa | changed}


def test_a_tunnel_trusts_only_the_certificates_of_its_cluster() -> None:
    made: Any = tunnel_connection(TUNNEL, MINE)
    assert made["remote"] == {"auth": "pubkey", "id": "fqdn:b1", "cacerts": ["CA OF B"]}
    taken: Any = accept_connection(ACCEPT, MINE)
    assert taken["remote"]["cacerts"] == ["CA OF B"]
    assert taken["remote"]["id"] == "O=netspace:federation, OU=b, CN=*"


def test_charon_installs_no_policy_and_who_accepts_renews_no_key() -> None:
    made: Any = tunnel_connection(TUNNEL, MINE)
    taken: Any = accept_connection(ACCEPT, MINE)
    (out,), (into,) = made["children"].values(), taken["children"].values()
    assert out["policies"] == into["policies"] == "no"
    assert int(out["rekey_time"]) < int(out["life_time"])
    assert int(out["rekey_packets"]) < 2**32
    assert (into["rekey_time"], into["rand_time"]) == ("0", "0")
    assert "mark_out" not in out
    assert into["mark_out"] == "0xf00000/0xf00000"


def test_a_cluster_that_is_no_member_has_no_tunnel() -> None:
    stranger = replace(TUNNEL, path=TunnelPath("one", "z", "z1"))
    with pytest.raises(ValueError, match="z is no member of the federation one"):
        tunnel_connection(stranger, MINE)


@given(st.text("abcdefgh.-", min_size=1, max_size=253), st.text("abc-", min_size=1, max_size=63))
def test_names_of_connections_are_short_ours_and_each_its_own(node: str, cluster: str) -> None:
    one, other = TunnelPath("one", cluster, node), TunnelPath("one", cluster, node + "x")
    names = {tunnel_name(one), tunnel_name(other), accept_name(ACCEPT)}
    assert len(names) == 3
    assert all(name.startswith(PREFIX) and len(name) < 255 for name in names)


def test_a_child_that_carries_packets_is_known_by_its_ends_and_reqid() -> None:
    (found,) = associations([_sa()])
    assert found.carries
    assert found.spis == (0xC0000001, 0xC0000002)
    assert fits(found, TUNNEL)
    assert fits(found, replace(TUNNEL, ordinal=9))
    assert not fits(found, replace(TUNNEL, remote="192.0.2.12"))
    assert not fits(found, replace(TUNNEL, reqid=0x4E500002))


@pytest.mark.parametrize("state", [b"CONNECTING", b"DELETING"])
def test_what_is_not_established_carries_nothing(state: bytes) -> None:
    (found,) = associations([_sa(state=state)])
    assert not found.carries


def test_a_tunnel_carries_packets_while_its_keys_are_renewed() -> None:
    assert associations([_sa(state=b"REKEYING")])[0].carries
    assert associations([_sa(child={"state": b"REKEYING"})])[0].carries


def test_a_child_that_others_brought_up_is_not_ours() -> None:
    (found,) = associations([_sa(child={"mark-out": b"00f00000"})])
    assert not fits(found, TUNNEL)


def test_an_ike_sa_whose_child_is_gone_is_told_without_one() -> None:
    (found,) = associations([_sa(child={"state": b"DELETED"})])
    assert (found.child, found.carries) == (0, False)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("received AUTHENTICATION_FAILED notify error", "authentication failed"),
        ("no trusted ECDSA public key found for 'b1'", "not from the federation's authority"),
        ("constraint check failed: peer not authenticated by CA", "is not b's"),
        ("received NO_PROPOSAL_CHOSEN notify error", "no proposal"),
        ("giving up after 3 retransmits", "timeout: no answer from b1 (192.0.2.11)"),
        ("something else", "establishing failed"),
    ],
)
def test_why_a_tunnel_is_not_up_is_told_in_words(line: str, words: str) -> None:
    assert words in reason(["initiating IKE_SA", line], "establishing failed", TUNNEL)


def test_states_that_charon_still_does_not_know_are_an_earlier_ones_if_they_are_ours() -> None:
    """Whatever the clock said when they were made."""
    source, target = (ip_address(text) for text in ("192.0.2.1", "192.0.2.11"))
    state = xfrm.State(source, target, 50, 0xC1, 0x4E500001, 0, 0, 0, 100)
    known = replace(state, spi=0xC2)
    young = replace(state, spi=0xC3)
    theirs = replace(state, spi=0xC4, reqid=1)
    late = replace(state, spi=0xC5, added=2**40)
    before = {0xC1, 0xC2, 0xC4, 0xC5}
    assert orphans([state, known, young, theirs, late], {0xC2}, before) == [state, late]


def test_charon_has_neither_routes_nor_more_plugins_than_it_needs() -> None:
    text = configuration(Charon(port=1500, nat_port=14500))
    assert "install_routes = no" in text
    assert "install_virtual_ip = no" in text
    assert "port = 1500" in text
    assert "port_nat_t = 14500" in text
    assert "socket = unix:///run/netspace/charon.vici" in text
    assert "updown" not in text
    assert text.count("{") == text.count("}")


def _policies() -> st.SearchStrategy[Policy]:
    ends = {"local": "192.0.2.1", "remote": "192.0.2.11", "reqid": 1}
    return st.one_of(
        st.builds(Policy, st.just("block"), st.just(ANY), st.sampled_from([FAR, NEAR])),
        st.builds(
            Policy,
            st.just("out"),
            st.just(ANY),
            st.sampled_from([FAR, NEAR]),
            mark=st.integers(0, 14).map(lambda n: n << 20),
            mask=st.just(0xF00000),
            **{key: st.just(value) for key, value in ends.items()},
        ),
        st.builds(
            Policy,
            st.sampled_from(["in", "fwd"]),
            st.just(FAR),
            st.just(NEAR),
            local=st.just("192.0.2.1"),
            reqid=st.integers(1, 3),
            optional=st.booleans(),
        ),
    )


@given(st.lists(_policies(), max_size=12), st.lists(_policies(), max_size=12))
def test_changes_bring_the_kernel_there_and_never_leave_a_gap(
    wanted: list[Policy], before: list[Policy]
) -> None:
    want = {policy.identity: policy for policy in map(for_kernel, wanted)}
    theirs = xfrm.Policy("out", ANY, ip_network("10.9.0.0/16"), 100)
    there = {policy.identity: policy for policy in [*map(for_kernel, before), theirs]}
    both = set(there) & set(want)
    for change in changes(want.values(), list(there.values())):
        policy = change.policy
        assert policy != theirs
        assert (change.verb == "add") == (policy.identity not in there)
        if change.verb == "delete":
            del there[policy.identity]
        else:
            there[policy.identity] = policy
        assert both <= set(there)
        # While anything of a range is let into tunnels, its block stands or it never had one.
        if policy.block and change.verb == "delete":
            assert all(each.block or each.identity in want or each == theirs
                       for each in there.values())  # fmt: skip
    assert there == want | {theirs.identity: theirs}


def test_what_counts_first_is_ports_then_clear_then_tunnels_then_blocks() -> None:
    ends = {"local": "192.0.2.1", "remote": "192.0.2.11", "reqid": 1}
    probe = Policy("out", NEAR, FAR, 17, 4791, **ends)  # type: ignore[arg-type]
    bypass = Policy("bypass", ANY, ip_network("10.2.0.9/32"))
    handed_on = Policy("in", FAR, ip_network("10.1.0.0/24"), local="192.0.2.1", optional=True)
    out, block = Policy("out", ANY, FAR, **ends), Policy("block", ANY, ip_network("10.2.0.9/32"))  # type: ignore[arg-type]
    longer = replace(out, destination=ip_network("10.2.3.0/24"))
    ranked = [probe, handed_on, bypass, longer, out, block]
    priorities = [for_kernel(policy).priority for policy in ranked]
    assert priorities == sorted(priorities)
    assert len(set(priorities)) == len(priorities)
    assert all(priority in PRIORITIES for priority in priorities)


def test_mixed_families_and_marks_outside_their_mask_are_refused() -> None:
    with pytest.raises(ValueError, match="different families"):
        for_kernel(Policy("block", ANY, ip_network("fd02::/64")))
    with pytest.raises(ValueError, match="has bits that the mask"):
        for_kernel(Policy("block", ANY, FAR, mark=1, mask=2))


def test_where_charon_is_missing_it_is_said_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(charon, "PROGRAMS", (tmp_path / "charon",))
    done = CliRunner().invoke(charon.command, ["--vici", str(tmp_path / "charon.vici")])
    assert done.exit_code == 1
    assert "install strongswan-charon" in done.output
    assert str(tmp_path / "charon") in done.output
