"""Failed images: limits on their number, and another try."""

from __future__ import annotations

import shutil
import threading
from typing import TYPE_CHECKING

import pytest

from batch.run.locked import LockedFolder
from batch.run.stopping import FailureLimits
from classifier.errors import DataError, TooManyFailures
from tests.batch.conftest import read_parts

if TYPE_CHECKING:
    from pathlib import Path

    from tests.batch.conftest import Run


@pytest.fixture
def images(tmp_path: Path, few: Path) -> Path:
    shutil.copytree(few, tmp_path / "in")
    for name in ("0/x.png", "3/x.png", "3/y.png"):
        (tmp_path / "in" / name).touch()
    return tmp_path / "in"


@pytest.mark.parametrize(("limits", "parts"), [(FailureLimits(failures=1), 2), (FailureLimits(rate=0.1), 1)], ids=str)
def test_a_limit_stops_the_run_and_the_run_goes_on(
    tmp_path: Path, run: Run, images: Path, limits: FailureLimits, parts: int
) -> None:
    """Over the limit the run stops after its chunk and stays so; with a higher one it goes on to the same parts."""
    run(tmp_path / "undisturbed", images)
    for _ in range(2):
        with pytest.raises(TooManyFailures, match="images failed, over --max-failure"):
            run(tmp_path / "out", images, limits=limits)
        assert len(read_parts(tmp_path / "out")) == parts
    run(tmp_path / "out", images, limits=FailureLimits(failures=3, rate=0.5))
    assert read_parts(tmp_path / "out") == read_parts(tmp_path / "undisturbed")


@pytest.mark.parametrize("format", ["parquet", "csv", "jsonl"])
def test_only_what_failed_is_tried_again(tmp_path: Path, run: Run, images: Path, image: bytes, format: str) -> None:
    """`--retry-failed` makes the failed rows alone, in the same output, which ends as if nothing had ever failed."""
    options = {"format": format, "all_scores": True}
    out = tmp_path / "out"
    assert run(out, images, **options).failed == 3
    before = read_parts(out)
    (images / "0" / "x.png").write_bytes(image)
    (images / "3" / "x.png").write_bytes(image)
    assert run(out, images, **options).failed == 3  # without the option nothing is tried
    assert read_parts(out) == before
    again = run(out, images, retry_failed=True, **options)
    assert (again.failed, again.attempts[-1].images, again.state) == (1, 3, "done")
    run(tmp_path / "undisturbed", images, **options)
    assert read_parts(out) == read_parts(tmp_path / "undisturbed")
    assert (out / "_SUCCESS").exists()


@pytest.mark.parametrize("limits", [FailureLimits(failures=1), FailureLimits(rate=0.05)], ids=str)
def test_a_retry_is_not_stopped_by_what_it_has_yet_to_try(
    tmp_path: Path, run: Run, images: Path, image: bytes, limits: FailureLimits
) -> None:
    """Failed rows that are about to be made again count for no limit; those that failed again do."""
    assert run(tmp_path / "out", images).failed == 3
    with pytest.raises(TooManyFailures, match="images failed, over"):
        run(tmp_path / "out", images, limits=limits, retry_failed=True)
    (images / "3" / "x.png").write_bytes(image)
    (images / "3" / "y.png").write_bytes(image)
    assert run(tmp_path / "out", images, limits=limits, retry_failed=True).failed == 1


def test_a_retry_that_was_cut_short(
    tmp_path: Path, run: Run, images: Path, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A retry that ends between the new part and its commit leaves a chunk that is made again, as a whole."""
    out = tmp_path / "out"
    run(out, images)
    (images / "3" / "x.png").write_bytes(image)
    (images / "3" / "y.png").write_bytes(image)

    def die_at_new_part(folder: LockedFolder, commit: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LockedFolder, "enter", die_at_new_part)
        with pytest.raises(KeyboardInterrupt):
            run(out, images, retry_failed=True)
    assert run(out, images, retry_failed=True).failed == 1
    run(tmp_path / "undisturbed", images)
    assert read_parts(out) == read_parts(tmp_path / "undisturbed")


def test_an_input_that_goes_away_stops_the_run(tmp_path: Path, run: Run, images: Path) -> None:
    """Where the whole input goes away, the run stops: its images have not failed. It resumes when that is back."""
    run(tmp_path / "undisturbed", images)
    shutil.copytree(tmp_path / "undisturbed", tmp_path / "out")
    (tmp_path / "out" / "parts" / "part-00002.parquet").unlink()
    from batch.pipeline import reading

    real, calls, once = reading.read_image, [], threading.Lock()

    def go_away(path: Path) -> bytes:
        with once:  # several threads read
            if not calls:
                images.rename(tmp_path / "elsewhere")
            calls.append(path)
        return real(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "read_image", go_away)
        with pytest.raises(DataError, match="disappeared while its images were read"):
            run(tmp_path / "out", images)
    (tmp_path / "elsewhere").rename(images)
    run(tmp_path / "out", images)
    assert read_parts(tmp_path / "out") == read_parts(tmp_path / "undisturbed")
