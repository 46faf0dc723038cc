"""An output that is removed or replaced while a process works in it: nothing of that process gets into the next run."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from batch.rows.part import Part
from batch.run.lock import is_held, open_run_folder
from classifier.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batch.run.fingerprint import Fingerprint
    from batch.run.locked import LockedFolder
    from tests.batch.conftest import Run

PART = Part(data=b"another run's rows", rows=9, errors={}, in_class_folders=0, correct=0)


def remove(out: Path) -> None:
    shutil.rmtree(out)


def move(out: Path) -> None:
    out.rename(out.with_name("elsewhere"))


def remove_the_lock(out: Path) -> None:
    (out / ".batch" / "lock").unlink()


def link_all_files(out: Path) -> None:
    """Replace the output by a copy in which every file, the lock too, is a link of the old one."""
    subprocess.run(["cp", "-al", out, out.with_name("copy")], check=True)
    move(out)
    out.with_name("copy").rename(out)


REPLACE = (remove, move, remove_the_lock, link_all_files)

WRITE: dict[str, Callable[[LockedFolder, Fingerprint], object]] = {
    "begin": lambda folder, run: folder.begin(run),
    "commit": lambda folder, run: folder.commit(0, run.part(0), PART),
    "enter": lambda folder, run: folder.enter(next(iter(folder.entered().values()))),
    "adopt": lambda folder, run: folder.adopt(folder.plan, next(iter(folder.entered().values()))),
    "record": lambda folder, run: folder.write_record(b"{}"),
    "reopen": lambda folder, run: folder.reopen(),
    "succeed": lambda folder, run: folder.succeed(),
}


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("made") / "out"


@pytest.mark.parametrize("write", WRITE)
@pytest.mark.parametrize("replace", REPLACE, ids=lambda each: each.__name__)
def test_nothing_is_written_into_a_replaced_output(
    tmp_path: Path, run: Run, made: Path, replace: Callable[[Path], None], write: str
) -> None:
    """However the output was replaced, each write of the process that had it is refused and changes no file."""
    out = tmp_path / "out"
    run(made)
    shutil.copytree(made, out)
    with open_run_folder(out) as folder:
        fingerprint = folder.fingerprint()
        assert fingerprint is not None
        replace(out)
        if not out.exists():
            shutil.copytree(made, out)
        before = files_of(out)
        with pytest.raises(OutputError, match=r"out' was removed or replaced while this process wrote into it"):
            WRITE[write](folder, fingerprint)
        assert files_of(out) == before


def test_a_run_that_did_not_begin_leaves_the_next_one_alone(tmp_path: Path) -> None:
    """A process that still plans when its output is removed does not remove the files of the next one at its end."""
    out = tmp_path / "out"
    with ExitStack() as second:
        with open_run_folder(out) as folder:
            folder.plan.write_bytes(b"half a plan")
            shutil.rmtree(out)
            second.enter_context(open_run_folder(out)).plan.write_bytes(b"another plan")
        assert files_of(out)[".batch/plan"] == b"another plan"
        assert is_held(out / ".batch" / "lock")


@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_replaced_in_the_midst_of_a_write(
    tmp_path: Path, run: Run, made: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Replaced in the instant before the rename or the sync, the new output still gets nothing of the old process."""
    out = tmp_path / "out"
    run(made)
    shutil.copytree(made, out)
    real = getattr(os, step)

    def too_late(*args: object, **kwargs: object) -> object:
        if out.with_name("elsewhere").exists():
            return real(*args, **kwargs)
        move(out)
        shutil.copytree(made, out)
        (out / ".batch" / "aside").write_bytes(b"half of a part")
        return real(*args, **kwargs)

    with open_run_folder(out) as folder:
        fingerprint = folder.fingerprint()
        assert fingerprint is not None
        with monkeypatch.context() as patch:
            patch.setattr(os, step, too_late)
            with pytest.raises(OutputError, match="was removed or replaced"):
                folder.commit(0, fingerprint.part(0), PART)
    assert files_of(out) == files_of(made) | {".batch/aside": b"half of a part"}
