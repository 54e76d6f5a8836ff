"""The CNI protocol as rules over values: environment and standard input to an `Invocation`.

Pure, and cheap to import: VERSION and every refusal need nothing else. Source: CNI specification
1.1.0, sections 1 and 2; https://github.com/containernetworking/cni/blob/spec-v1.1.0/SPEC.md.

operation  required in the environment                        first version
ADD        CNI_CONTAINERID CNI_NETNS CNI_IFNAME CNI_PATH      0.1.0
DEL        CNI_CONTAINERID CNI_IFNAME CNI_PATH                0.1.0
CHECK      CNI_CONTAINERID CNI_NETNS CNI_IFNAME CNI_PATH      0.4.0
GC         CNI_PATH                                           1.1.0
STATUS     CNI_PATH                                           1.1.0
VERSION    nothing; standard input is not read                0.1.0

code  meaning
1     the configuration's version is not supported, or has no such operation
2     a field of the configuration is not supported
3     the container is unknown
4     an environment variable is missing or wrong
5     reading or writing failed
6     something cannot be decoded
7     the configuration is wrong
11    try again later
50    STATUS: the plugin cannot serve ADD
51    STATUS: nor may the pods that are there have full connectivity
100+  the plugins' own: `failures.py`
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, NoReturn

from cni_plugins import strict_json
from netspace import names

VERSIONS: Final = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
UNNAMED_VERSION: Final = "0.1.0"
"""What a configuration without `cniVersion` means."""

INCOMPATIBLE: Final = 1
UNSUPPORTED_FIELD: Final = 2
UNKNOWN_CONTAINER: Final = 3
BAD_ENVIRONMENT: Final = 4
IO_FAILURE: Final = 5
UNDECODABLE: Final = 6
INVALID_CONFIG: Final = 7
TRY_AGAIN: Final = 11
UNAVAILABLE: Final = 50
UNAVAILABLE_AND_LIMITED: Final = 51

MAX_CONFIG: Final = 1 << 20
"""Bytes of standard input that are read at most; real configurations have a few thousand."""


class Operation(NamedTuple):
    """What an operation needs and since when there is one."""

    environment: tuple[str, ...]
    since: tuple[int, int, int]


OPERATIONS: Final = {
    "ADD": Operation(("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"), (0, 1, 0)),
    "DEL": Operation(("CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"), (0, 1, 0)),
    "CHECK": Operation(("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"), (0, 4, 0)),
    "GC": Operation(("CNI_PATH",), (1, 1, 0)),
    "STATUS": Operation(("CNI_PATH",), (1, 1, 0)),
    "VERSION": Operation((), (0, 1, 0)),
}

_ARGUMENTS: Final = {
    "K8S_POD_NAMESPACE": names.NAMESPACE,
    "K8S_POD_NAME": names.POD,
    "K8S_POD_UID": names.UID,
    "K8S_POD_INFRA_CONTAINER_ID": names.CONTAINER,
    "MAC": None,
    "IP": None,
    "IgnoreUnknown": None,
}
"""The CNI_ARGS this project knows, and the form of those that name something."""

_TRUE: Final = ("1", "true")
_FALSE: Final = ("0", "false")


class CniError(Exception):
    """What a plugin answers instead of a result: `code` as in the table above, `msg` says what,
    `details` why and what to do (CNI specification, section 2, Error)."""

    def __init__(self, code: int, msg: str, details: str = "") -> None:
        super().__init__(f"{msg}: {details}" if details else msg)
        self.code = code
        self.msg = msg
        self.details = details

    def encode(self, version: str) -> bytes:
        """The error object, in the version of the configuration where that is known."""
        answer: dict[str, object] = {"cniVersion": version, "code": self.code, "msg": self.msg}
        if self.details:
            answer["details"] = self.details
        return json.dumps(answer).encode()


class Invocation(NamedTuple):
    """One call of a plugin, every part of it checked.

    `netns` is empty where DEL came without one; `path` are the folders of CNI_PATH; `args` the
    pairs of CNI_ARGS; `config` the network configuration and `stdin` its bytes as they came.
    Operations without an attachment leave `container`, `netns` and `ifname` empty.
    """

    command: str
    container: str
    netns: str
    ifname: str
    path: tuple[str, ...]
    args: dict[str, str]
    version: str
    network: str
    config: dict[str, Any]
    stdin: bytes


def version_answer() -> bytes:
    """The answer to VERSION."""
    return json.dumps({"cniVersion": VERSIONS[-1], "supportedVersions": VERSIONS}).encode()


def command_of(environ: Mapping[str, str]) -> str:
    """The operation asked for, once the environment has everything that it needs."""
    command = environ.get("CNI_COMMAND", "")
    if not command:
        _bad_environment("CNI_COMMAND is missing", f"it is one of {', '.join(OPERATIONS)}")
    if command not in OPERATIONS:
        _bad_environment(
            f"CNI_COMMAND is {command[:40]!r}", f"it must be one of {', '.join(OPERATIONS)}"
        )
    missing = [name for name in OPERATIONS[command].environment if not environ.get(name)]
    if missing:
        _bad_environment(f"{command} needs {', '.join(missing)}", "they are missing or empty")
    return command


def parse(environ: Mapping[str, str], stdin: bytes) -> Invocation:
    """The invocation in an environment and on standard input, for every operation but VERSION.

    Raises `CniError` with the code of the first rule that is broken: the environment's (4), then
    the configuration's (6, 1, 7).
    """
    command = command_of(environ)
    attached = "CNI_CONTAINERID" in OPERATIONS[command].environment
    container = _container(environ["CNI_CONTAINERID"]) if attached else ""
    ifname = _ifname(environ["CNI_IFNAME"]) if attached else ""
    netns = _netns(environ.get("CNI_NETNS", "")) if attached else ""
    path = _path(environ["CNI_PATH"])
    args = parse_args(environ.get("CNI_ARGS", ""))
    config = decode_config(stdin)
    version = _version(config, command)
    return Invocation(
        command=command,
        container=container,
        netns=netns,
        ifname=ifname,
        path=path,
        args=args,
        version=version,
        network=_network(config),
        config=_sections(config),
        stdin=stdin,
    )


def parse_args(text: str) -> dict[str, str]:
    """The pairs of CNI_ARGS, in any order. A key this project does not know is refused unless
    IgnoreUnknown is true (CNI conventions, CNI_ARGS). Multus names every key twice, its own pairs
    before the runtime's: that is taken where both say the same."""
    args: dict[str, str] = {}
    for pair in text.split(";") if text else ():
        if pair.count("=") != 1:
            _bad_environment(
                "CNI_ARGS is wrong", f"{pair[:60]!r} does not have exactly one '=' in it"
            )
        key, _, value = pair.partition("=")
        if key == "IgnoreUnknown":
            value = value.lower()
            if value not in _TRUE + _FALSE:
                _bad_environment(
                    "CNI_ARGS is wrong", f"IgnoreUnknown is {value[:20]!r}, not 1 or 0"
                )
            value = _TRUE[0] if value in _TRUE else _FALSE[0]
        if args.setdefault(key, value) != value:
            _bad_environment(
                "CNI_ARGS is wrong", f"{key[:60]!r} stands there twice with different values"
            )
    ignore = args.get("IgnoreUnknown", _FALSE[0])
    for key, value in args.items():
        if key not in _ARGUMENTS and ignore in _FALSE:
            _bad_environment(
                "CNI_ARGS is wrong",
                f"{key[:60]!r} is not known here: leave it out or add IgnoreUnknown=1",
            )
        form = _ARGUMENTS.get(key)
        if form is not None and value and not names.matches(form, value):
            _bad_environment("CNI_ARGS is wrong", f"{key} is {value[:60]!r}, which names nothing")
    return args


