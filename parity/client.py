"""A client of a running Tandem service."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Self, TypeVar

import httpx

from classifier.answers import Classification, ModelDescription, Refusal
from classifier.errors import ServiceError
from classifier.types import from_json

if TYPE_CHECKING:
    from types import TracebackType

    from classifier.answers import Error

_T = TypeVar("_T")

TIMEOUT_S = 60
TRIES = 4
OVERLOADED = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})


class ServiceClient:
    """Calls the service at a URL, with an API key if it needs one. Threads may share it.

    Raises:
        ServiceError: from the constructor and every method, if the URL is invalid, or the service can't be reached,
            fails, or does not answer as a Tandem service.
    """

    def __init__(self, url: str, *, connections: int = 1, key: str | None = None) -> None:
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ServiceError(f"'{url}' is not a URL ({error}); write it as http://localhost:3000") from error
        if parsed.scheme not in {"http", "https"} or not parsed.host:
            raise ServiceError(f"'{url}' is not a URL of a service; write it as http://localhost:3000")
        self.url = url.rstrip("/")
        self._http = httpx.Client(
            timeout=TIMEOUT_S,
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            headers={"X-Api-Key": key} if key else None,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._http.close()

    def describe(self) -> ModelDescription:
        """Return the description of the model that the service serves. A service that is not ready is an error."""
        ready = self._send("GET", "/readyz", tries=1)
        if ready.status_code in OVERLOADED:
            raise ServiceError(f"the service at {self.url} is not ready; its log says why")
        response = self._send("GET", "/model")
        if response.status_code != HTTPStatus.OK:
            raise self._foreign(response)
        return self._read(response, ModelDescription)

    def classify(self, data: bytes, *, top_k: int) -> Classification | Error:
        """Return the service's predictions for an encoded image, or the reason why it refused the image."""
        response = self._send("POST", "/classify", top_k=top_k, data=data)
        if response.status_code == HTTPStatus.OK:
            return self._read(response, Classification)
        if response.is_client_error and response.status_code not in {HTTPStatus.NOT_FOUND, *OVERLOADED}:
            return self._read(response, Refusal).error
        raise self._foreign(response)

    def _send(
        self, method: str, path: str, *, top_k: int | None = None, data: bytes | None = None, tries: int = TRIES
    ) -> httpx.Response:
        """Return the response. Retry a broken connection and an overload: both are temporary and change no answer."""
        for attempt in range(1, tries + 1):
            wait_s = 0.1 * 2**attempt
            try:
                response = self._http.request(
                    method,
                    f"{self.url}{path}",
                    params=None if top_k is None else {"top_k": top_k},
                    content=data,
                    headers=None if data is None else {"Content-Type": "application/octet-stream"},
                )
            except httpx.TransportError as error:
                if attempt == tries or isinstance(error, (httpx.TimeoutException, httpx.UnsupportedProtocol)):
                    raise ServiceError(
                        f"the service at {self.url} can't be reached ({error or type(error).__name__}); "
                        "'bentoml serve' starts one"
                    ) from error
            else:
                if response.status_code == HTTPStatus.UNAUTHORIZED:
                    raise ServiceError(
                        f"the service at {self.url} needs a key that it knows; set TANDEM_API_KEY to one, "
                        "'tandem keys new NAME' makes it"
                    )
                if response.status_code not in OVERLOADED or attempt == tries:
                    return response
                asked = response.headers.get("Retry-After", "")
                wait_s = min(5.0, float(asked)) if asked.isdecimal() else wait_s
            time.sleep(wait_s)
        raise AssertionError("the last try returns or raises")

    def _read(self, response: httpx.Response, type: type[_T]) -> _T:
        try:
            return from_json(response.content, type)
        except ValueError as error:
            raise self._foreign(response, error) from error

    def _foreign(self, response: httpx.Response, error: ValueError | None = None) -> ServiceError:
        path, status = response.request.url.path, response.status_code
        if response.is_server_error:
            return ServiceError(f"the service at {self.url} failed with HTTP {status} on {path}; its log says why")
        why = f" ({error})" if error else ""
        return ServiceError(
            f"{self.url} does not answer as a Tandem service of this version: {path} gave HTTP {status}{why}; "
            "check the URL and the service's version"
        )
