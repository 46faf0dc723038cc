"""What is taken of folders: globs, links, loops, and folders of more names than are sorted in memory."""

from __future__ import annotations

import os
import platform
import re
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch.inputs import folders
from batch.inputs.listing import list_images
from batch.inputs.named import find_inputs
from batch.inputs.selection import Selection
from classifier.errors import DataError


def listed(folder: Path, **selection: object) -> tuple[list[str], dict[str, int]]:
    skipped: Counter[str] = Counter()
    found = [path for _, (path, _, _) in list_images(find_inputs([str(folder)]), skipped, Selection(**selection))]
    return found, dict(skipped)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("a.png", "b.img", "2024/c.png", "2024/thumbs/c.png", "2025/d.jpg", "thumbs.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_include_takes_the_place_of_the_suffixes(tree: Path) -> None:
    """`--include` names images by name, whatever their suffix; with a slash by their path."""
    assert listed(tree, include=("*.img", "2025/*")) == (["2025/d.jpg", "b.img"], {"not included": 4})


def test_exclude_leaves_out_images_and_whole_folders(tree: Path) -> None:
    """`--exclude` counts what it leaves out: an image once, a folder once with all that is in it."""
    found, skipped = listed(tree, exclude=("thumbs", "a*", "2025/*"))
    assert found == ["2024/c.png", "thumbs.png"]
    assert skipped == {"excluded": 3, "other suffix": 1}


def test_links_are_followed_only_when_asked_for(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """With `--follow-symlinks`, links to images and folders give images; one whose target has gone too: it is a row."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "e.png").touch()
    (tree / "link").symlink_to(elsewhere)
    (tree / "link.png").symlink_to(elsewhere / "e.png")
    (tree / "gone.png").symlink_to("nowhere")
    without, skipped = listed(tree)
    assert skipped["symbolic link"] == 3
    followed, skipped = listed(tree, follow_symlinks=True)
    assert set(followed) - set(without) == {"link/e.png", "link.png", "gone.png"}
    assert "symbolic link" not in skipped


def test_loops_of_links_end(tree: Path) -> None:
    """A link to a folder on the way to it is not followed, also where two folders lead into each other."""
    (tree / "self").symlink_to(".")
    (tree / "2024" / "other").symlink_to("../2025")
    (tree / "2025" / "other").symlink_to("../2024")
    (tree / "round.png").symlink_to("round.png")
    found, skipped = listed(tree, follow_symlinks=True)
    assert skipped["link to a folder above"] == 3
    assert "2024/other/d.jpg" in found
    assert "2025/other/c.png" in found
    assert len(found) == len(set(found)) == 9


@given(st.sets(st.integers(0, 10**6), max_size=60), st.integers(1, 9))
def test_a_folder_sorted_by_way_of_the_disk(numbers: set[int], at_once: int) -> None:
    """A folder of more names than are held in memory is listed in the same order."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        for number in numbers:
            Path(folder, f"{number}.png").touch()
        patch.setattr(folders, "MAX_NAMES", at_once)
        assert listed(Path(folder))[0] == sorted(f"{number}.png" for number in numbers)


def test_a_list_of_files(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list's lines are images, in its order, whatever their suffix; line ends of Windows and a missing last one."""
    monkeypatch.chdir(tree)
    Path("list").write_bytes(b"b.img\r\n\n2025/d.jpg\ngone.png\n\xff.png")
    inputs = find_inputs([], files_from="list")
    found = [path for _, (path, _, _) in list_images(inputs, Counter())]
    assert found == ["b.img", "2025/d.jpg", "gone.png", os.fsdecode(b"\xff.png")]
    Path("nul").write_bytes(b"b.img\0new\nline.png\0")
    inputs = find_inputs([], files_from="nul", nul=True)
    assert [path for _, (path, _, _) in list_images(inputs, Counter())] == ["b.img", "new\nline.png"]
    with pytest.raises(DataError, match=r"the list '.*/nul' holds NULs; .* add -0"):
        list(list_images(find_inputs([], files_from="nul"), Counter()))
    Path("lines").write_bytes(b"a.png\n" * 100_000)
    with pytest.raises(DataError, match=r"the list '.*/lines' holds a path of more than 65,536 bytes; end its paths"):
        list(list_images(find_inputs([], files_from="lines", nul=True), Counter()))
    with pytest.raises(DataError, match="the list 'missing' can't be read"):
        find_inputs([], files_from="missing")


def test_a_list_with_a_byte_order_mark(tmp_path: Path) -> None:
    """The mark that Windows' editors write is no part of the first path; a list in UTF-16 is refused by its name."""
    (tmp_path / "list").write_bytes(b"\xef\xbb\xbfa.png\r\n\xef\xbb\xbfb.png")
    inputs = find_inputs([], files_from=str(tmp_path / "list"))
    assert [path for _, (path, _, _) in list_images(inputs, Counter())] == ["a.png", "\ufeffb.png"]
    for encoding in ("utf-16", "utf-16-be"):
        mark = b"\xfe\xff" * (encoding == "utf-16-be")
        (tmp_path / "wide").write_bytes(mark + "a.png\r\n".encode(encoding))
        with pytest.raises(DataError, match="wide' is UTF-16; save it as UTF-8"):
            list(list_images(find_inputs([], files_from=str(tmp_path / "wide")), Counter()))


@pytest.mark.parametrize("shard", ["x.tar", "x.TAR.GZ", "s3://bucket/x.tar", "x.parquet"])
@pytest.mark.reported("list-of-shards")
def test_a_list_of_shards_is_refused(tmp_path: Path, shard: str) -> None:
    """A list or a table that names files of images is refused with the name, not classified as broken images."""
    (tmp_path / "list").write_text(f"a.png\n{shard}\n")
    pq.write_table(pa.table({"image": ["a.png", shard]}), tmp_path / "paths.parquet")
    for inputs in (
        find_inputs([], files_from=str(tmp_path / "list")),
        find_inputs([str(tmp_path / "paths.parquet")]),
    ):
        with pytest.raises(DataError, match=rf"names '{shard}', which holds images .* name it as an INPUT"):
            list(list_images(inputs, Counter()))


def test_an_input_on_another_machine(tmp_path: Path) -> None:
    """A node that lacks an input says so; one that has it under another device number is no loss of the input."""
    (tmp_path / "in").mkdir()
    [here] = find_inputs([str(tmp_path / "in")])
    planned = replace(here, device=-1)
    with pytest.raises(DataError, match="disappeared while its images were read"):
        planned.require()
    planned.on_this_machine().require()
    (tmp_path / "in").rmdir()
    with pytest.raises(
        DataError, match=rf"can't be read \(No such file or directory\) on {re.escape(platform.node())}; make it"
    ):
        planned.on_this_machine()
