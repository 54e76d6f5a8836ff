"""How the API is reached and as whom: from a kubeconfig, or from a service account's folder.

Pure but for the reading of files. What a kubeconfig may hold and is not understood here (programs
that make tokens, proxies, doing without verification) is refused by name: silently passed over it
would ask somebody else, or as somebody else. Source: kubeconfig v1,
https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/.
"""

from __future__ import annotations

import base64
import binascii
import os
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn
from urllib.parse import urlsplit

import msgspec
import yaml
from msgspec import Meta

from netspace.endpoints import Endpoint
from netspace.problems import Problem
from netspace.tls import explained

MAX_SIZE: Final = 1 << 20
"""Bytes of any of the files."""
Read = Callable[[Path], bytes]


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """Where the API listens, and what is shown there. `prefix` comes before every path; `ca` None
    is what the system trusts; `token_file` is read anew for each request, since tokens are renewed.
    `files`: what all this was read from."""

    endpoint: Endpoint
    prefix: str = ""
    ca: bytes | None = None
    cert: bytes | None = None
    key: bytes | None = None
    token: str = ""
    token_file: Path | None = None
    files: tuple[Path, ...] = ()

    def context(self) -> ssl.SSLContext | None:
        """For TLS; None where the endpoint has none. `Problem` invalid."""
        return _context(self) if self.endpoint.tls else None

    def bearer(self) -> str:
        """The token to show now; empty for none. `Problem` invalid."""
        if self.token_file is None:
            return self.token
        token = read_file(self.token_file).decode("ascii", "replace").strip()
        if not token or not token.isprintable() or " " in token:
            _unusable(self.token_file, "it holds no token")
        return token


class _Named(msgspec.Struct, kw_only=True):
    name: Annotated[str, Meta(min_length=1)]


class _Cluster(msgspec.Struct, kw_only=True, rename="kebab"):
    server: str = ""
    certificate_authority: str = ""
    certificate_authority_data: str = ""
    insecure_skip_tls_verify: bool = False
    tls_server_name: str = ""
    proxy_url: str = ""


class _User(msgspec.Struct, kw_only=True, rename="kebab"):
    client_certificate: str = ""
    client_certificate_data: str = ""
    client_key: str = ""
    client_key_data: str = ""
    token: str = ""
    token_file: str = msgspec.field(name="tokenFile", default="")
    username: str = ""
    exec: Any = None
    auth_provider: Any = None
    act_as: Any = msgspec.field(name="as", default=None)


class _Context(msgspec.Struct, kw_only=True):
    cluster: str = ""
    user: str = ""


class _NamedCluster(_Named):
    cluster: _Cluster


class _NamedUser(_Named):
    user: _User = msgspec.field(default_factory=_User)


class _NamedContext(_Named):
    context: _Context


class _Kubeconfig(msgspec.Struct, kw_only=True):
    current: str = msgspec.field(name="current-context", default="")
    clusters: list[_NamedCluster] = []
    users: list[_NamedUser] = []
    contexts: list[_NamedContext] = []


def read_file(path: Path) -> bytes:
    """The file; `Problem` invalid, which names it."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIZE + 1)
    except OSError as error:
        _unusable(path, f"it cannot be read: {error.strerror}")
    if len(data) > MAX_SIZE:
        _unusable(path, f"it is larger than {MAX_SIZE} bytes")
    return data


def from_service_account(
    folder: Path, server: str | None, environ: Mapping[str, str], read: Read = read_file
) -> Access:
    """The credentials that Kubernetes puts into a container; without `server` the API is where the
    environment says that it is."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT")
    if server is None:
        if not host or not port:
            raise Problem(
                "invalid",
                "kubernetes: nothing says where the API is: KUBERNETES_SERVICE_HOST is not set",
                do="name it as kubernetes.server, or a kubernetes.kubeconfig",
            )
        server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    token, ca = folder / "token", folder / "ca.crt"
    endpoint, prefix = _endpoint(server, folder)
    if endpoint.tls:
        found = Access(endpoint=endpoint, prefix=prefix, ca=read(ca), token_file=token, files=(ca,))
    else:
        found = Access(endpoint=endpoint, prefix=prefix)
    return found


