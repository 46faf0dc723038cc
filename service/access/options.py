"""The variables that say who may ask what."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal, Self, get_args
from urllib.parse import urlsplit

from service.access.clients import TrustedProxies
from service.access.keys import ApiKeys
from service.access.rates import Rate

MetricsAccess = Literal["loopback", "key", "open"]
"""Who may read `/metrics`: this machine, and others with a key; everybody with a key; everybody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may ask what.

    Attributes:
        keys: None if nobody needs one.
        rate: of each client; None if unlimited.
        origins: of web pages that may ask from a browser; `*` is every one.
    """

    keys: ApiKeys | None
    proxies: TrustedProxies
    rate: Rate | None
    metrics: MetricsAccess
    origins: tuple[str, ...]

    @classmethod
    def from_environment(cls) -> Self:
        """Return what the variables say.

        Raises:
            ValueError: one of them is malformed; the message is one for users.
        """
        keys, rate = os.environ.get("TANDEM_API_KEYS"), os.environ.get("TANDEM_RATE")
        return cls(
            keys=ApiKeys(keys) if keys else None,
            proxies=TrustedProxies(os.environ.get("TANDEM_TRUSTED_PROXIES", "")),
            rate=Rate(rate) if rate else None,
            metrics=_metrics(has_keys=bool(keys)),
            origins=_origins(os.environ.get("TANDEM_CORS_ORIGINS", "")),
        )


def _metrics(*, has_keys: bool) -> MetricsAccess:
    value = os.environ.get("TANDEM_METRICS") or "loopback"
    for access in get_args(MetricsAccess):
        if value == access:
            if access == "key" and not has_keys:
                raise ValueError("TANDEM_METRICS is 'key', but there are no keys; set TANDEM_API_KEYS, too")
            found: MetricsAccess = access
            return found
    raise ValueError(f"TANDEM_METRICS is '{value}'; set it to one of {', '.join(get_args(MetricsAccess))}")


def _origins(value: str) -> tuple[str, ...]:
    origins = tuple(filter(None, map(str.strip, value.split(","))))
    for origin in origins:
        if origin != "*" and not _is_origin(origin):
            raise ValueError(
                f"TANDEM_CORS_ORIGINS has '{origin}', which is not an origin; write scheme and host as a browser sends "
                "them, in lower case and without a path: https://app.example or http://localhost:8080"
            )
    return origins


def _is_origin(text: str) -> bool:
    try:
        url = urlsplit(text)
        # A browser leaves out the scheme's own port.
        has_default_port = url.port == {"http": 80, "https": 443}.get(url.scheme)
    except ValueError:
        return False
    return url.scheme in {"http", "https"} and text == f"{url.scheme}://{url.netloc}" and bool(url.hostname) and (
        not has_default_port and "@" not in url.netloc and text == text.lower() and text.isascii()
    )  # fmt: skip
