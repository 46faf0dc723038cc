"""Network and registry failures, each as one sentence of our own.

The messages of urllib3 and of registries may hold a URL with its query, where signatures are.
"""

from __future__ import annotations

import email.utils
import ssl
import time
from typing import TYPE_CHECKING

import msgspec
import urllib3.exceptions
from urllib3.exceptions import HTTPError, NameResolutionError, NewConnectionError, ProtocolError, ProxyError, SSLError

from classifier.errors import RegistryUnreachable
from classifier.wording import one_line
from registry.remote.hosts import origin

if TYPE_CHECKING:
    from classifier.errors import RegistryError

LATER = "check the network and the registry, or try again later"


class TransientFailure(RegistryUnreachable):
    """A failure that another try may overcome: a dropped connection, no answer in time, an overloaded registry.

    Attributes:
        retry_after_s: how long the registry asks to wait; None if it doesn't say.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class _Problem(msgspec.Struct, kw_only=True):
    code: str = ""
    message: str | None = ""


class _Problems(msgspec.Struct, kw_only=True):
    errors: tuple[_Problem, ...] = ()


def network_failure(error: Exception, host: str) -> RegistryError:
    """Return our error for what urllib3 raised while talking to `host`."""
    if isinstance(error, SSLError):
        return _tls_failure(error, host)
    facts: tuple[tuple[type[Exception], str], ...] = (
        (ProxyError, f"the proxy on the way to {host} doesn't answer: check HTTPS_PROXY and NO_PROXY"),
        (NameResolutionError, f"the name of {host} can't be resolved: check how it is spelt, and the network"),
        (NewConnectionError, f"nothing accepts connections on {host}: check that the registry runs there"),
        # After the two above, which are its subclasses.
        (urllib3.exceptions.TimeoutError, f"{host} gave no answer in time: {LATER}"),
        (ProtocolError, f"the connection to {host} broke: {LATER}"),
        (OSError, f"the connection to {host} broke: {LATER}"),
    )
    for kind, sentence in facts:
        if isinstance(error, kind):
            return TransientFailure(sentence)
    assert isinstance(error, HTTPError), "the base class of urllib3's errors"
    return RegistryUnreachable(f"{host} can't be queried ({type(error).__name__}): check how it is spelt")


def overloaded(host: str, status: int, said: str, retry_after: str | None) -> TransientFailure:
    """Return the error for a transient HTTP status; `said` is the registry's own error."""
    fact = f"HTTP {status}" + (f", {said}" if said else "")
    what = "asks to come back later" if status == 429 else "has a temporary failure"
    return TransientFailure(f"{host} {what} ({fact}): {LATER}", retry_after_s=_seconds_of(retry_after))


def problem_of(body: bytes) -> str:
    """Return the message in a registry's JSON error, on one line; empty if `body` isn't one."""
    try:
        problems = msgspec.json.decode(body, type=_Problems).errors
    except msgspec.MsgspecError:
        return ""
    said = "; ".join(f"{problem.code} {problem.message or ''}".strip() for problem in problems[:2])
    return one_line(said)


def origin_of(url: str) -> str:
    """Return `url` without the parts that may be secret: user, password, path and query."""
    scheme, host, _ = origin(url)
    return f"{scheme}://{host}"


def _tls_failure(error: SSLError, host: str) -> RegistryError:
    cause = error.args[0] if error.args else None
    if isinstance(cause, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return TransientFailure(f"the connection to {host} broke: {LATER}")
    reason = getattr(cause, "verify_message", "") or "the TLS handshake failed"
    return RegistryUnreachable(
        f"{host} can't be trusted ({reason}): name its certificate authority with TANDEM_REGISTRY_CA, or list the "
        "host in TANDEM_REGISTRY_PLAIN_HTTP if it has no TLS"
    )


def _seconds_of(retry_after: str | None) -> float | None:
    """Return the seconds of a `Retry-After` header, which holds seconds or a date (RFC 9110)."""
    if not retry_after:
        return None
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return None
