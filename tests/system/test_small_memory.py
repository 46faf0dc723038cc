"""In a container with 512 MiB, a small file with a huge image is refused: it ends neither a service nor a bulk run."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pyarrow.parquet as pq
import pytest
from msgspec.structs import replace
from PIL import Image

from classifier.artifact import MODEL
from registry import LocalRegistry
from tests import serving as server
from tests.cgroups import limited_memory
from tests.registry.artifacts import blob_path, put

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    Image.new("L", (9900, 10_000), 90).save(folder / "huge.jpg")
    Image.new("RGB", (6000, 6000), (9, 80, 7)).save(folder / "large.jpg")
    assert (folder / "huge.jpg").stat().st_size < 2_000_000
    return folder


@pytest.fixture
def entering(tmp_path: Path) -> Iterator[Path]:
    """Yield a script that enters a small group and becomes the program that it is given."""
    with limited_memory(512 * 2**20) as processes:
        script = tmp_path / "enter"
        script.write_text(f'#!/bin/sh\necho $$ > {processes} || exit 1\nexec "$@"\n')
        script.chmod(0o755)
        yield script


def test_a_service_refuses_it_and_goes_on(
    images: Path, entering: Path, digits_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """413 for the huge one; several large ones at once take turns."""
    bentoml = tmp_path / "bentoml"
    bentoml.write_text(f'#!/bin/sh\nexec {entering} {server.BENTOML} "$@"\n')
    bentoml.chmod(0o755)
    monkeypatch.setattr(server, "BENTOML", bentoml)
    huge, large = ((images / name).read_bytes() for name in ("huge.jpg", "large.jpg"))
    with server.serving(tmp_path / "service", home=digits_home) as served:

        def post(data: bytes) -> httpx.Response:
            headers = {"Content-Type": "image/jpeg"}
            return httpx.post(f"{served.url}/classify", content=data, headers=headers, timeout=120)

        answer = post(huge)
        assert (answer.status_code, answer.json()["error"]["reason"]) == (413, "too_large")
        assert "this container's limit leaves 214,748,364 for images" in answer.json()["error"]["message"]
        with ThreadPoolExecutor(4) as pool:
            assert [each.status_code for each in pool.map(post, [large, huge, large, large])] == [200, 413, 200, 200]
        served.wait_until_ready()


def test_a_model_that_never_fits_is_one_sentence(
    entering: Path, tandem_home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its graph of 300 MB is not even read: the kernel would end the process."""
    registry = LocalRegistry(tandem_home / "registry")
    artifact = registry.resolve("digits:1")
    was = artifact.files[MODEL]
    huge = replace(was, size=300_000_000, digest="sha256:" + "0" * 64)
    with blob_path(registry, huge.digest).open("wb") as blob:
        blob.truncate(huge.size)
    layers = tuple(huge if layer == was else layer for layer in artifact.manifest.layers)
    put(registry, "digits:2", replace(artifact.manifest, layers=layers), artifact.descriptor.media_type)
    tandem = Path(sys.executable).with_name("tandem")
    options = ["digits:2", "--engine", "onnxruntime", "--precision", "fp32"]
    assert os.spawnv(os.P_WAIT, str(entering), [str(entering), str(tandem), "selftest", *options]) == 1
    (error,) = [line for line in capfd.readouterr().err.splitlines() if "Error" in line]
    assert error == (
        "Error: model 'digits:2' does not fit into this container: model.onnx has 300,000,000 bytes, and an "
        "engine needs 2 times that, but the limit on memory is 536,870,912 bytes; give the container more"
    )


def test_a_bulk_run_makes_a_row_of_it(images: Path, entering: Path, digits_home: Path, tmp_path: Path) -> None:
    tandem = Path(sys.executable).with_name("tandem")
    arguments = [
        "batch",
        str(images),
        "--model",
        "digits",
        "--output",
        str(tmp_path / "out"),
        "--engine",
        "onnxruntime",
    ]
    code = os.spawnve(
        os.P_WAIT,
        str(entering),
        [str(entering), str(tandem), *arguments],
        {**os.environ, "TANDEM_HOME": str(digits_home)},
    )
    rows = pq.read_table(tmp_path / "out" / "parts").to_pylist()
    errors = {Path(row["path"]).name: (row["error"] or "").partition(":")[0] for row in rows}
    assert errors == {"huge.jpg": "too_large", "large.jpg": ""}
    assert code == 3  # some images failed
