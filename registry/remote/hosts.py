"""How to reach a registry's host: plain HTTP or TLS, trusted certificates, and the proxy."""

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
from registry.remote.reach import guarded_pools

_API_HOSTS = {"docker.io": "registry-1.docker.io", "index.docker.io": "registry-1.docker.io"}
_CERTIFICATES = Path("/etc/docker/certs.d")
"""Docker's folder for certificate authorities of single registries: `HOST[:PORT]/*.crt`."""
_PIECE_BYTES = 1 << 18
"""The size of one write to a socket."""


def api_host(host: str) -> str:
    """Return the host of the registry's API; Docker Hub's differs from the host in references."""
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
    """Return whether `$TANDEM_REGISTRY_PLAIN_HTTP`, a list of hosts with commas, allows plain HTTP for `host`."""
    asked = os.environ.get("TANDEM_REGISTRY_PLAIN_HTTP", "").lower().split(",")
    return host.lower() in {name.strip() for name in asked}


def origin(url: str) -> tuple[str, str, int | None]:
    """Return scheme, host and port of `url`, as urllib3 reads them.

    The parser that connects must also decide where a secret goes. In an address with a backslash before an '@', urllib3
    connects to the host before it, but `urlsplit` names the host after it.

    Raises:
        ValueError: `url` is invalid.
    """
    parts = parse_url(url)
    scheme = parts.scheme or ""
    return scheme, parts.host or "", parts.port or {"http": 80, "https": 443}.get(scheme)


def may_be_plain(url: str) -> bool:
    """Return whether a request to `url` is allowed: by HTTPS, or by plain HTTP to a permitted host.

    Raises:
        ValueError: `url` is invalid.
    """
    parts = parse_url(url)
    host = parts.netloc or ""
    return parts.scheme == "https" or (parts.scheme == "http" and (is_loopback(host) or is_plain(host)))


def answers_tls(host: str, timeout_s: float) -> bool:
    """Return whether `host` speaks TLS, without checking its certificate; nothing is sent.

    Raises:
        OSError: nothing listens there, or it doesn't answer in time.
    """
    parts = urlsplit(f"//{host}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((parts.hostname or host, parts.port or 443), timeout_s) as connection:
        try:
            context.wrap_socket(connection).close()
        except (ssl.SSLError, ConnectionError):
            return False  # A plain-HTTP server answers in HTTP, or hangs up.
        return True


def open_pool(host: str, connections: int, *, tls: bool) -> urllib3.PoolManager:
    """Return a pool of connections to `host` and its redirects.

    Trusted certificate authorities: the system's, those in Docker's `certs.d` for this host, `$TANDEM_REGISTRY_CA`.

    Raises:
        RegistryError: a certificate file can't be read.
    """
    settings: dict[str, Any] = {"num_pools": 8, "maxsize": connections, "blocksize": _PIECE_BYTES}
    if tls:
        settings["ssl_context"] = _trust(host)
    proxy = None if is_loopback(host) or urllib.request.proxy_bypass(host) else urllib.request.getproxies().get("https")
    if proxy:
        return urllib3.ProxyManager(proxy, **settings)
    manager = urllib3.PoolManager(**settings)
    if not is_loopback(host):
        manager.pool_classes_by_scheme = guarded_pools(host)
    return manager


def _trust(host: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    own = [Path(path)] if (path := os.environ.get("TANDEM_REGISTRY_CA")) else []
    for file in (*own, *sorted((_CERTIFICATES / host).glob("*.crt"))):
        try:
            context.load_verify_locations(file)
        except OSError as error:  # ssl.SSLError is one
            raise RegistryError(
                f"the certificate authority {file} can't be used ({error.strerror or error}): name a PEM file"
            ) from error
    return context
