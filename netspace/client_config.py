"""What the configurations of those who ask servers have in common: where, with what certificate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from netspace.config import Settings
from netspace.endpoints import Endpoint
from netspace.problems import Problem
from netspace.tls import Tls

Seconds = Annotated[float, Field(ge=0.1, le=3600)]


class AskedServer(Settings):
    """Where servers of one kind are asked, tried in turn; PEM files for https. Each kind says by
    itself where by default."""

    endpoints: Annotated[tuple[str, ...], Field(min_length=1)]
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    timeout: Seconds = 10.0

    @field_validator("endpoints")
    @classmethod
    def _addresses(cls, endpoints: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(endpoint(url) for url in endpoints)

    @model_validator(mode="after")
    def _together(self) -> Self:
        files = (self.ca, self.cert, self.key)
        secured = any(url.startswith("https://") for url in self.endpoints)
        if not all(files) and (any(files) or secured):
            raise ValueError("https needs ca, cert and key: name all three")
        return self

    @property
    def tls(self) -> Tls | None:
        if self.ca is None or self.cert is None or self.key is None:
            return None
        return Tls(self.ca, self.cert, self.key)


def endpoint(url: str) -> str:
    """As `Endpoint` writes it. ValueError."""
    try:
        return Endpoint.parse(url).url
    except Problem as problem:
        raise ValueError(str(problem)) from None
