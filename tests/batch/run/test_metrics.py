from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from batch.run import metrics
from batch.run.metrics import check_metrics_file
from classifier.errors import OutputError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.batch.conftest import Run


def read_metrics(path: Path) -> dict[str, float]:
    """Return the metrics of a file by name and the labels that are not of every one."""
    return {
        " ".join([sample.name, *(value for name, value in sample.labels.items() if name not in {"model", "shard"})]):
            sample.value
        for family in text_string_to_metric_families(path.read_text())
        for sample in family.samples
    }  # fmt: skip


def test_metrics_of_a_run(tmp_path: Path, run: Run, few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The metrics file counts what has a row, of all attempts, while the run works and when it has ended."""
    monkeypatch.setattr(metrics, "EVERY_S", 0)
    seen = []
    real = metrics.MetricsFile.update

    def update(self: metrics.MetricsFile, *args: object) -> None:
        real(self, *args)  # type: ignore[arg-type]
        seen.append(read_metrics(tmp_path / "tandem.prom"))

    monkeypatch.setattr(metrics.MetricsFile, "update", update)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").touch()
    record = run(tmp_path / "out", few, tmp_path / "in", metrics_file=tmp_path / "tandem.prom")
    assert record.images == 41
    assert [each["tandem_batch_images ok"] for each in seen] == [9, 18, 27, 36, 40]
    assert {each["tandem_batch_state running"] for each in seen} == {1}
    last = read_metrics(tmp_path / "tandem.prom")
    assert last.pop(next(name for name in last if name.startswith("tandem_batch_info "))) == 1
    assert last.pop("tandem_batch_updated_timestamp_seconds") > 1.7e9
    assert last == {
        "tandem_batch_planned_images": 41,
        "tandem_batch_images ok": 40,
        "tandem_batch_images error": 1,
        "tandem_batch_failed_images empty": 1,
        "tandem_batch_attempt_images": 41,
        "tandem_batch_state running": 0,
        "tandem_batch_state interrupted": 0,
        "tandem_batch_state done": 1,
    }
    text = (tmp_path / "tandem.prom").read_text()
    assert f'model="{record.run.model}",shard="1/1"' in text
    engine = record.run.engine
    [info] = [line for line in text.splitlines() if line.startswith("tandem_batch_info{")]
    for label in (f'engine="{engine.name}"', f'precision="{engine.precision}"', f'device="{engine.device}"'):
        assert label in info
    assert [path.name for path in tmp_path.glob("tandem.prom*")] == ["tandem.prom"]


def test_metrics_that_cannot_be_written_are_refused_at_once(tmp_path: Path) -> None:
    """A metrics file in no folder is refused before the model is opened."""
    check_metrics_file(None)
    check_metrics_file(tmp_path / "x.prom")
    with pytest.raises(OutputError, match=r"the folder of the metrics file '.*x\.prom' does not exist"):
        check_metrics_file(tmp_path / "none" / "x.prom")


@pytest.mark.parametrize("obstacle", ["the folder is gone", "a folder is in the way"])
def test_metrics_that_cannot_be_written_end_no_run(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, obstacle: str
) -> None:
    """A metrics file that can't be written is logged once, and the run is done, with all its rows and its mark."""
    monkeypatch.setattr(metrics, "EVERY_S", 0)
    file = tmp_path / "metrics" / "tandem.prom"
    if obstacle == "a folder is in the way":
        file.mkdir(parents=True)
    with caplog.at_level("WARNING"):
        assert run(tmp_path / "out", metrics_file=file).state == "done"
    assert (tmp_path / "out" / "_SUCCESS").exists()
    [warning] = [each for each in caplog.messages if "metrics" in each]
    assert warning.startswith(f"the metrics file '{file}' can't be written (")
    assert [each.name for each in file.parent.glob("*.prom.*")] == []
