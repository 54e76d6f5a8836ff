"""Where a server listens, as people write it: a Unix socket or an HTTP address."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from netspace.problems import invalid


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`path` of a Unix socket, or `host` and `port`, with `tls` or without; `url` is as it was
    written."""

    url: str
    path: str = ""
    host: str = ""
    port: int = 0
    tls: bool = False

    @staticmethod
    def parse(url: str) -> Endpoint:
        """`unix:///run/netspace/server.sock`, `https://10.0.0.5:8470` or `http://127.0.0.1:8470`;
        else `Problem` invalid."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError as error:
            raise invalid(f"endpoint {url[:120]!r}", error) from None
        plain = not (parts.username or parts.query or parts.fragment)
        if parts.scheme == "unix" and plain and not parts.netloc and len(parts.path) > 1:
            return Endpoint(url, path=parts.path)
        web = parts.scheme in ("http", "https")
        if web and plain and host and port and parts.path in ("", "/"):
            return Endpoint(url, host=host, port=port, tls=parts.scheme == "https")
        raise invalid(
            f"endpoint {url[:120]!r}",
            "it is neither a Unix socket nor an HTTP address with a port",
            do="write unix:///run/netspace/server.sock, https://HOST:8470 or http://127.0.0.1:8470",
        )

    @property
    def authority(self) -> str:
        """What the Host header says."""
        if self.path:
            return "localhost"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def everywhere(self) -> bool:
        """Whether it stands for every address of a machine, and so names none."""
        return self.host in ("0.0.0.0", "::")

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it. A host name may come to mean anything."""
        if self.path:
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False
