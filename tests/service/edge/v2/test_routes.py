"""The protocol's paths: names with slashes, versions, wrong methods, and errors in its form."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING
from urllib.parse import quote

import httpx
import numpy as np
import pytest
import tritonclient.http as triton

from registry import LocalRegistry
from registry.oci.index import with_tag
from service.edge.refusals import refusal_of, refuse
from service.limits import Overloaded
from tests.service.conftest import assert_refused
from tests.service.edge.v2.conftest import assert_protocol_error
from tests.serving import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.serving import Server

REMOTE = "localhost:5000/acme/digits"


@pytest.fixture(scope="module")
def by_digest(digits_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Yield the service of a copy of a remote model that was pulled by its digest."""
    home = tmp_path_factory.mktemp("remote")
    shutil.copytree(digits_home / "registry", home / "registry")
    registry = LocalRegistry(home / "registry")
    artifact = registry.resolve("digits:1")
    with registry.layout.writing():
        registry.layout.write_index(with_tag(registry.layout.read_index(), REMOTE, None, artifact.descriptor))
    with serving(home / "serve", home=home, TANDEM_MODEL=f"{REMOTE}@{artifact.digest}") as server:
        yield server


def test_a_remote_model_without_a_version(by_digest: Server, image: bytes) -> None:
    """Its name has slashes, escaped or not. Served by digest, it has no version: none is listed, answered or found."""
    client = triton.InferenceServerClient(by_digest.url.removeprefix("http://"))
    metadata = client.get_model_metadata(REMOTE)
    assert metadata["name"] == REMOTE
    assert "versions" not in metadata
    assert client.get_model_repository_index() == [{"name": REMOTE, "state": "READY", "reason": ""}]
    tensor = triton.InferInput("image", [1], "BYTES").set_data_from_numpy(np.array([image], object))
    assert "model_version" not in client.infer(REMOTE, [tensor]).get_response()
    assert client.is_model_ready(REMOTE)
    assert not client.is_model_ready(REMOTE, "1")
    client.close()
    escaped = f"{by_digest.url}/v2/models/{quote(REMOTE, safe='')}"
    assert httpx.get(escaped).json() == metadata
    assert_protocol_error(httpx.get(f"{escaped}/versions/1"), 404, "by its digest, without a version")


@pytest.mark.parametrize(
    ("path", "status", "answer"),
    [
        ("/v2/health/live", 200, {"live": True}),
        ("/v2/health/ready", 200, {"ready": True}),
        ("/v2/models/digits/ready", 200, {"name": "digits", "ready": True}),
        ("/v2/models/digits/versions/1/ready", 200, {"name": "digits", "ready": True}),
    ],
)
def test_health(server: Server, path: str, status: int, answer: object) -> None:
    """Probes find a server and a model that are ready; a worker listens to nothing before they are."""
    got = httpx.get(server.url + path)
    assert (got.status_code, got.json()) == (status, answer)
    assert httpx.head(server.url + path).status_code == status


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/v2/models/cats", "'digits', not 'cats'"),
        ("/v2/models/Digits", "not 'Digits'"),
        ("/v2/models/digits:1", "not 'digits:1'"),
        ("/v2/models/acme/digits", "not 'acme/digits'"),
        ("/v2/models/digits/", "not 'digits/'"),
        ("/v2/models/cats/ready", "not 'cats'"),
        ("/v2/models/digits/versions/2", "no version '2'"),
        ("/v2/models/digits/versions/01", "no version '01'"),
        ("/v2/models/digits/versions/latest/ready", "no version 'latest'"),
        ("/v2/models/digits/config", "not 'digits/config'"),
        ("/v2/models/" + "x" * 5000, "not 'xxx"),
        ("/v2/models/", "nothing at this path"),
        ("/v2/", "nothing at this path"),
        ("/v2/nowhere", "nothing at this path"),
        ("/v2/models/digits/versions/1/2/infer", "nothing at this path"),
    ],
)
def test_what_is_not_here(server: Server, path: str, said: str) -> None:
    """An unknown model, version or path is 404, with what the service has instead."""
    assert_protocol_error(httpx.get(server.url + path), 404, said)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/v2", "GET"),
        ("POST", "/v2/health/live", "GET"),
        ("GET", "/v2/models/digits/infer", "POST"),
        ("GET", "/v2/models/digits/versions/1/infer", "POST"),
        ("PUT", "/v2/models/digits", "GET"),
        ("POST", "/v2/models/digits/versions/1", "GET"),
        ("POST", "/v2/models/digits/ready", "GET"),
        ("GET", "/v2/repository/index", "POST"),
    ],
)
def test_wrong_methods(server: Server, method: str, path: str, allowed: str) -> None:
    """They are 405, and the header Allow says which method is right."""
    answer = httpx.request(method, server.url + path)
    assert_protocol_error(answer, 405, "Allow")
    assert allowed in answer.headers["allow"]


def test_unknown_model_is_refused_before_its_body_comes(server: Server) -> None:
    """Nobody uploads 60 MB to learn that the name is wrong."""
    head = b"POST /v2/models/cats/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 60000000\r\n\r\n"
    with server.connect() as connection:
        connection.sendall(head)
        assert connection.recv(65536).startswith(b"HTTP/1.1 404 ")


def test_other_paths_keep_their_form(server: Server) -> None:
    """What only begins like /v2 is refused as everything else."""
    assert_refused(httpx.get(f"{server.url}/v2x"), 404, "not_found")


def test_overload_in_the_protocol_s_form() -> None:
    """A full server answers 503 with Retry-After, like everywhere, and a sentence as the protocol has it."""
    answer = refuse(refusal_of(Overloaded("too many requests are waiting; try again")), "1", "/v2/models/digits/infer")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert bytes(answer.body) == b'{"error":"too many requests are waiting; try again"}'
