from __future__ import annotations

import json
import os
import re
import shutil
import signal
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from batch.inputs.named import find_inputs
from batch.pipeline.inference import batch_size_of
from batch.review.report import write_report
from batch.review.results import open_results
from batch.review.verify import find_problems
from batch.rows.formats import FORMATS, Format
from batch.run.local import LocalRunner
from batch.run.runner import BatchJob, run_batch
from batch.run.stopping import Interrupted, Interrupts
from classifier.errors import OutputError
from classifier.model import Model
from tests.batch.conftest import read_parts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.batch.conftest import Run


def read_rows(output: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(output / "parts").to_pylist()
    return rows


def test_one_row_for_each_image_in_order(tmp_path: Path, run: Run, few: Path) -> None:
    """There is exactly one row for each image, in the order of the paths, over all parts."""
    record = run(tmp_path / "out")
    paths = [row["path"] for row in read_rows(tmp_path / "out")]
    assert paths == sorted(str(image.relative_to(few)) for image in few.rglob("*.png"))
    assert (record.images, record.ok, record.failed) == (40, 40, 0)
    assert [pq.read_metadata(part).num_rows for part in sorted((tmp_path / "out" / "parts").iterdir())] == [9] * 4 + [4]


def test_rows_say_what_the_model_says(tmp_path: Path, run: Run, few: Path, model: Model) -> None:
    """Label, top-k and all scores are those that the model gives to the image alone, to the bit."""
    run(tmp_path / "out", all_scores=True, top_k=3)
    for row in read_rows(tmp_path / "out"):
        pixels = model.decode((few / row["path"]).read_bytes()).pixels
        scores = model.scores(pixels[np.newaxis])[0]
        assert np.array(row["scores"], dtype=np.float32).tobytes() == scores.tobytes()
        top = model.top_k(scores, 3)
        assert [(each["label"], each["score"]) for each in row["top_k"]] == [(each.label, each.score) for each in top]
        assert (row["label"], row["score"]) == (top[0].label, top[0].score)
        assert (row["width"], row["height"], row["model"]) == (8, 8, model.identity)


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 7, "threads": 1}, {"threads": 9}], ids=str)
def test_how_it_is_run_changes_no_byte(tmp_path: Path, run: Run, options: dict[str, int]) -> None:
    """On the CPU, neither the batch size nor the number of threads changes a byte of the parts."""
    run(tmp_path / "one", all_scores=True)
    run(tmp_path / "other", all_scores=True, **options)
    assert read_parts(tmp_path / "one") == read_parts(tmp_path / "other")


def test_top_k_beyond_the_labels_gives_all(tmp_path: Path, run: Run) -> None:
    """A top-k larger than the number of labels gives all labels."""
    run(tmp_path / "out", top_k=99)
    assert {len(row["top_k"]) for row in read_rows(tmp_path / "out")} == {10}


def test_accuracy_where_folders_are_classes(tmp_path: Path, run: Run, few: Path) -> None:
    """The accuracy is that of the rows against their folders' names; one folder that is no class, and there is none."""
    record = run(tmp_path / "out")
    correct = sum(row["label"] == row["path"].split("/")[0] for row in read_rows(tmp_path / "out"))
    assert record.accuracy is not None
    assert (record.accuracy.correct, record.accuracy.images) == (correct, 40)
    assert correct >= 36  # a trained model, and not always the same label

    shutil.copytree(few, tmp_path / "mixed")
    shutil.copytree(few / "0", tmp_path / "mixed" / "unsorted")
    assert run(tmp_path / "out-mixed", tmp_path / "mixed").accuracy is None
    only_zeros = run(tmp_path / "out-zeros", few / "0").accuracy
    assert only_zeros is not None
    assert only_zeros.images == 4


def test_failed_images_are_counted_and_not_in_the_accuracy(tmp_path: Path, run: Run, few: Path) -> None:
    """Failed images are rows with a reason; they are counted by it, and the accuracy is that of the others."""
    shutil.copytree(few, tmp_path / "in")
    (tmp_path / "in" / "3" / "empty.png").touch()
    (tmp_path / "in" / "3" / "text.jpg").write_text("text")
    record = run(tmp_path / "out", tmp_path / "in")
    assert (record.images, record.ok, record.errors) == (42, 40, {"empty": 1, "not_an_image": 1})
    assert record.accuracy is not None
    assert record.accuracy.images == 40
    failed = [row for row in read_rows(tmp_path / "out") if row["status"] == "error"]
    assert [(row["path"], row["error"].partition(":")[0], row["label"]) for row in failed] == [
        ("3/empty.png", "empty", None),
        ("3/text.jpg", "not_an_image", None),
    ]


def test_the_plan_stays(tmp_path: Path, run: Run, few: Path) -> None:
    """A resumed run keeps its plan: a file that came later has no row, and one that went has a row that says so."""
    images, out = tmp_path / "in", tmp_path / "out"
    shutil.copytree(few, images)
    run(out, images)
    planned = [row["path"] for row in read_rows(out)]
    (out / "parts" / "part-00000.parquet").unlink()
    (images / planned[0]).unlink()
    shutil.copy(images / planned[1], images / "0" / "0-came-later.png")
    record = run(out, images)
    assert [row["path"] for row in read_rows(out)] == planned
    assert record.errors == {"missing": 1}


def test_a_changed_plan_is_not_resumed(tmp_path: Path, run: Run) -> None:
    """A list of images that was tampered with is refused."""
    run(tmp_path / "out")
    with (tmp_path / "out" / ".batch" / "plan").open("ab") as plan:
        plan.write(b"0/x.png\0")
    with pytest.raises(OutputError, match=r"plan\.digest was"):
        run(tmp_path / "out")


