"""References: how a model is named, in the words and the grammar that container images use."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from classifier.errors import InvalidReference

# The grammars of the OCI distribution specification 1.1, "Pulling manifests".
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")
# What an OCI layout allows in `org.opencontainers.image.ref.name`, and so what skopeo accepts: narrower, no `a__b`.
_LAYOUT_COMPONENT = r"[A-Za-z0-9]+(?:(?:[-._:@+]|--)[A-Za-z0-9]+)*"
_LAYOUT_NAME = re.compile(rf"{_LAYOUT_COMPONENT}(?:/{_LAYOUT_COMPONENT})*")
# Digits alone read as a version; hexadecimal as a digest; `sha256-…` is where registries keep an artifact's referrers.
_NO_ALIAS = re.compile(r"[0-9]+|[0-9a-f]{12,}|sha256-.*")

_FORMS = "write 'digits', 'digits:3', 'digits:production' or 'digits@sha256:…'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A model's name with, where they are given, a tag, a digest and the host of a remote registry.

    Attributes:
        host: `ghcr.io`, `localhost:5000`; None for the local registry.
        name: the repository, `digits` or `acme/digits`.
        tag: a version (`3`) or an alias (`production`).
        digest: `sha256:` and 64 hexadecimal digits.
    """

    name: str
    host: str | None = None
    tag: str | None = None
    digest: str | None = None

    def __post_init__(self) -> None:
        text = str(self)
        if self.host is not None and not _HOST.fullmatch(self.host):
            raise InvalidReference(f"'{text}' is no reference: '{self.host}' is not a host with an optional port")
        if not _NAME.fullmatch(self.name) or len(self.name) > 255:
            raise InvalidReference(
                f"'{text}' is no reference: a name is lower-case letters and digits, with single '.', '_', '-' or '/' "
                f"between them; {_FORMS}"
            )
        if self.tag is not None and not _TAG.fullmatch(self.tag):
            raise InvalidReference(
                f"'{text}' is no reference: '{self.tag}' is neither a version nor an alias; {_FORMS}"
            )
        if self.digest is not None and not _DIGEST.fullmatch(self.digest):
            raise InvalidReference(
                f"'{text}' is no reference: a digest is 'sha256:' and all its 64 hexadecimal digits, as "
                "'tandem models show' prints it"
            )
        if self.host is None:
            self.check_local()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the reference that `text` spells.

        It is remote if there is a `/`, and what stands before the first one has a `.` or a `:` or is `localhost`.

        Raises:
            InvalidReference: `text` is none.
        """
        # `sha256:…` alone would read as version … of a model named sha256.
        if _DIGEST.fullmatch(text):
            raise InvalidReference(f"'{text}' names no model: write the name before the digest, 'digits@{text}'")
        rest, at, digest = text.partition("@")
        first, slash, path = rest.partition("/")
        remote = bool(slash) and ("." in first or ":" in first or first == "localhost")
        name, colon, tag = (path if remote else rest).partition(":")
        return cls(host=first if remote else None, name=name, tag=tag if colon else None, digest=digest if at else None)

    def check_local(self) -> None:
        """Check that the local registry can hold a model by this name.

        Raises:
            InvalidReference: it can't.
        """
        host = "" if self.host is None else f"{self.host}/"
        if not _LAYOUT_NAME.fullmatch(f"{host}{self.tagged}"):
            raise InvalidReference(
                f"'{self}' can't name a model of the local registry: letters and digits are separated by a single "
                "'.', '_', '-' or '/' there"
            )

    @property
    def tagged(self) -> str:
        """The name with its tag: what an OCI layout keeps in `org.opencontainers.image.ref.name`."""
        return self.name if self.tag is None else f"{self.name}:{self.tag}"

    @property
    def repository(self) -> str:
        """The name with its host, `ghcr.io/acme/digits`: the name that a fetched copy has in the local registry."""
        return self.name if self.host is None else f"{self.host}/{self.name}"

    @property
    def version(self) -> int | None:
        """The version that the tag is, or None."""
        return version_of(self.tag)

    def __str__(self) -> str:
        host = "" if self.host is None else f"{self.host}/"
        digest = "" if self.digest is None else f"@{self.digest}"
        return f"{host}{self.tagged}{digest}"


def version_of(tag: str | None) -> int | None:
    """Return the version that `tag` is, or None where it is an alias or nothing."""
    return int(tag) if tag is not None and _VERSION.fullmatch(tag) else None


def check_alias(alias: str) -> str:
    """Return `alias`, which could be a tag and can't be taken for a version or a digest.

    Raises:
        InvalidReference: it can.
    """
    if not _TAG.fullmatch(alias) or _NO_ALIAS.fullmatch(alias):
        raise InvalidReference(
            f"'{alias}' can't be an alias: it is up to 128 letters, digits, '.', '_' and '-', and neither a number "
            "nor anything that reads as a digest; 'production' is one"
        )
    return alias


def is_tag(text: str) -> bool:
    """Return whether `text` can be a tag: what a registry lists may be anything."""
    return _TAG.fullmatch(text) is not None


def is_digest(text: str) -> bool:
    """Return whether `text` is a whole digest, of the one algorithm that Tandem uses."""
    return _DIGEST.fullmatch(text) is not None
