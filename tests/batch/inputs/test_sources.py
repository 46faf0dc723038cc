"""Sources that change under a run: files written anew, disks and folders that go away, names that look alike."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch.inputs.named import find_inputs
from batch.inputs.stamps import as_path, path_text
from batch.pipeline import loading, reading
from classifier.errors import DataError, OutputError
from tests.batch.conftest import mounted, read_parts
from tests.batch.images import rows_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.batch.conftest import Run


def write_source(path: Path, images: list[Path]) -> None:
    """Write a tar file, a table or a list of images, as the path's suffix says."""
    if ".tar" in path.name:
        with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
            for number, image in enumerate(images):
                tar.add(image, f"{number:02}.png")
    elif path.name == "paths.parquet":
        pq.write_table(pa.table({"image": [str(image) for image in images]}), path)
    elif path.suffix == ".parquet":
        pq.write_table(pa.table({"image": [image.read_bytes() for image in images]}), path)
    else:
        path.write_text("\n".join(map(str, images)))


@contextlib.contextmanager
def bound(folder: Path) -> Iterator[Path]:
    """Make `folder`, and mount another one of the same disk there."""
    (folder.parent.parent / "elsewhere").mkdir(exist_ok=True)
    with mounted(folder):
        subprocess.run(["umount", folder], check=True)
        subprocess.run(["mount", "--bind", folder.parent.parent / "elsewhere", folder], check=True)
        yield folder


def inputs_of(path: Path) -> Any:
    return find_inputs([], files_from=str(path)) if path.name == "list" else find_inputs([str(path)])


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "images.parquet", "paths.parquet", "list"])
def test_a_file_that_was_written_anew_is_refused(tmp_path: Path, run: Run, few: Path, name: str) -> None:
    """A run is not resumed on another tar file, table or list; on the restored one it ends as an undisturbed run."""
    source, out = tmp_path / name, tmp_path / "out"
    images = sorted(few.rglob("*.png"))
    write_source(source, images)
    run(out, inputs=inputs_of(source))
    before = read_parts(out)
    (out / "parts" / "part-00003.parquet").unlink()
    kept = shutil.copy2(source, tmp_path / "kept")
    write_source(source, images[::-1])
    with pytest.raises(DataError, match=rf"{name}' (had|was).* after its images were planned.*restore it .* --output$"):
        run(out, inputs=inputs_of(source))
    shutil.copy2(kept, source)
    run(out, inputs=inputs_of(source))
    assert read_parts(out) == before


def test_a_finished_run_needs_its_sources_no_more(tmp_path: Path, run: Run, few: Path) -> None:
    """The command of a finished run says that it is done, whatever became of its tar file."""
    images = sorted(few.rglob("*.png"))
    write_source(tmp_path / "x.tar", images)
    run(tmp_path / "out", tmp_path / "x.tar")
    write_source(tmp_path / "x.tar", images[:3])
    assert len(run(tmp_path / "out", tmp_path / "x.tar").attempts) == 1


