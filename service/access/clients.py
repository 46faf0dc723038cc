"""Where a request comes from: the peer's address, or what a trusted proxy says."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

_CACHED = 4096
_MAX_HOPS = 32
"""Proxies between a client and the service that are looked through."""


@lru_cache(_CACHED)
def network_of(address: str) -> str:
    """Return what counts as one client: an IPv4 address, or the /64 of an IPv6 address, which is one customer's."""
    found = _parse(address)
    if isinstance(found, IPv6Address):
        return str(IPv6Network((found, 64), strict=False))
    return address if found is None else str(found)


@lru_cache(_CACHED)
def is_loopback(address: str) -> bool:
    """Return whether an address is this machine's own."""
    found = _parse(address)
    return found is not None and found.is_loopback


class TrustedProxies:
    """The proxies whose X-Forwarded-For is believed: addresses or networks, separated by commas.

    Raises:
        ValueError: one is neither; the message is one for users.
    """

    def __init__(self, value: str) -> None:
        self._networks = []
        for text in filter(None, map(str.strip, value.split(","))):
            try:
                self._networks.append(ip_network(text))
            except ValueError as error:
                raise ValueError(
                    f"TANDEM_TRUSTED_PROXIES has '{text}', which is not an address or a network ({error}); "
                    "write for example 10.0.0.5 or 10.0.0.0/24"
                ) from error
        self._trusts = lru_cache(_CACHED)(self._look_up)

    def client_of(self, peer: str, forwarded_for: bytes) -> str:
        """Return the address that a request comes from.

        Reads `X-Forwarded-For` from the right, for as long as the address before is a trusted proxy's: each proxy
        appends whom it has the request from, and what stands left of that is the client's own invention.
        """
        address = peer
        if forwarded_for and self._networks:
            hops = forwarded_for.rsplit(b",", _MAX_HOPS)[-_MAX_HOPS:]
            while hops and self._trusts(address):
                hop = _without_port(hops.pop().strip().decode("latin-1"))
                if _parse(hop) is None:
                    break
                address = hop
        return address

    def trusts(self, peer: str) -> bool:
        """Return whether an address is a trusted proxy's."""
        return bool(self._networks) and self._trusts(peer)

    def _look_up(self, address: str) -> bool:
        found = _parse(address)
        return found is not None and any(found in network for network in self._networks)


def _parse(address: str) -> IPv4Address | IPv6Address | None:
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return None
    # A socket that takes IPv6 shows IPv4 clients as ::ffff:192.0.2.1.
    return found.ipv4_mapped or found if isinstance(found, IPv6Address) else found


def _without_port(hop: str) -> str:
    """Return the address of `192.0.2.1:4711`, `[2001:db8::1]:4711` or `[2001:db8::1]`, as some proxies write it."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