def test_a_finished_run_is_left_alone(tmp_path: Path, run: Run) -> None:
    """The same command again on a finished run says what it found, and writes nothing."""
    out = tmp_path / "out"
    first = run(out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.name != "lock"}
    assert run(out) == first
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.name != "lock"}


def test_run_json_knows_each_attempt(tmp_path: Path, run: Run, model: Model) -> None:
    """`run.json` counts all that is in the output, and says which attempt did how much."""
    run(tmp_path / "out")
    (tmp_path / "out" / "parts" / "part-00004.parquet").unlink()
    run(tmp_path / "out")
    record = json.loads((tmp_path / "out" / "run.json").read_bytes())
    assert (record["state"], record["images"], record["ok"]) == ("done", 40, 40)
    assert [attempt["images"] for attempt in record["attempts"]] == [40, 4]
    assert all(attempt["ended"] for attempt in record["attempts"])
    assert record["run"]["engine"]["precision"] == model.engine.info.precision


@pytest.mark.parametrize(
    ("fixed", "asked", "size"), [(None, None, 24), (None, 3, 3), (64, None, 24), (64, 64, 24)], ids=str
)
def test_how_many_images_go_in_at_once(model: Model, fixed: int | None, asked: int | None, size: int) -> None:
    """What was asked for, else what keeps the engine busy: on several GPUs, a batch of the fixed size for each."""
    engine = SimpleNamespace(info=replace(model.engine.info, batch_size=fixed), busy_size=24)
    assert batch_size_of(replace(model, engine=engine), asked) == size  # type: ignore[arg-type]


class SignalInChunk(Interrupts):
    """Sends a signal, or two, while a chunk is in hand."""

    def __init__(self, chunk: int, *signals: int) -> None:
        super().__init__()
        self.chunks_left, self.signals = chunk, signals

    @contextmanager
    def held(self) -> Iterator[None]:
        self.chunks_left -= 1
        with super().held():
            for signum in self.signals if self.chunks_left == 0 else ():
                os.kill(os.getpid(), signum)
            yield


@pytest.mark.parametrize(
    ("signals", "committed", "code"),
    [((signal.SIGTERM,), 2, 143), ((signal.SIGINT,), 2, 130), ((signal.SIGTERM, signal.SIGINT), 1, 130)],
    ids=["SIGTERM", "SIGINT", "twice"],
)
def test_an_interrupted_run_resumes(
    tmp_path: Path, run: Run, few: Path, model: Model, signals: tuple[int, ...], committed: int, code: int
) -> None:
    """The first signal lets the current chunk be committed, the second drops it; either way the run resumes."""
    run(tmp_path / "undisturbed")
    job = BatchJob(inputs=find_inputs([str(few)]), output=tmp_path / "out", chunk_size=9)
    with SignalInChunk(2, *signals) as interrupts, pytest.raises(Interrupted) as interrupted:
        run_batch(job, LocalRunner(model), interrupts)
    assert interrupted.value.exit_code == code
    record = json.loads((tmp_path / "out" / "run.json").read_bytes())
    assert (record["state"], record["images"]) == ("interrupted", 9 * committed)
    assert not (tmp_path / "out" / "_SUCCESS").exists()
    assert len(read_parts(tmp_path / "out")) == committed
    assert run(tmp_path / "out").attempts[-1].images == 40 - 9 * committed
    assert read_parts(tmp_path / "out") == read_parts(tmp_path / "undisturbed")


def test_batches_end_with_their_chunk(tmp_path: Path, run: Run, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """No batch reaches into the next chunk: a resumed run has the batches of an undisturbed one, on any device."""
    sizes: list[int] = []
    real = type(model).scores

    def scores(self: Model, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        sizes.append(len(images_nhwc))
        return real(self, images_nhwc)

    monkeypatch.setattr(type(model), "scores", scores)
    run(tmp_path / "out", batch_size=4)
    assert sizes == [4, 4, 1] * 4 + [4]


def test_log_lines_say_how_far_it_is(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a terminal, a log line now and then counts all images, those of earlier attempts too."""
    run(tmp_path / "out")
    (tmp_path / "out" / "parts" / "part-00004.parquet").unlink()
    monkeypatch.setattr("classifier.progress.LOG_EVERY_S", 0)
    with caplog.at_level("INFO"):
        run(tmp_path / "out")
    assert re.fullmatch(r"40 of 40 images, [\d,]+ images/s, 0 s left", caplog.messages[-1])


@pytest.mark.parametrize("format", FORMATS)
def test_scores_that_are_no_numbers_are_an_error(
    tmp_path: Path, run: Run, few: Path, format: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image for which the model gives NaN, as fp16 does on overflow, is a failed row; the output is sound."""
    (tmp_path / "in").mkdir()
    shutil.copy(min(few.rglob("*.png")), tmp_path / "in" / "a.png")
    Image.new("L", (8, 8), 255).save(tmp_path / "in" / "white.png")
    real = Model.scores

    def overflow(model: Model, images_nhwc: Any) -> Any:
        scores = real(model, images_nhwc)
        scores[images_nhwc.reshape(len(images_nhwc), -1).min(axis=1) == 255] = np.nan
        return scores

    monkeypatch.setattr(Model, "scores", overflow)
    record = run(tmp_path / "out", tmp_path / "in", format=format, all_scores=True)
    assert (record.ok, record.errors) == (1, {"not_finite": 1})
    results = open_results(tmp_path / "out")
    assert list(find_problems(results, lambda _: None)) == []
    write_report(tmp_path / "out")