def test_a_tar_file_that_is_written_anew_while_it_is_read(
    tmp_path: Path, run: Run, few: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No image of another tar file gets a row of the one that was planned, also not in the same process."""
    images = sorted(few.rglob("*.png"))
    write_source(tmp_path / "x.tar", images)
    run(tmp_path / "undisturbed", tmp_path / "x.tar")
    write_source(tmp_path / "x.tar", images)
    real, calls = reading.read_span, []

    def rewrite_before_20th(*place: Any) -> bytes:
        calls.append(place)
        if len(calls) == 20:
            write_source(tmp_path / "x.tar", images[::-1])
        return real(*place)

    monkeypatch.setattr(reading, "read_span", rewrite_before_20th)
    with pytest.raises(DataError, match=r"x\.tar' was written again after its images were planned"):
        run(tmp_path / "out", tmp_path / "x.tar", threads=1)
    assert read_parts(tmp_path / "out").items() <= read_parts(tmp_path / "undisturbed").items()


@pytest.mark.parametrize("name", ["x.tar.gz", "images.parquet"])
def test_a_file_that_is_read_in_order_is_written_anew_meanwhile(
    tmp_path: Path, run: Run, few: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Also a file that stays open for all images is looked at for each of them."""
    images = sorted(few.rglob("*.png"))
    write_source(tmp_path / name, images)
    real, calls = reading.read_file, []

    def rewrite_before_5th(file: Any) -> bytes:
        calls.append(file)
        if len(calls) == 5:
            write_source(tmp_path / name, images[::-1])
        return real(file)

    monkeypatch.setattr(loading, "read_file", rewrite_before_5th)
    with pytest.raises(DataError, match=rf"{name}' (had|was) .* after its images were planned"):
        run(tmp_path / "out", tmp_path / name, threads=1, batch_size=1)


@pytest.mark.parametrize("source", ["folder", "list", "table"])
@pytest.mark.parametrize("lost", ["in the run", "before it is resumed"])
@pytest.mark.parametrize("kind", ["a disk", "another place of the same disk"])
def test_a_disk_below_the_input_that_goes_away(
    tmp_path: Path, run: Run, few: Path, monkeypatch: pytest.MonkeyPatch, source: str, lost: str, kind: str
) -> None:
    """A lost file system that held some of the images stops the run: they are not missing."""
    top, out = tmp_path / "in", tmp_path / "out"
    (top / "a").mkdir(parents=True)
    mount = mounted if kind == "a disk" else bound
    for image in sorted(few.rglob("*.png"))[:12]:
        shutil.copy(image, top / "a")

    def inputs() -> Any:
        images = sorted(top.rglob("*.png")) or []
        if source == "folder":
            return find_inputs([str(top)])
        path = tmp_path / ("list" if source == "list" else "paths.parquet")
        if not path.exists():
            write_source(path, images)
        return inputs_of(path)

    with mount(top / "a disk") as disk:
        for image in sorted(few.rglob("*.png"))[12:]:
            shutil.copy(image, disk)
        run(out, inputs=inputs())
        before = read_parts(out)
        for part in (1, 3):
            (out / "parts" / f"part-0000{part}.parquet").unlink()
        real, calls = reading.read_image, []

        def unmount_before_10th(path: Path) -> bytes:
            calls.append(path)
            if len(calls) == 10 and lost == "in the run":
                subprocess.run(["umount", "-l", disk], check=True)
            return real(path)

        if lost == "before it is resumed":
            subprocess.run(["umount", disk], check=True)
        with monkeypatch.context() as patch:
            patch.setattr(reading, "read_image", unmount_before_10th)
            with pytest.raises(DataError, match=rf"the file system at '{disk}', which held images of it, is gone\)"):
                run(out, inputs=inputs(), threads=1)
    assert read_parts(out).items() <= before.items()
    with mount(top / "a disk") as disk:
        for image in sorted(few.rglob("*.png"))[12:]:
            shutil.copy(image, disk)
        run(out, inputs=inputs())
        assert read_parts(out) == before


def test_the_disk_of_the_input_is_not_there_when_a_run_is_resumed(tmp_path: Path, run: Run, few: Path) -> None:
    """A folder that is on another disk now, and lacks an image, is not the one that was planned."""
    with mounted(tmp_path / "disk") as disk:
        shutil.copytree(few, disk / "in")
        run(tmp_path / "out", disk / "in")
        (tmp_path / "out" / "parts" / "part-00003.parquet").unlink()
    (tmp_path / "disk" / "in").mkdir()
    with pytest.raises(DataError, match=r"/disk', which held images of it, is gone"):
        run(tmp_path / "out", tmp_path / "disk" / "in")


def test_a_folder_in_whose_place_another_is(tmp_path: Path, run: Run, few: Path) -> None:
    """An image that is missing in another folder of the same name has not failed; in the same folder it has."""
    shutil.copytree(few, tmp_path / "in")
    run(tmp_path / "out", tmp_path / "in")
    (tmp_path / "out" / "parts" / "part-00003.parquet").unlink()
    (tmp_path / "in").rename(tmp_path / "kept")
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match="another folder has taken its place"):
        run(tmp_path / "out", tmp_path / "in")
    (tmp_path / "in").rmdir()
    (tmp_path / "kept").rename(tmp_path / "in")
    for image in (tmp_path / "in").rglob("*.png"):
        image.unlink()
    assert run(tmp_path / "out", tmp_path / "in").errors == {"missing": 9}


def test_names_that_look_alike(tmp_path: Path, run: Run, few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte that is not UTF-8, and a name that spells it out, are two paths in rows, and two inputs when resumed."""
    monkeypatch.chdir(tmp_path)
    first, second = sorted(few.rglob("*.png"))[:2]
    raw, spelt = os.fsdecode(b"d\xff"), r"d\xff"
    for folder, image in ((raw, first), (spelt, second)):
        Path(folder).mkdir()
        for name in (os.fsdecode(b"a\xff.png"), r"a\xff.png", r"a\x5cxff.png", r"a\b.png"):
            shutil.copy(image, Path(folder, name))
    run(tmp_path / "out", raw)
    paths = [path for (path,) in rows_of(tmp_path / "out", "path")]
    assert paths == [r"a\b.png", r"a\x5cx5cxff.png", r"a\x5cxff.png", r"a\xff.png"]
    assert {each for (each,) in rows_of(tmp_path / "out", "input")} == {r"d\xff"}
    with pytest.raises(OutputError, match=r"differs from this command: plan\.inputs was"):
        run(tmp_path / "out", spelt)
    run(tmp_path / "spelt", spelt)
    assert {each for (each,) in rows_of(tmp_path / "spelt", "input")} == {r"d\x5cxff"}


@given(st.binary(max_size=12) | st.text("\\x5cfa9é", max_size=12).map(str.encode))
def test_the_text_of_a_path_is_that_of_no_other(raw: bytes) -> None:
    """The text of a path gives back its bytes, so no two paths have one text; an ordinary name stays as it is."""
    path = os.fsdecode(raw)
    assert as_path(path_text(path)) == path
    if b"\\x" not in raw:
        assert path_text(path) == raw.decode("utf-8", "backslashreplace")
