"""From a registry's challenge to an `Authorization` header, with Basic or a Bearer token.

Formats: RFC 9110 "WWW-Authenticate"; "Token Authentication Specification" and "OAuth2 token authentication" of the
CNCF distribution project.
"""

from __future__ import annotations

import logging
import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlencode

import msgspec

from classifier.errors import RegistryDenied
from registry.remote.credentials import HelperFailed, find_credentials
from registry.remote.failures import origin_of
from registry.remote.hosts import may_be_plain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from registry.remote.credentials import Credentials

log = logging.getLogger(__name__)

_PARAMETER = re.compile(r'([a-zA-Z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')
_CLIENT = "tandem"


class TokenServer(Protocol):
    """Sends a request to a token server; `Connection.ask` implements it."""

    def __call__(self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None) -> tuple[int, bytes]:
        """Return the answer's status and body."""


class _Token(msgspec.Struct, kw_only=True):
    token: str = ""
    access_token: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Challenge:
    scheme: str
    parameters: Mapping[str, str]


class Authenticator:
    """The `Authorization` headers for one registry, one per scope. Threads may share it."""

    def __init__(self, host: str, ask: TokenServer) -> None:
        self._host = host
        self._ask = ask
        self._headers: dict[str, str] = {}
        self._secrets: set[str] = set()
        self._lock = threading.Lock()

    def header(self, scope: str) -> str | None:
        """Return the header for `scope` that answered its last challenge; None before the first."""
        return self._headers.get(scope)

    def answer(self, challenges: str, scope: str, *, refused: str | None) -> str:
        """Return the header that answers a registry's `WWW-Authenticate`.

        Args:
            challenges: the value of `WWW-Authenticate`.
            scope: the permissions needed.
            refused: the header that the registry refused.

        Raises:
            RegistryDenied: there are no credentials, they are wrong, or they lack a permission.
        """
        with self._lock:
            # When several threads are refused at once, the first one gets the header for all.
            if (known := self._headers.get(scope)) is not None and known != refused:
                return known
            header = self._answer(_parse(challenges), scope)
            if header == refused:
                raise RegistryDenied(f"{self._host} refuses your credentials: {self._log_in}")
            self._headers[scope] = header
            return header

    def redact(self, text: str) -> str:
        """Return `text` with every known secret replaced."""
        # A copy, since other threads add secrets; the longest first, since one may contain another.
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, "…")
        return text

    @property
    def _log_in(self) -> str:
        return f"run 'docker login {self._host}', or set TANDEM_REGISTRY_USERNAME and TANDEM_REGISTRY_PASSWORD"

    def _answer(self, challenges: list[_Challenge], scope: str) -> str:
        try:
            credentials = find_credentials(self._host)
        except HelperFailed as failed:
            try:
                header = self._answer_as(None, challenges, scope)
            except RegistryDenied:
                raise failed from None
            log.warning("going on without credentials, as for a public model: %s", failed)
            return header
        if credentials is not None:
            self._secrets.update(credentials.secrets)
        return self._answer_as(credentials, challenges, scope)

    def _answer_as(self, credentials: Credentials | None, challenges: list[_Challenge], scope: str) -> str:
        for challenge in challenges:
            if challenge.scheme == "bearer" and "realm" in challenge.parameters:
                return f"Bearer {self._fetch_token(challenge.parameters, credentials, scope)}"
            if challenge.scheme == "basic":
                if credentials is None or not credentials.password:
                    raise RegistryDenied(f"{self._host} needs a user and a password: {self._log_in}")
                return credentials.basic
        raise RegistryDenied(f"{self._host} refuses access without saying how to log in: {self._log_in}")

    def _fetch_token(self, challenge: Mapping[str, str], credentials: Credentials | None, scope: str) -> str:
        realm = challenge["realm"]
        try:
            allowed = may_be_plain(realm)
        except ValueError:
            raise RegistryDenied(
                f"the token server of {self._host} has an invalid URL: check that it is an OCI registry"
            ) from None
        if not allowed:
            raise RegistryDenied(
                f"{self._host} asks for the credentials at {origin_of(realm)}, which is not HTTPS: list that host in "
                "TANDEM_REGISTRY_PLAIN_HTTP if you trust the network to it"
            )
        # The registry's scopes and ours: a mount needs a second repository.
        scopes = dict.fromkeys((*challenge.get("scope", "").split(), *scope.split()))
        fields = [("scope", each) for each in scopes]
        fields += [("service", challenge["service"])] if "service" in challenge else []
        if credentials is not None and credentials.identity_token:
            form = {
                "grant_type": "refresh_token",
                "refresh_token": credentials.identity_token,
                "client_id": _CLIENT,
                "scope": " ".join(scopes),
                "service": challenge.get("service", ""),
            }
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            status, body = self._ask("POST", realm, headers=headers, body=urlencode(form).encode())
        else:
            headers = {} if credentials is None else {"Authorization": credentials.basic}
            url = realm + ("&" if "?" in realm else "?") + urlencode(fields)
            status, body = self._ask("GET", url, headers=headers, body=None)
        if status != 200:
            what = "gives no token without credentials" if credentials is None else "refuses the credentials for it"
            raise RegistryDenied(f"the token server of {self._host} {what} (HTTP {status}): {self._log_in}")
        return self._read_token(body)

    def _read_token(self, body: bytes) -> str:
        try:
            answer = msgspec.json.decode(body, type=_Token)
        except msgspec.MsgspecError:
            answer = _Token()
        token = answer.token or answer.access_token
        # A token becomes part of a header; a line break in it would start another one.
        if not re.fullmatch(r"[\x21-\x7e]+", token):
            raise RegistryDenied(f"the token server of {self._host} answered without a token: try again later")
        self._secrets.add(token)
        return token


def _parse(header: str) -> list[_Challenge]:
    """Parse a `WWW-Authenticate` header."""
    starts = list(re.finditer(r"(?:^|,)\s*(basic|bearer)\b", header, re.IGNORECASE))
    ends = [*(match.start() for match in starts[1:]), len(header)][: len(starts)]
    return [
        _Challenge(
            scheme=match[1].lower(),
            parameters={
                found[1].lower(): found[3] if found[2] is None else re.sub(r"\\(.)", r"\1", found[2])
                for found in _PARAMETER.finditer(header, match.end(), end)
            },
        )
        for match, end in zip(starts, ends, strict=True)
    ]
