"""Which addresses a registry may lead to: only one on this machine may lead to this machine.

A registry gives URLs, to download from, to upload to and to ask for tokens. Without this rule, one elsewhere could send
requests, and credentials with them, to services that only this machine reaches.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util import parse_url

from classifier.errors import RegistryDenied

if TYPE_CHECKING:
    IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def check_reach(registry: str, url: str) -> None:
    """Check that `url`, which the registry of the host `registry` gave, doesn't name an address that it can't lead to.

    Raises:
        RegistryDenied: it is on this machine or link-local, but the registry isn't.
        ValueError: `url` is invalid.
    """
    target = _name_of(url)
    if _is_inside(target) and not _is_inside(_name_of(f"//{registry}")):
        raise _refusal(registry, target)


def guarded_pools(registry: str) -> dict[str, type[HTTPConnectionPool]]:
    """Return urllib3's pools for a registry elsewhere: connections to other hosts must not end on this machine.

    A name may resolve to any address, and to another one each time; what counts is where the connection ended.
    """
    own = _name_of(f"//{registry}")

    def check(connection: HTTPConnection, opened: socket.socket) -> socket.socket:
        peer = str(opened.getpeername()[0])
        if _is_inside(peer) and _plain(connection.host) != own:
            opened.close()
            raise _refusal(registry, f"{connection.host} ({peer})")
        return opened

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return check(self, super()._new_conn())

    class Secure(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return check(self, super()._new_conn())

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


def _name_of(url: str) -> str:
    return _plain(parse_url(url).host or "")


def _plain(host: str) -> str:
    return host.strip("[]").rstrip(".").lower()


def _is_inside(name: str) -> bool:
    """Return whether a host's name or address, however it is spelled, is this machine's or link-local."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = _address_of(name.partition("%")[0])
    if address is None:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_link_local or address.is_unspecified


def _address_of(name: str) -> IPAddress | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        pass
    try:
        return ipaddress.ip_address(socket.inet_aton(name))  # 127.1, 2130706433, 0x7f.1
    except (OSError, ValueError):
        return None


def _refusal(registry: str, target: str) -> RegistryDenied:
    return RegistryDenied(
        f"{registry} leads to {target}, an address of this machine or its link, which only a registry on this machine "
        "may do: don't trust this registry, or name it by its own address"
    )
