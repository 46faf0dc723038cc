"""Inputs behind URLs: a real S3 endpoint over HTTP."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest

from batch.inputs.named import find_inputs
from batch.inputs.plan import require_images
from batch.run.runner import BatchJob, check_job
from classifier.errors import DataError
from tests.batch.conftest import read_parts
from tests.batch.images import WHAT, rows_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.batch.conftest import Run
    from tests.conftest import Tandem

# aiobotocore closes its sessions when they are collected.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


def test_a_bucket_gives_the_rows_of_its_folder(tmp_path: Path, run: Run, few: Path, bucket: Any) -> None:
    """Images of a bucket give the rows of the same folder, in the same order, with the same accuracy; resumed too."""
    shutil.copytree(few, tmp_path / "few")
    (tmp_path / "few" / "3" / "empty.png").touch()
    (tmp_path / "few" / "notes.txt").touch()
    here, there = run(tmp_path / "here", tmp_path / "few"), run(tmp_path / "there", "s3://photos/few")
    assert rows_of(tmp_path / "there", *WHAT, "error") == rows_of(tmp_path / "here", *WHAT, "error")
    assert (there.accuracy, there.errors) == (here.accuracy, here.errors)
    assert there.run.plan.skipped == {"other suffix": 1}
    assert {input for (input,) in rows_of(tmp_path / "there", "input")} == {"s3://photos/few"}
    before = read_parts(tmp_path / "there")
    (tmp_path / "there" / "parts" / "part-00002.parquet").unlink()
    run(tmp_path / "there", "s3://photos/few/")
    assert read_parts(tmp_path / "there") == before


def test_a_bucket_is_listed_by_the_plan_alone(
    tmp_path: Path, run: Run, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bucket, which can take hours to list, is not listed to see if it has images; without any, it is refused."""
    bucket.pipe_file("photos/texts/notes.txt", b"notes")
    inputs = find_inputs(["s3://photos/texts"])
    with monkeypatch.context() as patch:
        patch.delattr("batch.inputs.stores.urls.list_folder")
        check_job(BatchJob(inputs=inputs, output=tmp_path / "out"))
    with pytest.raises(DataError, match=r"no image in 's3://photos/texts' \(skipped: other suffix 1\)"):
        run(tmp_path / "out", "s3://photos/texts")
    assert not (tmp_path / "out").exists()


def test_a_tar_file_of_a_bucket(tmp_path: Path, run: Run, bucket: Any) -> None:
    """A WebDataset shard in a bucket gives the rows of the folder that it was made of."""
    run(tmp_path / "here")
    run(tmp_path / "there", "s3://photos/few.tar")
    assert rows_of(tmp_path / "there", *WHAT) == rows_of(tmp_path / "here", *WHAT)


def test_a_list_of_urls(tandem: Tandem, tmp_path: Path, digits_home: Path, few: Path, bucket: Any) -> None:
    """`--files-from` takes URLs and paths side by side; an object that has gone is a row."""
    image = min(few.rglob("*.png"))
    (tmp_path / "list").write_text(f"s3://photos/few/{image.relative_to(few)}\n{image}\ns3://photos/few/gone.png\n")
    done = tandem("batch", "--files-from", tmp_path / "list", "-o", tmp_path / "out", check=False,
                  env={"TANDEM_HOME": str(digits_home)})  # fmt: skip
    assert done.returncode == 3, done.stderr
    first, second, gone = pq.read_table(tmp_path / "out" / "parts").to_pylist()
    assert (first["sha256"], first["score"]) == (second["sha256"], second["score"])
    assert gone["error"].startswith("missing: 's3://photos/few/gone.png' does not exist")


def test_a_store_that_fails_stops_the_run(
    tmp_path: Path, run: Run, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the store fails, the run stops in a sentence: the images have not failed. It resumes when that is back."""
    run(tmp_path / "undisturbed", "s3://photos/few")
    real, calls = type(bucket)._call_s3, []

    async def fail(self: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        calls.extend([method] * (method == "get_object"))
        if len(calls) >= 15:
            raise OSError("the store is on fire")
        return await real(self, method, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(type(bucket), "_call_s3", fail)
        with pytest.raises(DataError, match=r"can't be read \(the store is on fire\); check the URL"):
            run(tmp_path / "out", "s3://photos/few")
    run(tmp_path / "out", "s3://photos/few")
    assert read_parts(tmp_path / "out") == read_parts(tmp_path / "undisturbed")


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("s3://photos/none", r"'s3://photos/none' can't be read"),
        ("s3://nobucket/none", r"'s3://nobucket/none' can't be read"),
        ("nosuch://photos", r"'nosuch://photos' can't be read .*Protocol not known"),
    ],
)
def test_wrong_urls(bucket: Any, url: str, sentence: str) -> None:
    """A URL with nothing behind it, or of a kind that there is no driver for, is refused in a sentence."""
    with pytest.raises(DataError, match=sentence):
        require_images(find_inputs([url]))
