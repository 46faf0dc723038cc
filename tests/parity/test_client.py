"""The client against a service that breaks off, is overloaded, or is not a Tandem service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from classifier.errors import ServiceError
from tests.parity.conftest import compare
from tests.parity.proxy import proxy

if TYPE_CHECKING:
    from pathlib import Path

    from classifier.model import Model
    from tests.parity.proxy import Reply, Request


@pytest.mark.parametrize(
    ("path", "status", "body", "sentence"),
    [
        ("/readyz", 503, "", "is not ready"),
        ("/readyz", 404, "", None),
        ("/model", 404, "no such page", "does not answer as a Tandem service of this version: /model gave HTTP 404;"),
        ("/model", 200, "<html>", "Tandem service of this version: /model gave HTTP 200 (JSON"),
        ("/classify", 500, "", "failed with HTTP 500 on /classify; its log says why"),
        ("/classify", 404, "", "/classify gave HTTP 404"),
        ("/classify", 200, {"predictions": []}, "/classify gave HTTP 200"),
        ("/classify", 413, "<html>too large</html>", "/classify gave HTTP 413"),
    ],
)
def test_a_foreign_service_is_refused(
    model: Model, few: Path, service_url: str, path: str, status: int, body: Any, sentence: str | None
) -> None:
    """An answer that no Tandem service gives is an error that names the path."""

    def tamper(request: Request, reply: Reply) -> None:
        if request.path == path:
            reply.status, reply.body = status, body

    with proxy(service_url, tamper) as url:
        if sentence is None:  # a reverse proxy may hide the probes
            assert compare(model, url, few).in_parity
            return
        with pytest.raises(ServiceError) as caught:
            compare(model, url, few)
    assert sentence in str(caught.value)


def test_temporary_failures_are_retried(model: Model, few: Path, service_url: str) -> None:
    """A broken connection and an overload are retried, and change no answer."""

    def tamper(request: Request, reply: Reply) -> None:
        if request.path == "/classify" and request.count % 10 == 3:
            reply.cut = True
        elif request.path == "/classify" and request.count % 10 == 7:
            reply.status, reply.headers = 503, {"Retry-After": "0"}

    with proxy(service_url, tamper) as url:
        report = compare(model, url, few)
    assert (report.bit_equal, report.in_parity) == (40, True)


def test_lasting_failures_are_given_up(model: Model, few: Path, service_url: str) -> None:
    """A service that breaks every connection is not retried forever."""

    def tamper(request: Request, reply: Reply) -> None:
        reply.cut = request.path == "/classify"

    with proxy(service_url, tamper) as url, pytest.raises(ServiceError, match="can't be reached"):
        compare(model, url, few)
