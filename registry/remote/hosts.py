"""How a registry's host is reached: plain HTTP or TLS, whose certificates are trusted, through which proxy."""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import urllib3
from urllib3.util import parse_url

from classifier.errors import RegistryError

_API_HOSTS = {"docker.io": "registry-1.docker.io", "index.docker.io": "registry-1.docker.io"}
_CERTIFICATES = Path("/etc/docker/certs.d")
"""Where Docker looks for a registry's own certificate authority: `HOST[:PORT]/*.crt`."""
_PIECE_BYTES = 1 << 18
"""How much is handed to a socket at once."""


def api_host(host: str) -> str:
    """Return the host that answers for `host`: Docker Hub's has another name than its references."""
    return _API_HOSTS.get(host, host)


def is_loopback(host: str) -> bool:
    """Return whether `host`, with or without a port, is this machine."""
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def is_plain(host: str) -> bool:
    """Return whether plain HTTP was asked for: `$TANDEM_REGISTRY_PLAIN_HTTP` lists such hosts, with commas."""
    asked = os.environ.get("TANDEM_REGISTRY_PLAIN_HTTP", "").lower().split(",")
    return host.lower() in {name.strip() for name in asked}


def origin(url: str) -> tuple[str, str, int | None]:
    """Return scheme, host and port of `url`, as urllib3 reads them.

    What connects has to be what says where a secret goes: of an address with a backslash before an '@', urllib3 asks
    what stands before it, and `urlsplit` names what stands behind.

    Raises:
        ValueError: `url` is none.
    """
    parts = parse_url(url)
    scheme = parts.scheme or ""
    return scheme, parts.host or "", parts.port or {"http": 80, "https": 443}.get(scheme)


def may_be_plain(url: str) -> bool:
    """Return whether `url` may be asked for: it is HTTPS, or plain HTTP where that is allowed.

    Raises:
        ValueError: `url` is none.
    """
    parts = parse_url(url)
    host = parts.netloc or ""
    return parts.scheme == "https" or (parts.scheme == "http" and (is_loopback(host) or is_plain(host)))


def answers_tls(host: str, timeout_s: float) -> bool:
    """Return whether `host` takes part in a TLS handshake, whoever it is: nothing is sent to it.

    Raises:
        OSError: nothing listens there, or it gives no answer in time.
    """
    parts = urlsplit(f"//{host}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((parts.hostname or host, parts.port or 443), timeout_s) as connection:
        try:
            context.wrap_socket(connection).close()
        except (ssl.SSLError, ConnectionError):
            return False  # What speaks plain HTTP answers in it, or hangs up.
        return True


def open_pool(host: str, connections: int, *, tls: bool) -> urllib3.PoolManager:
    """Return a pool of connections to `host` and to where it redirects.

    The certificate authorities are the system's, those of Docker's `certs.d` for this host, and `$TANDEM_REGISTRY_CA`.

    Raises:
        RegistryError: one of those files can't be read.
    """
    settings: dict[str, Any] = {"num_pools": 8, "maxsize": connections, "blocksize": _PIECE_BYTES}
    if tls:
        settings["ssl_context"] = _trust(host)
    proxy = None if is_loopback(host) or urllib.request.proxy_bypass(host) else urllib.request.getproxies().get("https")
    return urllib3.ProxyManager(proxy, **settings) if proxy else urllib3.PoolManager(**settings)


def _trust(host: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    own = [Path(path)] if (path := os.environ.get("TANDEM_REGISTRY_CA")) else []
    for file in (*own, *sorted((_CERTIFICATES / host).glob("*.crt"))):
        try:
            context.load_verify_locations(file)
        except OSError as error:  # ssl.SSLError is one
            raise RegistryError(
                f"the certificate authority {file} can't be used ({error.strerror or error}): it wants to be a PEM file"
            ) from error
    return context