def decode_config(stdin: bytes) -> dict[str, Any]:
    """The JSON object on standard input, at most `MAX_CONFIG` bytes of it; as strict as
    `strict_json.decode`."""
    what = "the network configuration"
    if len(stdin) > MAX_CONFIG:
        raise CniError(
            UNDECODABLE, f"{what} cannot be decoded", f"it is larger than {MAX_CONFIG} bytes"
        )
    return decode_object(stdin, what)


def decode_object(text: bytes, what: str) -> dict[str, Any]:
    """The JSON object in the bytes; `what` names it in the error, code 6."""
    try:
        return strict_json.decode(text)
    except ValueError as error:
        raise CniError(UNDECODABLE, f"{what} cannot be decoded", str(error)[:300]) from None


def version_for_errors(stdin: bytes) -> str:
    """The version an error is written in: the configuration's, where it has one that is known."""
    try:
        named = decode_config(stdin).get("cniVersion")
    except CniError:
        return VERSIONS[-1]
    return named if named in VERSIONS else VERSIONS[-1]


def valid_attachments(config: Mapping[str, Any]) -> frozenset[tuple[str, str]] | None:
    """The (container id, interface name) pairs that GC must leave alone; None where the key is
    absent, which never means that none is valid."""
    listed = config.get("cni.dev/valid-attachments")
    if listed is None:
        return None
    if not isinstance(listed, list):
        _invalid("cni.dev/valid-attachments is wrong", "it is not a list")
    pairs = set()
    for item in listed:
        container = item.get("containerID") if isinstance(item, dict) else None
        ifname = item.get("ifname") if isinstance(item, dict) else None
        if not isinstance(container, str) or not isinstance(ifname, str):
            _invalid(
                "cni.dev/valid-attachments is wrong",
                "every item needs a containerID and an ifname, which are strings",
            )
        pairs.add((container, ifname))
    return frozenset(pairs)


