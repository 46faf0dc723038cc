"""Failures in our own words: which are transient, without secrets or control characters."""

from __future__ import annotations

import ssl

import pytest
from urllib3.exceptions import NewConnectionError, ProtocolError, SSLError

from classifier.errors import RegistryUnreachable
from registry.remote.failures import TransientFailure, network_failure, origin_of, problem_of


@pytest.mark.parametrize(
    ("error", "transient", "sentence"),
    [
        (ProtocolError("/v2/?signature=secret"), True, "the connection to ghcr.io broke"),
        (NewConnectionError(None, "secret"), True, "nothing accepts connections on ghcr.io"),  # type: ignore[arg-type]
        (ConnectionResetError("secret"), True, "the connection to ghcr.io broke"),
        (SSLError(ssl.SSLEOFError("secret")), True, "the connection to ghcr.io broke"),
        (SSLError(ssl.SSLCertVerificationError("secret")), False, "ghcr.io can't be trusted"),
    ],
)
def test_a_network_failure_is_one_sentence(error: Exception, transient: bool, sentence: str) -> None:
    """Broken connections may heal; a certificate that isn't trusted is final. urllib3's words stay out."""
    failure = network_failure(error, "ghcr.io")
    assert isinstance(failure, RegistryUnreachable)
    assert isinstance(failure, TransientFailure) == transient
    assert sentence in str(failure)
    assert "secret" not in str(failure)


def test_a_registry_s_error_is_quoted_on_one_line() -> None:
    """Two of its errors at most, without control characters; nothing of a page that isn't JSON."""
    body = b'{"errors": [{"code": "DENIED", "message": "no\\u001b[2J\\naccess"}, {"code": "B"}, {"code": "C"}]}'
    assert problem_of(body) == "DENIED no [2J access; B"
    assert problem_of(b"<html>") == ""


def test_an_origin_has_no_secret() -> None:
    """User, password, path and query are left out."""
    assert origin_of("https://user:secret@ghcr.io/v2/?signature=secret") == "https://ghcr.io"
