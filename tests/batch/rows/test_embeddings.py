"""`--embeddings`: a column more, and nothing else is another byte for it."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from batch.inputs.shards import Shard
from batch.rows.formats import FORMATS, Columns, Format, read_rows
from classifier.errors import NoEmbeddings, OutputError
from tests.batch.conftest import read_parts

if TYPE_CHECKING:
    from pathlib import Path

    from classifier.model import Model
    from tests.batch.conftest import Run
    from tests.conftest import Tandem


def rows_of(output: Path, format: Format = "parquet") -> list[Any]:
    return [row for part in read_parts(output).values() for row in read_rows(part, Columns(format=format))]


@pytest.mark.parametrize("format", FORMATS)
def test_rows_have_the_embeddings_that_the_model_gives(
    tmp_path: Path, run: Run, few: Path, embedder: Model, format: Format
) -> None:
    """To the bit, in every format; the other columns are those of a run without."""
    run(tmp_path / "with", model=embedder, embeddings=True, format=format)
    run(tmp_path / "without", model=embedder, format=format)
    rows, others = (rows_of(tmp_path / each, format) for each in ("with", "without"))
    pixels = np.stack([embedder.decode((few / row.path).read_bytes()).pixels for row in rows])
    _, expected = embedder.scores_and_embeddings(pixels)
    assert np.stack([row.embedding for row in rows]).tobytes() == expected.tobytes()
    for row, other in zip(rows, others, strict=True):
        assert other.embedding is None
        assert [getattr(row, name) for name in ("path", "sha256", "label", "score", "top_k")] == [
            getattr(other, name) for name in ("path", "sha256", "label", "score", "top_k")
        ]


def test_two_copies_of_an_image_are_as_near_as_can_be_and_a_failed_one_has_none(
    tmp_path: Path, run: Run, few: Path, embedder: Model
) -> None:
    """What a search by similarity does with the column, in polars."""
    first = min(few.rglob("*.png"))
    shutil.copytree(few, tmp_path / "in")
    shutil.copy(first, tmp_path / "in" / "9" / "copy.png")
    (tmp_path / "in" / "9" / "empty.png").touch()
    run(tmp_path / "out", tmp_path / "in", model=embedder, embeddings=True)
    table = pl.read_parquet(tmp_path / "out" / "parts" / "*.parquet")
    assert table.filter(status="error")["embedding"].to_list() == [None]
    found = table.filter(status="ok")
    vectors = found["embedding"].list.to_array(128).to_numpy()
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors[found["path"].to_list().index("9/copy.png")]
    nearest = [found["path"][int(index)] for index in np.argsort(-cosines, kind="stable")[:2]]
    assert sorted(nearest) == sorted([first.relative_to(few).as_posix(), "9/copy.png"])
    np.testing.assert_allclose(np.sort(cosines)[-2:], 1, atol=1e-6)


def test_resumed_retried_and_sharded_runs_end_with_the_same_bytes(
    tmp_path: Path, run: Run, few: Path, embedder: Model
) -> None:
    """The rows that a retry keeps have their embeddings still."""
    broken = tmp_path / "in"
    shutil.copytree(few, broken)
    image = sorted(broken.rglob("*.png"))[12]
    whole = image.read_bytes()
    image.write_bytes(b"")
    options = {"model": embedder, "embeddings": True}
    assert run(tmp_path / "out", broken, **options).failed == 1
    (tmp_path / "out" / "parts" / "part-00002.parquet").unlink()
    run(tmp_path / "out", broken, **options)
    image.write_bytes(whole)
    assert run(tmp_path / "out", broken, **options, retry_failed=True).failed == 0
    run(tmp_path / "undisturbed", broken, **options)
    assert read_parts(tmp_path / "out") == read_parts(tmp_path / "undisturbed")

    shards = [Shard(number=number, count=2) for number in (1, 2)]
    for shard in shards:
        run(tmp_path / "shards" / shard.folder, broken, **options, shard=shard)
    parts = {name: data for shard in shards for name, data in read_parts(tmp_path / "shards" / shard.folder).items()}
    assert parts == read_parts(tmp_path / "undisturbed")


@pytest.mark.parametrize("began_with", [True, False])
def test_a_run_that_began_without_is_not_resumed_with_them(
    tmp_path: Path, run: Run, embedder: Model, *, began_with: bool
) -> None:
    run(tmp_path / "out", model=embedder, embeddings=began_with)
    with pytest.raises(OutputError, match=f"embeddings was {began_with} and is {not began_with}; repeat the command"):
        run(tmp_path / "out", model=embedder, embeddings=not began_with)


def test_a_run_of_a_release_that_knew_no_embeddings_is_resumed(tmp_path: Path, run: Run) -> None:
    """Its fingerprint does not speak of them."""
    run(tmp_path / "out")
    fingerprint = tmp_path / "out" / ".batch" / "fingerprint.json"
    known = json.loads(fingerprint.read_bytes())
    assert known.pop("embeddings") is False
    fingerprint.write_text(json.dumps(known))
    (tmp_path / "out" / "parts" / "part-00000.parquet").unlink()
    assert run(tmp_path / "out").attempts[-1].images == 9


def test_a_model_without_embeddings_is_refused_before_the_first_image(tmp_path: Path, run: Run, model: Model) -> None:
    with pytest.raises(NoEmbeddings, match=rf"^{model.identity} gives no embeddings; export it with 'tandem export"):
        run(tmp_path / "out", embeddings=True)
    assert not (tmp_path / "out").exists()


def test_the_command(tmp_path: Path, tandem: Tandem, few: Path, embedder_home: Path, digits_home: Path) -> None:
    """The option gives the column, or one sentence with its remedy."""
    command = ["batch", few, "--output", tmp_path / "out", "--embeddings", "--precision", "fp32"]
    refused = tandem(*command, "--model", "digits", env={"TANDEM_HOME": str(digits_home)}, check=False)
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith("Error: digits@sha256:")
    assert refused.stderr.endswith("export it with 'tandem export --embeddings', or leave --embeddings out\n")
    assert not (tmp_path / "out").exists()
    tandem(*command, "--model", "embedder", env={"TANDEM_HOME": str(embedder_home)})
    assert {len(row) for row in pq.read_table(tmp_path / "out" / "parts")["embedding"].to_pylist()} == {128}