def _container(text: str) -> str:
    if not names.matches(names.CONTAINER, text):
        _bad_environment(
            "CNI_CONTAINERID is wrong",
            f"{text[:140]!r} is not a letter or digit followed by at most 127 letters, digits, "
            "'_', '.' and '-'",
        )
    return text


def _ifname(text: str) -> str:
    # What is no UTF-8 in the environment arrives as surrogates, which no name may hold.
    if not strict_json.is_text(text) or not names.is_ifname(text):
        _bad_environment(
            "CNI_IFNAME is wrong",
            f"{text[:40]!r} is no name of an interface: at most 15 bytes, not '.', '..' or 'lo', "
            "without '/', ':' and white space",
        )
    return text


def _netns(text: str) -> str:
    if text and not text.startswith("/"):
        _bad_environment("CNI_NETNS is wrong", f"{text[:80]!r} is not an absolute path")
    return text


def _path(text: str) -> tuple[str, ...]:
    folders = tuple(text.split(":"))
    for folder in folders:
        if not folder.startswith("/"):
            _bad_environment("CNI_PATH is wrong", f"{folder[:80]!r} is not an absolute path")
    return folders


def _version(config: Mapping[str, Any], command: str) -> str:
    version = config.get("cniVersion", UNNAMED_VERSION)
    if not isinstance(version, str):
        _invalid("cniVersion is wrong", "it is not a string")
    if version not in VERSIONS:
        said = "" if "cniVersion" in config else " (none is named)"
        raise CniError(
            INCOMPATIBLE,
            f"CNI version {version[:20]!r}{said} is not supported",
            f"use one of {', '.join(VERSIONS)}",
        )
    since = OPERATIONS[command].since
    if tuple(map(int, version.split("."))) < since:
        raise CniError(
            INCOMPATIBLE,
            f"CNI version {version} has no {command}",
            f"it came with {'.'.join(map(str, since))}",
        )
    return version


def _network(config: Mapping[str, Any]) -> str:
    name = config.get("name")
    if not isinstance(name, str) or not names.matches(names.CNI_NETWORK, name):
        _invalid(
            "name is wrong",
            "a network's name is a letter or digit followed by at most 127 letters, digits, '_', "
            "'.' and '-'",
        )
    return name


def _sections(config: dict[str, Any]) -> dict[str, Any]:
    for key in ("ipam", "runtimeConfig", "prevResult", "dns", "args"):
        if not isinstance(config.get(key, {}), dict):
            _invalid(f"{key} is wrong", "it is not an object")
    kind = config.get("ipam", {}).get("type", "")
    if not isinstance(kind, str) or "/" in kind or "\0" in kind or kind in (".", ".."):
        _invalid("ipam.type is wrong", f"{str(kind)[:60]!r} is not the name of an executable")
    return config


def _bad_environment(msg: str, details: str) -> NoReturn:
    raise CniError(BAD_ENVIRONMENT, msg, details)


def _invalid(msg: str, details: str) -> NoReturn:
    raise CniError(INVALID_CONFIG, msg, details)
