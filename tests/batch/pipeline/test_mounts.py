"""Disks that can't be written, and disks that go away: real file systems, which take the right to mount one."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from batch.pipeline import reading
from classifier.errors import DataError, OutputError
from tests.batch.conftest import mounted, read_parts

if TYPE_CHECKING:
    from pathlib import Path

    from tests.batch.conftest import Run


@pytest.mark.parametrize("begun", [False, True], ids=["new", "begun"])
def test_an_output_that_is_read_only(tmp_path: Path, run: Run, begun: bool) -> None:
    """A run into a disk that can't be written says so and changes nothing, and begins or goes on when it can be."""
    run(tmp_path / "undisturbed")
    with mounted(tmp_path / "disk") as disk:
        out = disk / "out"
        if begun:
            run(out)
            (out / "parts" / "part-00002.parquet").unlink()
        before = _contents(disk)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with pytest.raises(
            OutputError, match=r"can't be written \(Read-only file system\); put that right, and the same"
        ):
            run(out)
        assert _contents(disk) == before
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        run(out)
        assert read_parts(out) == read_parts(tmp_path / "undisturbed")


def _contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("nth", [1, 12, 40])
def test_an_input_whose_disk_goes_away(
    tmp_path: Path, run: Run, few: Path, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    """The run stops, no image has failed by it, and when the disk is back it ends as if nothing had been."""
    shutil.copytree(few, tmp_path / "in")
    run(tmp_path / "undisturbed", tmp_path / "in")
    shutil.rmtree(tmp_path / "in")
    real, calls = reading.read_image, []

    def unmount_before_nth(path: Path) -> bytes:
        calls.append(path)
        if len(calls) == nth:
            subprocess.run(["umount", "-l", tmp_path / "in"], check=True)
        return real(path)

    with mounted(tmp_path / "in") as disk:
        shutil.copytree(few, disk, dirs_exist_ok=True)
        with monkeypatch.context() as patch:
            patch.setattr(reading, "read_image", unmount_before_nth)
            with pytest.raises(
                DataError, match=r"disappeared while its images were read \(another file system is mounted"
            ):
                run(tmp_path / "out", disk, threads=1)
    parts = read_parts(tmp_path / "out")
    assert parts.items() <= read_parts(tmp_path / "undisturbed").items()
    with mounted(tmp_path / "in") as disk:
        shutil.copytree(few, disk, dirs_exist_ok=True)
        assert run(tmp_path / "out", disk).failed == 0
    assert read_parts(tmp_path / "out") == read_parts(tmp_path / "undisturbed")
