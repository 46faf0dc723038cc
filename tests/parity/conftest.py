"""A running service, a bulk run's model and images, and the comparison of both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from batch.inputs.named import find_inputs
from parity.client import ServiceClient
from parity.roads import compare_roads
from tests.batch.conftest import few, image, model
from tests.serving import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from classifier.model import Model

__all__ = ["few", "image", "model"]


@pytest.fixture(scope="session")
def service_url(digits_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the URL of a real `bentoml serve` with the trained digits."""
    with serving(tmp_path_factory.mktemp("serve"), home=digits_home) as server:
        yield server.url


def compare(model: Model, url: str, *inputs: Path, limit: int | None = None) -> Any:
    """Return the report of a comparison of the service at `url` with a bulk run of `model`."""
    with ServiceClient(url, connections=4) as client:
        return compare_roads(model, client, find_inputs([str(each) for each in inputs]), limit=limit, concurrency=4)