def from_kubeconfig(path: Path, read: Read = read_file) -> Access:
    """The current context of a kubeconfig. Files that it names are looked for beside it."""
    try:
        content = yaml.load(read(path), Loader=_LOADER)
        config = msgspec.convert(_without_null(content), _Kubeconfig)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        _unusable(path, f"it is no kubeconfig: {' '.join(str(error).split())[:300]}")
    if not config.current:
        _unusable(path, "it has no current-context")
    context = _found(path, "context", config.current, config.contexts).context
    cluster = _found(path, "cluster", context.cluster, config.clusters).cluster
    user = _found(path, "user", context.user, config.users).user if context.user else _User()
    _refuse(path, cluster, user)
    endpoint, prefix = _endpoint(cluster.server, path)
    files = [path]

    def content_of(where: str, data: str, key: str) -> bytes | None:
        if data:
            try:
                return base64.b64decode(data, validate=True)
            except (binascii.Error, ValueError):
                _unusable(path, f"{key}-data is no base64")
        if where:
            files.append(path.parent / where)
            return read(files[-1])
        return None

    cert = content_of(user.client_certificate, user.client_certificate_data, "client-certificate")
    key = content_of(user.client_key, user.client_key_data, "client-key")
    if (cert is None) != (key is None):
        _unusable(path, "client-certificate and client-key go together: it has one of them")
    ca = content_of(
        cluster.certificate_authority, cluster.certificate_authority_data, "certificate-authority"
    )
    if not endpoint.tls and (user.token or user.token_file or not endpoint.local):
        _unusable(path, f"server {cluster.server} is no https: nothing is shown to it")
    return Access(
        endpoint=endpoint,
        prefix=prefix,
        ca=ca,
        cert=cert,
        key=key,
        token="" if user.token_file else user.token,
        token_file=path.parent / user.token_file if user.token_file else None,
        files=tuple(files),
    )


def _refuse(path: Path, cluster: _Cluster, user: _User) -> None:
    for said, key in (
        (cluster.insecure_skip_tls_verify, "insecure-skip-tls-verify"),
        (cluster.tls_server_name, "tls-server-name"),
        (cluster.proxy_url, "proxy-url"),
        (user.exec, "exec"),
        (user.auth_provider, "auth-provider"),
        (user.username, "username"),
        (user.act_as, "as"),
    ):
        if said:
            _unusable(path, f"{key} is not supported: use a certificate, or a token in a file")


def _found(path: Path, what: str, name: str, among: list[Any]) -> Any:
    for each in among:
        if each.name == name:
            return each
    _unusable(path, f"it has no {what} {name!r}")


def _endpoint(url: str, where: Path) -> tuple[Endpoint, str]:
    """The API's address and what comes before its paths. Ports may be left out, as in browsers."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        _unusable(where, f"server {url[:120]!r}: {error}")
    plain = not (parts.username or parts.query or parts.fragment)
    if parts.scheme not in ("https", "http") or not parts.hostname or not plain:
        _unusable(where, f"server {url[:120]!r} is no address: write https://HOST:PORT")
    tls = parts.scheme == "https"
    endpoint = Endpoint(url, host=parts.hostname, port=port or (443 if tls else 80), tls=tls)
    return endpoint, parts.path.rstrip("/")


def _context(access: Access) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if access.ca is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(cadata=access.ca.decode("ascii", "replace"))
        if access.cert is not None and access.key is not None:
            _load_chain(context, access.cert, access.key)
    except (ssl.SSLError, ValueError) as error:
        files = ", ".join(map(str, access.files)) or access.endpoint.url
        raise Problem(
            "invalid",
            f"kubernetes: {files}: certificates or key cannot be used ({explained(error)})",
            do="correct them",
        ) from None
    return context


def _load_chain(context: ssl.SSLContext, cert: bytes, key: bytes) -> None:
    """OpenSSL takes them from a file alone: one that is on no disk."""
    memory = os.memfd_create("kubernetes", os.MFD_CLOEXEC)
    with os.fdopen(memory, "wb") as file:
        file.write(cert.rstrip() + b"\n" + key)
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{memory}", password="")


def _without_null(value: Any) -> Any:
    """kubectl writes lists that are empty as null."""
    if isinstance(value, dict):
        return {key: _without_null(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_null(item) for item in value]
    return value


def _unusable(path: Path, why: str) -> NoReturn:
    raise Problem("invalid", f"kubernetes: {path}: {why}", do=f"correct {path}")


_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
