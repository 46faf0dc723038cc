"""References: the names of models, in the grammar of container images."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from classifier.errors import InvalidReference

if TYPE_CHECKING:
    from collections.abc import Collection

# The grammars of the OCI distribution specification 1.1, "Pulling manifests".
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")
# The OCI layout's grammar of `org.opencontainers.image.ref.name`, which skopeo enforces: narrower, no `a__b`.
_LAYOUT_COMPONENT = r"[A-Za-z0-9]+(?:(?:[-._:@+]|--)[A-Za-z0-9]+)*"
_LAYOUT_NAME = re.compile(rf"{_LAYOUT_COMPONENT}(?:/{_LAYOUT_COMPONENT})*")
# Digits alone read as a version, hexadecimal as a digest; registries keep an artifact's referrers under `sha256-…`.
_NO_ALIAS = re.compile(r"[0-9]+|[0-9a-f]{12,}|sha256-.*")

PRODUCTION = "production"
"""The alias that a bare name means, if it is set."""

_FORMS = "write 'digits', 'digits:3', 'digits:production' or 'digits@sha256:…'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A model's name, with an optional tag, digest and host of a remote registry.

    Attributes:
        name: the repository, `digits` or `acme/digits`.
        host: `ghcr.io`, `localhost:5000`; None for the local registry.
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
            raise InvalidReference(f"'{text}' is not a reference: '{self.host}' is not a host with an optional port")
        if not _NAME.fullmatch(self.name) or len(self.name) > 255:
            raise InvalidReference(
                f"'{text}' is not a reference: a name is lower-case letters and digits with single '.', '_', '-' or "
                f"'/' between them; {_FORMS}"
            )
        if self.tag is not None and not _TAG.fullmatch(self.tag):
            raise InvalidReference(
                f"'{text}' is not a reference: '{self.tag}' is neither a version nor an alias; {_FORMS}"
            )
        if self.digest is not None and not _DIGEST.fullmatch(self.digest):
            raise InvalidReference(
                f"'{text}' is not a reference: a digest is 'sha256:' and all its 64 hexadecimal digits, as "
                "'tandem models show' prints it"
            )
        if self.host is None:
            self.check_local()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a reference.

        It is remote if it has a `/` and the part before the first `/` contains a `.` or a `:` or is `localhost`.

        Raises:
            InvalidReference: `text` is not a reference.
        """
        # `sha256:…` alone would read as a tag of a model named sha256.
        if _DIGEST.fullmatch(text):
            raise InvalidReference(f"'{text}' names no model: write the name before the digest, 'digits@{text}'")
        rest, at, digest = text.partition("@")
        first, slash, path = rest.partition("/")
        remote = bool(slash) and ("." in first or ":" in first or first == "localhost")
        name, colon, tag = (path if remote else rest).partition(":")
        return cls(host=first if remote else None, name=name, tag=tag if colon else None, digest=digest if at else None)

    def check_local(self) -> None:
        """Check that the local registry can hold a model of this name.

        Raises:
            InvalidReference: an OCI layout doesn't allow the name.
        """
        # The layout's grammar has no brackets. Only skopeo keeps to it here, and can't name a copy from `[::1]:5000`.
        host = "" if self.host is None else re.sub(r"^\[.*\]", "ipv6", self.host) + "/"
        if not _LAYOUT_NAME.fullmatch(f"{host}{self.tagged}"):
            raise InvalidReference(
                f"'{self}' can't name a model in the local registry: write a single '.', '_', '-' or '/' between "
                "letters and digits"
            )

    @property
    def tagged(self) -> str:
        """The name with its tag, as an OCI layout keeps it in `org.opencontainers.image.ref.name`."""
        return self.name if self.tag is None else f"{self.name}:{self.tag}"

    @property
    def repository(self) -> str:
        """The name with its host, `ghcr.io/acme/digits`; a pulled copy has this name in the local registry."""
        return self.name if self.host is None else f"{self.host}/{self.name}"

    @property
    def version(self) -> int | None:
        """The tag as a version; None if it isn't one."""
        return version_of(self.tag)

    def __str__(self) -> str:
        host = "" if self.host is None else f"{self.host}/"
        digest = "" if self.digest is None else f"@{self.digest}"
        return f"{host}{self.tagged}{digest}"


def version_of(tag: str | None) -> int | None:
    """Return `tag` as a version; None if it is an alias or missing."""
    return int(tag) if tag is not None and _VERSION.fullmatch(tag) else None


def tag_order(tag: str | None) -> tuple[int, int, str]:
    """Return a sort key that puts versions first, by number, then aliases by name."""
    version = version_of(tag)
    return (0, version, "") if version is not None else (1, 0, tag or "")


def tag_of_bare_name(tags: Collection[str | None]) -> str | None:
    """Return the tag that a bare name means: `production`, else the highest version; None if neither exists."""
    if PRODUCTION in tags:
        return PRODUCTION
    return max((tag for tag in tags if version_of(tag) is not None), key=tag_order, default=None)


def check_alias(alias: str) -> str:
    """Return `alias` if it is a valid tag and can't be taken for a version or a digest.

    Raises:
        InvalidReference: it isn't.
    """
    if not _TAG.fullmatch(alias) or _NO_ALIAS.fullmatch(alias):
        raise InvalidReference(
            f"'{alias}' can't be an alias: write up to 128 letters, digits, '.', '_' and '-', but not a number or "
            "anything that reads as a digest; 'production' is one"
        )
    return alias


def is_tag(text: str) -> bool:
    """Return whether `text` is a valid tag; a registry's list may hold anything."""
    return _TAG.fullmatch(text) is not None


def is_digest(text: str) -> bool:
    """Return whether `text` is a whole SHA-256 digest, the only algorithm that Tandem uses."""
    return _DIGEST.fullmatch(text) is not None


def check_name(name: str) -> None:
    """Check that `name` is a plain model name, without registry host, tag or digest.

    Raises:
        InvalidReference: it is not.
    """
    parsed = Reference.parse(name)
    if name != parsed.name:
        raise InvalidReference(
            f"'{name}' is not a plain model name: give '{parsed.name}', and the registry numbers the version"
        )
