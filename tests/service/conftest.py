"""A running service of the trained digits, an image, and the form that every refusal has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from registry import LocalRegistry, open_model
from service.serving import Serving
from tests.serving import serving as running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

    from classifier.model import Model
    from tests.serving import Server

FORM = {"Content-Type": "multipart/form-data; boundary=b"}


def assert_refused(answer: httpx.Response, status: int, reason: str) -> str:
    """Assert that the answer is a refusal in the usual form, and return its message."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["reason"] == reason
    assert set(error) == {"reason", "message", "request_id"}
    assert "Traceback" not in answer.text
    message: str = error["message"]
    return message


@pytest.fixture(scope="session")
def server(digits_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Yield the service of the model `digits:1`."""
    # Without the cache: the tests ask for the same few images again and again.
    with running(tmp_path_factory.mktemp("serve"), home=digits_home, TANDEM_CACHE="0") as server:
        yield server


@pytest.fixture(scope="session")
def model(digits_home: Path) -> Model:
    """Return the served model, opened in this process."""
    return open_model("digits", registry=LocalRegistry(digits_home / "registry"))


@pytest.fixture(scope="session")
def image_file(test_folder: Path) -> Path:
    return min(test_folder.rglob("*.png"))


@pytest.fixture(scope="session")
def image(image_file: Path) -> bytes:
    return image_file.read_bytes()


@pytest.fixture
def serving(model: Model, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serving]:
    """Yield what answers in this process, so that a test can occupy its threads."""
    monkeypatch.setenv("TANDEM_CACHE", "0")

    async def start() -> Serving:
        return Serving.start(model, ())

    serving = anyio.run(start)
    monkeypatch.setattr(Serving, "current", lambda: serving)
    yield serving
    serving.scorer.close()
