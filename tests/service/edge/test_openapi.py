"""The OpenAPI document, which people and client generators read."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, Any

import httpx
import pytest

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
    assert set(content) == {"multipart/form-data", "image/*", "application/octet-stream"}
    assert set(content["multipart/form-data"]["schema"]["properties"]) == {"image", "top_k"}
    assert [parameter["name"] for parameter in operation["parameters"]] == ["top_k"]


def test_every_status_is_described(document: dict[str, Any]) -> None:
    """The document has every status of /classify, refusals included."""
    responses = document["paths"]["/classify"]["post"]["responses"]
    assert set(responses) == {"200", "400", "408", "413", "415", "422", "500", "503"}
    assert "/model" in document["paths"]


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
