"""Where a request comes from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.access.clients import TrustedProxies, is_loopback, network_of

PROXIES = TrustedProxies("10.0.0.0/24, 192.0.2.7,2001:db8:1::/48")


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client"),
    [
        ("198.51.100.1", b"", "198.51.100.1"),
        ("198.51.100.1", b"203.0.113.1", "198.51.100.1"),
        ("10.0.0.5", b"", "10.0.0.5"),
        ("10.0.0.5", b"203.0.113.1", "203.0.113.1"),
        ("10.0.0.5", b"1.1.1.1, 203.0.113.1", "203.0.113.1"),
        ("10.0.0.5", b"1.1.1.1,203.0.113.1 , 192.0.2.7", "203.0.113.1"),
        ("10.0.0.5", b"10.0.0.6, 10.0.0.7", "10.0.0.6"),
        ("10.0.0.5", b"203.0.113.1:4711", "203.0.113.1"),
        ("2001:db8:1::1", b"[2001:db8:2::9]:4711", "2001:db8:2::9"),
        ("::ffff:10.0.0.5", b"2001:db8:2::9", "2001:db8:2::9"),
        ("10.0.0.5", b"unknown", "10.0.0.5"),
        ("10.0.0.5", b"203.0.113.1, junk", "10.0.0.5"),
        ("", b"203.0.113.1", ""),
    ],
)
def test_the_last_address_that_no_trusted_proxy_has(peer: str, forwarded_for: bytes, client: str) -> None:
    """Only what named proxies have appended counts: the rest of the header is the client's own invention."""
    assert PROXIES.client_of(peer, forwarded_for) == client


def test_without_named_proxies_the_header_is_not_read() -> None:
    """By default nobody can pose as another."""
    assert TrustedProxies("").client_of("127.0.0.1", b"203.0.113.1") == "127.0.0.1"


@given(invented=st.binary(max_size=50))
def test_a_client_can_t_choose_its_address(invented: bytes) -> None:
    """Whatever it sends, the proxy appends the true address behind it."""
    assert PROXIES.client_of("10.0.0.5", invented + b", 203.0.113.9") == "203.0.113.9"


@pytest.mark.parametrize("value", ["10.0.0.0/33", "proxy", "10.0.0.5/24", "*", "10.0.0.1 10.0.0.2"])
def test_malformed(value: str) -> None:
    """A name or a star is refused: a service must not trust more than was meant."""
    with pytest.raises(ValueError, match="TANDEM_TRUSTED_PROXIES has"):
        TrustedProxies(value)


def test_networks() -> None:
    """One customer has a whole /64, so it is one client; IPv4 written as IPv6 is the same client."""
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:2%eth0") != network_of("2001:db8:0:1::1")
    assert network_of("::ffff:192.0.2.1") == network_of("192.0.2.1") != network_of("192.0.2.2")
    assert network_of("no address") == "no address"
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1")))
    assert not any(map(is_loopback, ("192.0.2.1", "", "testclient", "::")))
