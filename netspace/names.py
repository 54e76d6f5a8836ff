"""What names may look like: of clusters, networks, pools, nodes, namespaces, pods, attachments.

Names stand in etcd keys and URLs, so a slash, a newline or a dot-only name never gets further than
these checks. Everything that a pod can name is hostile.
"""

from __future__ import annotations

import re

END = r"$(?!\n)"
"""The very end, in Python's and in JSON Schema's regular expressions: no newline follows."""

NAME = r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?" + END
"""Clusters, networks, pools, fabrics: like a DNS label, dots allowed inside, 63 characters."""

FEDERATION = r"^[a-z]([a-z0-9-]{0,61}[a-z0-9])?" + END
"""A federation: a DNS label that begins with a letter, since TLS takes it for a server's name."""

NODE = r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?" + END
"""A node: a DNS subdomain, 253 characters, as Kubernetes names nodes (RFC 1123)."""

NAMESPACE = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?" + END
"""A Kubernetes namespace: a DNS label (RFC 1123)."""

POD = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?" + END
"""A pod: Kubernetes' are DNS subdomains, podman's containers may hold capitals and underscores."""

UID = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}" + END
"""A pod's UID, whatever the runtime makes it of."""

CONTAINER = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}" + END
"""CNI_CONTAINERID: CNI specification, section 2, at most 128 characters here."""

IFNAME = r"^(?!\.{1,2}$)(?!lo$)[^/:\s\x00-\x1f\x7f]{1,15}" + END
"""CNI_IFNAME: what the kernel takes (dev_valid_name) less `lo`; 15 bytes are checked apart."""

LINK = r"^(?!\.{1,2}$)[A-Za-z0-9_.@+-]{1,15}" + END
"""A parent link as an admin names it."""

CLAIM = r"^[0-9a-f]{32}" + END
"""A claim: 128 random bits in hexadecimal, made by the node before it asks."""

CNI_NETWORK = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}" + END
"""The `name` of a CNI network configuration (CNI specification, section 1)."""

NATURAL = r"^(0|[1-9][0-9]{0,38})" + END
"""A number from 0 to 2^128 in decimal, as JSON text."""

AUDITED = r"^[0-9a-f]{16}-[0-9a-z.~-]{1,100}" + END
"""Where a page of remembered changes ended: revision and number, or revision and name."""

_COMPILED = {
    pattern: re.compile(pattern)
    for pattern in (
        NAME,
        FEDERATION,
        NODE,
        NAMESPACE,
        POD,
        UID,
        CONTAINER,
        IFNAME,
        LINK,
        CLAIM,
        CNI_NETWORK,
    )
}


def either(pattern: str, other: str) -> str:
    """The pattern or, instead of all of it, the other expression."""
    return f"^(?:{other}){END}|{pattern}"


def matches(pattern: str, text: str) -> bool:
    """Whether the text has the form, to its very end (a trailing newline is refused)."""
    return _COMPILED[pattern].match(text) is not None


def is_ifname(text: str) -> bool:
    """Whether the text can name a pod's interface: the form of `IFNAME` and at most 15 bytes."""
    return matches(IFNAME, text) and len(text.encode()) <= 15


_IN_WORDS = {
    NAME: "a name of lower-case letters, digits, '-' and '.', at most 63",
    NODE: "a node's name of lower-case letters, digits, '-' and '.', at most 253",
    NAMESPACE: "a namespace of lower-case letters, digits and '-', at most 63",
    POD: "a pod's name of letters, digits, '-', '_' and '.', at most 253",
    UID: "a UID of letters, digits, '-', '_' and '.', at most 128",
    CONTAINER: "a container id of letters, digits, '-', '_' and '.', at most 128",
    IFNAME: "an interface's name of at most 15 characters without '/', ':' and spaces, not lo",
    LINK: "a link's name of at most 15 letters, digits and _.@+-",
    CLAIM: "32 hexadecimal digits in lower case",
    AUDITED: "the `next` of the page before",
    NATURAL: "a decimal number as text, at most 39 digits",
    CNI_NETWORK: "a network's name of letters, digits, '-', '_' and '.', at most 128",
}


def in_words(message: str) -> str:
    """msgspec's message with the rule in words where it shows one of our regular expressions."""
    for pattern, words in _IN_WORDS.items():
        for shown in (pattern, either(pattern, ""), either(pattern, r"\*")):
            message = message.replace(f"`str` matching regex {shown!r}", words)
    return message
