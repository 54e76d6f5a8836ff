"""A kube-apiserver alone with its etcd, on loopback: enough for whoever talks to the API only.

No controller manager, no scheduler, no nodes: objects are stored, validated and watched, and
nothing is made of them. Everything that `kubectl apply --dry-run=server` checks is checked.
"""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lab.etcd import Etcd, free_ports
from lab.processes import bound
from netspace.tls import Tls
from tests.kubernetes import binaries
from tests.pki import Pki

PATIENCE = 60.0
"""Seconds until it is ready."""
CLUSTER_ADMIN = [("O", "system:masters"), ("CN", "admin")]


class Refused(OSError):
    """The API said no: HTTP's status, and its own words."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"{status}: {said}")
        self.status = status
        self.said = said


@dataclass
class ApiServer:
    """`etcd` runs already. `arguments` are further flags."""

    folder: Path
    etcd: Etcd
    arguments: Sequence[str] = ()
    port: int = 0
    _process: subprocess.Popen[bytes] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = self.port or free_ports("127.0.0.1", 1)[0]
        self.pki = Pki(self.folder, "kubernetes-ca")
        hosts = ["127.0.0.1", "localhost", "kubernetes.default.svc"]
        self._tls = self.pki.make([("CN", "kube-apiserver")], hosts, server=True)
        self._accounts = self.folder / "accounts.key"
        self._accounts.write_bytes(
            ec.generate_private_key(ec.SECP256R1()).private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.NoEncryption(),
            )
        )
        self._admin = self.pki.make(CLUSTER_ADMIN)
        self.kubeconfig = self.kubeconfig_of("admin", self._admin)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def kubeconfig_of(self, name: str, tls: Tls) -> Path:
        """A kubeconfig for whoever has this certificate."""
        path = self.folder / f"{name}.kubeconfig"
        cluster = {"server": self.url, "certificate-authority": str(tls.ca)}
        user = {"client-certificate": str(tls.cert), "client-key": str(tls.key)}
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "c", "cluster": cluster}],
                    "users": [{"name": "u", "user": user}],
                    "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                    "current-context": "x",
                }
            )
        )
        return path

    def start(self) -> Self:
        command = [str(binaries.folder() / "kube-apiserver"), *self._flags(), *self.arguments]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*bound(), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": os.defpath},
                start_new_session=True,
            )
        deadline = time.monotonic() + PATIENCE
        while not self.ready:
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = (self.folder / "log").read_text(errors="replace")[-2000:]
                raise AssertionError(f"kube-apiserver is not ready; its log ends:\n{said}")
            time.sleep(0.2)
        return self

    @property
    def ready(self) -> bool:
        """Whether it says so."""
        try:
            with self._open("GET", "/readyz") as answer:
                return bool(answer.read() == b"ok")
        except OSError:
            return False

    def kill(self) -> None:
        """kill -9: its connections break off."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def kubectl(self, *words: str, body: Any = None, check: bool = True) -> str:
        """What kubectl says, as the cluster's admin; `body` is its standard input, as text or as
        values."""
        done = subprocess.run(
            [
                *(str(binaries.folder() / "kubectl"), "--kubeconfig", str(self.kubeconfig)),
                *("--cache-dir", str(self.folder / "cache")),
                *words,
            ],
            input=body if isinstance(body, str) or body is None else yaml.safe_dump_all(_all(body)),
            capture_output=True,
            text=True,
            env={"PATH": os.defpath, "HOME": str(self.folder)},
        )
        assert not check or done.returncode == 0, f"kubectl {' '.join(words)}: {done.stderr}"
        return done.stdout if check else done.stdout + done.stderr

    def ask(self, method: str, path: str, body: Any = None, media: str = "application/json") -> Any:
        """The API's answer as values, faster than by kubectl. Raises `Refused`."""
        with self._open(method, path, body, media) as answer:
            return json.load(answer)

    def _open(self, method: str, path: str, body: Any = None, media: str = "") -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data, {"Content-Type": media} if data else {}, method=method
        )
        context = ssl.create_default_context(cafile=str(self.pki.ca))
        context.load_cert_chain(self._admin.cert, self._admin.key)
        handlers = urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        try:
            return urllib.request.build_opener(*handlers).open(request, timeout=30)
        except urllib.error.HTTPError as error:
            # Its body is what it says; its connection is nobody's any more.
            with error:
                said = error.read().decode(errors="replace")
            raise Refused(error.code, said) from None

    def find(self, path: str) -> Any:
        """The object at the path, or None."""
        try:
            return self.ask("GET", path)
        except Refused as refused:
            if refused.status != 404:
                raise
            return None

    def get(self, *words: str) -> Any:
        """What `kubectl get` says, as values."""
        return json.loads(self.kubectl("get", *words, "-o", "json"))

    def apply(self, *objects: Mapping[str, Any]) -> None:
        """As `kubectl apply --server-side`."""
        for each in objects:
            query = "?fieldManager=tests&force=true"
            self.ask("PATCH", path_of(each) + query, each, "application/apply-patch+yaml")

    def _flags(self) -> list[str]:
        flags: dict[str, object] = {
            "etcd-servers": self.etcd.url,
            "bind-address": "127.0.0.1",
            "advertise-address": "127.0.0.1",
            # Without a controller manager nobody keeps the service `kubernetes` true.
            "endpoint-reconciler-type": "none",
            "secure-port": self.port,
            "insecure-port": 0,
            "tls-cert-file": self._tls.cert,
            "tls-private-key-file": self._tls.key,
            "client-ca-file": self.pki.ca,
            "authorization-mode": "RBAC",
            # Nobody makes service accounts for namespaces here, and pods need none.
            "disable-admission-plugins": "ServiceAccount",
            "allow-privileged": "true",
            "service-cluster-ip-range": "10.96.0.0/16",
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-signing-key-file": self._accounts,
            "service-account-key-file": self._accounts,
            "v": 1,
        }
        return [f"--{name}={value}" for name, value in flags.items()]


def path_of(found: Mapping[str, Any]) -> str:
    """Where the API has an object."""
    group, name = found["apiVersion"], found["metadata"]["name"]
    root = f"/apis/{group}" if "/" in group else f"/api/{group}"
    namespace = found["metadata"].get("namespace")
    within = f"/namespaces/{namespace}" if namespace else ""
    return f"{root}{within}/{found['kind'].lower()}s/{name}"


def _all(body: Any) -> list[Any]:
    return [body] if isinstance(body, Mapping) else list(body)


@pytest.fixture(scope="session")
def apiserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """One for all tests of a session that leave it running and clean up after themselves."""
    if reason := binaries.missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("apiserver")
    quick = ("--heartbeat-interval=10", "--election-timeout=100")
    with Etcd(folder / "etcd", arguments=quick) as etcd:
        server = ApiServer(folder / "kube-apiserver", etcd)
        try:
            yield server.start()
        finally:
            server.kill()


@pytest.fixture(scope="session")
def with_namespaces(apiserver: ApiServer) -> ApiServer:
    """With the manifests' namespaces, without which a dry run takes nothing that is to lie in them.
    They stay: where no controller manager runs none that is deleted ever goes."""
    names = ("netspace-system", "netspace-uninstall")
    apiserver.apply(
        *({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in names)
    )
    return apiserver
