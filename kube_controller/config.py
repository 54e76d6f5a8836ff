"""The controller's configuration: every key, its default and its bounds. conf/controller.yaml
explains."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from netspace import names
from netspace.client_config import AskedServer, Seconds, endpoint
from netspace.config import Settings
from netspace.logs import Level
from netspace.tls import Tls

DEFAULT_PATH = Path("/etc/netspace/controller.yaml")
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]


class ServerSection(AskedServer):
    """Where the address server is asked. The certificate's role is controller."""

    endpoints: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "unix:///run/netspace/server.sock",
    )


class FederationSection(ServerSection):
    """Where the cluster's federation server is asked. The certificate's role is controller."""

    endpoints: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "unix:///run/netspace/federation.sock",
    )


class KubernetesSection(Settings):
    """How Kubernetes' API is asked: by a kubeconfig, or by the service account that Kubernetes
    gives a pod, with `server` where the environment does not name the API."""

    kubeconfig: Path | None = None
    service_account: Path = ACCOUNT
    server: str | None = None
    timeout: Seconds = 10.0

    @model_validator(mode="after")
    def _once(self) -> KubernetesSection:
        if self.kubeconfig is not None and self.server is not None:
            raise ValueError("the kubeconfig names the server: leave server out")
        return self


class ElectionSection(Settings):
    """The Lease by which one of several controllers works. `namespace` None: the pod's own."""

    lease: Name = "netspace-controller"
    namespace: Name | None = None
    identity: Annotated[str, Field(min_length=1, max_length=200)] = Field(
        default_factory=socket.gethostname
    )
    duration: Annotated[int, Field(ge=2, le=3600)] = 15
    pause: Seconds = 2.0

    @model_validator(mode="after")
    def _ordered(self) -> ElectionSection:
        if self.pause * 2 > self.duration:
            raise ValueError("pause must be less than half of duration")
        return self


class WebhookSection(Settings):
    """Where `netspace-controller webhook` is asked by Kubernetes' API: `ca` is the authority of its
    certificate, which the API is told as caBundle."""

    listen: str = "https://0.0.0.0:8472"
    ca: Path
    cert: Path
    key: Path

    @field_validator("listen")
    @classmethod
    def _secured(cls, listen: str) -> str:
        if not listen.startswith("https://"):
            raise ValueError(
                f"{listen[:80]!r}: the API asks by TLS alone: write https://ADDRESS:PORT"
            )
        return endpoint(listen)

    @property
    def tls(self) -> Tls:
        return Tls(self.ca, self.cert, self.key)


class ControllerConfig(Settings):
    """`server` None: another CNI gives the cluster's pods addresses; `federation` None: there is no
    federation server. `listen`: where metrics and signs of life are asked, None for nowhere.
    `poll`: seconds between two looks at a server where nothing changes; `observe`: between two at
    nodes that are fenced."""

    cluster: str
    server: ServerSection | None = ServerSection()
    federation: FederationSection | None = None
    kubernetes: KubernetesSection = KubernetesSection()
    election: ElectionSection = Field(default_factory=ElectionSection)
    listen: str | None = "http://0.0.0.0:8471"
    poll: Annotated[float, Field(ge=0.1, le=10)] = 5.0
    observe: Seconds = 30.0
    webhook: WebhookSection | None = None
    log_level: Level = "info"

    @field_validator("cluster")
    @classmethod
    def _named(cls, cluster: str) -> str:
        if not names.matches(names.NAME, cluster):
            raise ValueError(f"{cluster[:80]!r} is no cluster's name")
        return cluster

    @model_validator(mode="after")
    def _busy(self) -> ControllerConfig:
        if self.server is None and self.federation is None:
            raise ValueError("it has nothing to do: name a server, a federation server, or both")
        return self

    @field_validator("listen")
    @classmethod
    def _plain(cls, listen: str | None) -> str | None:
        if listen is not None and not listen.startswith(("http://", "unix://")):
            raise ValueError(f"{listen[:80]!r}: write http://ADDRESS:PORT or unix://PATH")
        return None if listen is None else endpoint(listen)
