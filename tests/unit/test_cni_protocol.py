"""The CNI protocol: what is taken, and every refusal, one by one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_plugins import strict_json
from cni_plugins.protocol import (
    MAX_CONFIG,
    OPERATIONS,
    VERSIONS,
    CniError,
    parse,
    parse_args,
    valid_attachments,
    version_answer,
)

ENVIRON = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "abc123",
    "CNI_NETNS": "/var/run/netns/pod",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/opt/cni/bin:/usr/lib/cni",
}
CONFIG = {"cniVersion": "1.1.0", "name": "net", "type": "netspace"}


def refusal(environ: dict[str, str] | None = None, stdin: bytes | None = None) -> CniError:
    """The error of a call that differs from a good one in this."""
    with pytest.raises(CniError) as caught:
        parse(
            {**ENVIRON, **(environ or {})},
            json.dumps(CONFIG).encode() if stdin is None else stdin,
        )
    return caught.value


def config(**changes: Any) -> bytes:
    return json.dumps({**CONFIG, **changes}).encode()


def test_a_good_call_is_taken_apart() -> None:
    call = parse({**ENVIRON, "CNI_ARGS": "K8S_POD_NAME=web-0"}, config(ipam={"type": "x"}))
    assert (call.command, call.container, call.netns) == ("ADD", "abc123", "/var/run/netns/pod")
    assert (call.ifname, call.path) == ("eth0", ("/opt/cni/bin", "/usr/lib/cni"))
    assert (call.version, call.network) == ("1.1.0", "net")
    assert call.args == {"K8S_POD_NAME": "web-0"}
    assert call.config["ipam"] == {"type": "x"}


def test_version_lists_every_supported_version() -> None:
    answer = json.loads(version_answer())
    assert answer["supportedVersions"] == ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]


# The environment


@pytest.mark.parametrize("command", [c for c in OPERATIONS if c != "VERSION"])
def test_all_missing_variables_are_named_at_once(command: str) -> None:
    needed = OPERATIONS[command].environment
    error = refusal(dict.fromkeys(ENVIRON, "") | {"CNI_COMMAND": command})
    assert error.code == 4
    assert all(name in error.msg for name in needed)


@pytest.mark.parametrize("command", ["ADD", "CHECK"])
def test_a_namespace_is_needed(command: str) -> None:
    error = refusal({"CNI_COMMAND": command, "CNI_NETNS": ""})
    assert (error.code, "CNI_NETNS" in error.msg) == (4, True)


def test_del_comes_without_a_namespace() -> None:
    assert parse({**ENVIRON, "CNI_COMMAND": "DEL", "CNI_NETNS": ""}, config()).netns == ""


@pytest.mark.parametrize("command", ["GC", "STATUS"])
def test_gc_and_status_need_no_attachment(command: str) -> None:
    environ = {"CNI_COMMAND": command, "CNI_PATH": "/opt/cni/bin"}
    assert parse(environ, config()).container == ""


@pytest.mark.parametrize("command", ["", "add", "ADD\n", "REMOVE"])
def test_an_unknown_command_is_refused(command: str) -> None:
    error = refusal({"CNI_COMMAND": command})
    assert (error.code, "CNI_COMMAND" in error.msg) == (4, True)


@pytest.mark.parametrize(
    "container", ["-abc", ".abc", "_abc", "a/b", "a b", "abc\n", "a" * 129, "ä", "a:b", "a\0b"]
)
def test_a_malformed_container_id_is_refused(container: str) -> None:
    error = refusal({"CNI_CONTAINERID": container})
    assert (error.code, "CNI_CONTAINERID" in error.msg) == (4, True)


@pytest.mark.parametrize(
    "ifname",
    [".", "..", "lo", "a/b", "a:b", "a b", "a\tb", "eth0\n", "a" * 16, "ä" * 8, "a\0", "a\u2003b"],
)
def test_a_malformed_interface_name_is_refused(ifname: str) -> None:
    error = refusal({"CNI_IFNAME": ifname})
    assert (error.code, "CNI_IFNAME" in error.msg) == (4, True)


def test_an_interface_name_of_15_bytes_is_taken_and_of_16_is_not() -> None:
    assert parse({**ENVIRON, "CNI_IFNAME": "ä" * 7 + "x"}, config()).ifname == "ä" * 7 + "x"
    assert refusal({"CNI_IFNAME": "ä" * 8}).code == 4


def test_an_interface_name_that_is_no_utf8_is_refused() -> None:
    assert refusal({"CNI_IFNAME": os.fsdecode(b"eth\xff")}).code == 4


@pytest.mark.parametrize("path", ["bin", "./bin", "/opt/cni/bin:bin", "/opt/cni/bin:", ":/x"])
def test_a_relative_path_is_refused(path: str) -> None:
    error = refusal({"CNI_PATH": path})
    assert (error.code, "CNI_PATH" in error.msg) == (4, True)


def test_a_relative_namespace_is_refused() -> None:
    assert refusal({"CNI_NETNS": "netns/pod"}).code == 4


@pytest.mark.parametrize(
    "args",
    ["A", "A=1=2;IgnoreUnknown=1", "==", "K8S_POD_NAME=a;", ";K8S_POD_NAME=a", "A=1;;B=2"],
)
def test_pairs_without_exactly_one_equals_sign_are_refused(args: str) -> None:
    error = refusal({"CNI_ARGS": args})
    assert (error.code, "CNI_ARGS" in error.msg) == (4, True)


@pytest.mark.parametrize(
    "args",
    [
        "K8S_POD_NAME=a;K8S_POD_NAME=b",
        "IgnoreUnknown=1;IgnoreUnknown=0",
        "K8S_POD_NAME=a/b",
        "K8S_POD_NAME=../x",
        "K8S_POD_NAMESPACE=Default",
        "K8S_POD_NAMESPACE=a.b",
        "K8S_POD_UID=a b",
        "IgnoreUnknown=maybe",
    ],
)
def test_arguments_that_name_nothing_are_refused(args: str) -> None:
    assert refusal({"CNI_ARGS": args}).code == 4


def test_arguments_may_stand_there_twice_as_multus_passes_them_on() -> None:
    args = "IgnoreUnknown=true;K8S_POD_NAME=a;X=1;IgnoreUnknown=1;K8S_POD_NAME=a;X=1"
    assert parse_args(args)["K8S_POD_NAME"] == "a"


def test_an_unknown_argument_is_refused_unless_the_runtime_says_to_ignore_it() -> None:
    assert "COLOUR" in refusal({"CNI_ARGS": "COLOUR=red"}).details
    assert refusal({"CNI_ARGS": "COLOUR=red;IgnoreUnknown=0"}).code == 4
    assert parse_args("IgnoreUnknown=true;COLOUR=red")["COLOUR"] == "red"
    assert parse_args("COLOUR=red;IgnoreUnknown=1")["COLOUR"] == "red"


@given(st.permutations(["K8S_POD_NAMESPACE=a", "K8S_POD_NAME=b", "K8S_POD_UID=c", "MAC=d"]))
def test_the_order_of_arguments_does_not_matter(pairs: list[str]) -> None:
    expected = {"K8S_POD_NAMESPACE": "a", "K8S_POD_NAME": "b", "K8S_POD_UID": "c", "MAC": "d"}
    assert parse_args(";".join(pairs)) == expected


# The configuration


@pytest.mark.parametrize(
    ("stdin", "why"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting"),
        (b"[]", "not an object"),
        (b'"net"', "not an object"),
        (b"null", "not an object"),
        (b'{"name": "a", "name": "b"}', "twice"),
        (b'{"a": {"b": 1, "b": 2}}', "twice"),
        (b'{"mtu": NaN}', "NaN"),
        (b'{"mtu": Infinity}', "Infinity"),
        (b'{"mtu": -Infinity}', "Infinity"),
        (b'{"mtu": 1e999}', "out of range"),
        (b'{"name": "\xff"}', "utf-8"),
        (b'\xef\xbb\xbf{"name": "a"}', "BOM"),
        (b'{"name": "\\ud800"}', "surrogate"),
        (b'{"a":' * 33 + b"1" + b"}" * 33, "levels"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "levels"),
        (b'{"a": ' + b"[" * 40 + b"]" * 40 + b"}", "levels"),
        (b"{} {}", "Extra data"),
        (b" " * (MAX_CONFIG + 1), "larger"),
    ],
)
def test_a_configuration_that_cannot_be_decoded_is_refused(stdin: bytes, why: str) -> None:
    error = refusal(stdin=stdin)
    assert (error.code, why in error.details) == (6, True), error


def test_a_configuration_of_a_mebibyte_is_taken() -> None:
    stdin = config()
    assert parse(ENVIRON, stdin + b" " * (MAX_CONFIG - len(stdin))).network == "net"


@pytest.mark.parametrize("name", ["", "-net", "a/b", "a b", "net\n", "ä", "a" * 129, None, 1, []])
def test_a_malformed_network_name_is_refused(name: object) -> None:
    assert refusal(stdin=config(name=name)).code == 7


def test_a_network_without_name_is_refused() -> None:
    assert refusal(stdin=b'{"cniVersion": "1.0.0"}').code == 7


def test_no_version_means_0_1_0_which_is_not_supported() -> None:
    error = refusal(stdin=b'{"name": "net"}')
    assert (error.code, "0.1.0" in error.msg) == (1, True)


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0", "0.3.2", "1.0", "1.2.0", "2.0.0", "", "x"])
def test_an_unsupported_version_is_refused(version: str) -> None:
    assert refusal(stdin=config(cniVersion=version)).code == 1


def test_a_version_that_is_no_string_is_refused() -> None:
    assert refusal(stdin=config(cniVersion=1.0)).code == 7


@pytest.mark.parametrize(
    ("command", "version"),
    [
        (command, version)
        for command, operation in OPERATIONS.items()
        for version in VERSIONS
        if tuple(map(int, version.split("."))) < operation.since
    ],
)
def test_an_operation_the_version_does_not_have_is_refused(command: str, version: str) -> None:
    error = refusal({"CNI_COMMAND": command}, config(cniVersion=version))
    assert (error.code, command in error.msg) == (1, True)


@pytest.mark.parametrize("key", ["ipam", "runtimeConfig", "prevResult", "dns", "args"])
@pytest.mark.parametrize("value", [[], "x", 1, None])
def test_sections_that_are_no_objects_are_refused(key: str, value: object) -> None:
    error = refusal(stdin=config(**{key: value}))
    assert (error.code, key in error.msg) == (7, True)


@pytest.mark.parametrize("kind", ["../host-local", "/bin/sh", "a/b", ".", "..", "a\0b", 1, None])
def test_an_ipam_type_that_leaves_the_plugin_folder_is_refused(kind: object) -> None:
    assert refusal(stdin=config(ipam={"type": kind})).code == 7


def test_gc_tells_an_absent_list_from_an_empty_one() -> None:
    assert valid_attachments({}) is None
    assert valid_attachments({"cni.dev/valid-attachments": []}) == frozenset()
    listed = [{"containerID": "a", "ifname": "eth0"}]
    pairs = frozenset({("a", "eth0")})
    assert valid_attachments({"cni.dev/valid-attachments": listed}) == pairs


@pytest.mark.parametrize("listed", [{}, "x", [1], [{"containerID": "a"}], [{"ifname": "a"}]])
def test_a_malformed_list_of_valid_attachments_is_refused(listed: object) -> None:
    with pytest.raises(CniError) as caught:
        valid_attachments({"cni.dev/valid-attachments": listed})
    assert caught.value.code == 7


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), _json))
def test_strict_json_reads_what_json_writes(value: dict[str, Any]) -> None:
    assert strict_json.decode(json.dumps(value, ensure_ascii=False).encode()) == value


@given(st.binary())
def test_strict_json_refuses_with_a_reason_or_gives_an_object(text: bytes) -> None:
    try:
        assert isinstance(strict_json.decode(text), dict)
    except ValueError as error:
        assert str(error)


# The executables


def run(module: str, stdin: bytes, **environ: str) -> subprocess.CompletedProcess[bytes]:
    clone = Path(__file__).resolve().parents[2]
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", f"cni_plugins.{module}"],
        input=stdin,
        env={"PYTHONPATH": str(clone), **environ},
        capture_output=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("module", ["macvlan_main", "ipam_main"])
def test_version_reads_no_input_and_imports_nothing_large(module: str) -> None:
    done = run(module, b"not json", CNI_COMMAND="VERSION")
    assert (done.returncode, json.loads(done.stdout)) == (0, json.loads(version_answer()))
    imported = done.stderr.decode()
    assert not any(name in imported for name in ("asyncio", "msgspec", "pyroute2", "h11", "yaml"))


@pytest.mark.parametrize("module", ["macvlan_main", "ipam_main"])
def test_a_refusal_is_one_json_object_on_standard_output_with_a_failing_exit(module: str) -> None:
    done = run(module, config(cniVersion="0.4.0"), **{**ENVIRON, "CNI_IFNAME": "lo"})
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["code"], answer["cniVersion"]) == (1, 4, "0.4.0")
    assert "asyncio" not in done.stderr.decode()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_break_nothing(closed: str) -> None:
    clone = Path(__file__).resolve().parents[2]
    command = f"exec {sys.executable} -m cni_plugins.macvlan_main {closed}"
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        input=config(),
        env={"PYTHONPATH": str(clone), **ENVIRON, "CNI_CONTAINERID": "!"},
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    if ">&-" not in closed.replace("2>&-", ""):
        assert json.loads(done.stdout)["code"] == 4
    assert b"Traceback" not in done.stderr
