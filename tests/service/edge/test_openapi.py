"""The OpenAPI document, which people and client generators read."""

from __future__ import annotations

import importlib.metadata
import re
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest
import yaml

from service.edge.application import KEPT
from service.edge.classify import ROUTES
from service.edge.openapi import OPENAPI_ROUTES, openapi
from service.edge.v2.routes import V2_ROUTES
from service.serving import Serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.serving import Server


@pytest.fixture(scope="module")
def document(server: Server) -> dict[str, Any]:
    answer: dict[str, Any] = httpx.get(f"{server.url}/docs.json").raise_for_status().json()
    return answer


def references(value: object) -> Iterator[str]:
    """Yield every `$ref` of a document."""
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from references(part)


def test_classify_takes_a_form_or_a_raw_body(document: dict[str, Any]) -> None:
    """The document describes both, each with top_k."""
    operation = document["paths"]["/classify"]["post"]
    content = operation["requestBody"]["content"]
    images = {"image/jpeg", "image/png", "image/webp", "image/bmp", "application/octet-stream"}
    assert set(content) == images | {"multipart/form-data"}
    assert set(content["multipart/form-data"]["schema"]["properties"]) == {"image", "top_k"}
    assert [parameter["name"] for parameter in operation["parameters"]] == ["top_k"]


def test_every_status_is_described(document: dict[str, Any]) -> None:
    """The document has every status of /classify, refusals included."""
    responses = document["paths"]["/classify"]["post"]["responses"]
    assert set(responses) == {"200", "400", "401", "408", "413", "415", "422", "429", "431", "500", "503"}
    assert "Retry-After" in responses["503"]["headers"]
    assert responses["200"]["headers"]["X-Request-Id"]["required"]


def test_statuses_of_the_other_paths(document: dict[str, Any], server: Server) -> None:
    """Each has those that it can answer: of keys, of metrics that are closed, of a page that has not changed."""

    def statuses(path: str, method: str = "get") -> set[str]:
        return set(document["paths"][path][method]["responses"])

    assert {"401", "429"} <= statuses("/schema.json")
    assert {"401", "403"} <= statuses("/metrics")
    assert "304" in statuses("/") & statuses("/docs")
    for path, methods in document["paths"].items():
        encoded = {
            method: httpx.request(method, server.url + path, headers={"Content-Encoding": "gzip"}) for method in methods
        }
        for method, answer in encoded.items():
            assert str(answer.status_code) in statuses(path, method) | {"404"}
            assert (answer.status_code == 415) == (method == "post")


def test_feedback_is_described_where_it_is_taken(document: dict[str, Any]) -> None:
    """A service without a prediction log has no use for it."""
    assert "/feedback" not in document["paths"]
    assert "/feedback" in openapi()["paths"]


def test_the_document_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking for it again costs nothing."""
    request: Any = SimpleNamespace(app=SimpleNamespace(paths=frozenset({"/model"})), scope={})
    serving = SimpleNamespace(description=None, versions=(), prediction_log=None)
    monkeypatch.setattr(Serving, "current", lambda: serving)
    first, second = (anyio.run(OPENAPI_ROUTES[0].endpoint, request) for _ in range(2))
    assert first.body is second.body


def test_every_route_is_described_and_no_other(document: dict[str, Any], server: Server) -> None:
    """Each path of our routes and of those that BentoML keeps is in the document; each path in it is answered."""
    routes = {re.sub(r":\w+}", "}", route.path) for route in (*ROUTES, *V2_ROUTES, *OPENAPI_ROUTES)} | KEPT
    assert routes <= set(document["paths"])
    for path, methods in document["paths"].items():
        filled = path.replace("{name}", "digits").replace("{version}", "1")
        for method in methods:
            answer = httpx.request(method, server.url + filled)
            assert answer.status_code != 405, path
            assert "nothing at this path" not in answer.text, path
        assert httpx.delete(server.url + filled).status_code == 405


def test_keys_are_optional(document: dict[str, Any]) -> None:
    """A key is a Bearer token or the header X-Api-Key; probes never need one."""
    assert {"bearer", "key"} == set(document["components"]["securitySchemes"])
    paths = document["paths"]
    assert {} in paths["/classify"]["post"]["security"]
    for path in ("/livez", "/readyz", "/v2/health/live", "/v2/health/ready"):
        assert "security" not in paths[path]["get"]


def test_before_a_service_runs() -> None:
    """`bentoml build` writes the document into the Bento, without the model that will be served."""
    document = openapi()
    assert yaml.safe_load(yaml.dump(document)) == document
    paths = document["paths"]
    assert "enum" not in paths["/v2/models/{name}"]["get"]["parameters"][0]["schema"]


def test_parameters_name_the_served_model(document: dict[str, Any]) -> None:
    """The API page offers the model's name and version, so that its form works in its defaults."""
    name, version = document["paths"]["/v2/models/{name}/versions/{version}"]["get"]["parameters"]
    assert (name["schema"]["enum"], version["schema"]["enum"]) == (["digits"], ["1"])


def test_a_model_without_a_version() -> None:
    """The document lists no path that nothing but 404 is behind."""
    description = SimpleNamespace(name="digits", labels=("0", "1"), preprocessing=SimpleNamespace(crop_size=8))
    assert not [path for path in openapi(model=description)["paths"] if "{version}" in path]  # type: ignore[arg-type]


def test_version_is_that_of_tandem(document: dict[str, Any]) -> None:
    """A service that runs from its sources doesn't report BentoML's "None"."""
    assert document["info"]["version"] == importlib.metadata.version("tandem")


def test_every_reference_leads_to_a_schema(document: dict[str, Any]) -> None:
    """No `$ref` dangles, so a client generator finds every schema."""
    schemas = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert set(references(document)) <= schemas


def test_schemas_match_the_answers(document: dict[str, Any], server: Server, image: bytes) -> None:
    """The documented fields are the answer's fields."""
    answer = httpx.post(f"{server.url}/classify", content=image).json()
    schemas = document["components"]["schemas"]
    assert set(schemas["Classification"]["properties"]) == set(answer)
    assert set(schemas["Prediction"]["properties"]) == set(answer["predictions"][0])
    assert set(schemas["EngineInfo"]["properties"]) == set(answer["engine"])
    assert set(schemas["ModelDescription"]["properties"]) == set(server.model)
