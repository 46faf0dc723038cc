from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch.inputs.listing import list_images
from batch.inputs.named import Input, find_inputs
from batch.inputs.plan import ImageFile, digest_of, planned_images, require_images, write_plan
from batch.inputs.selection import Selection
from classifier.errors import DataError
from classifier.wording import utf8_text

# Names that sort differently as strings, as bytes and as whole paths: "a.b/x" comes before "a/x", and "é" after both.
NAMES = st.sampled_from(["a", "a.b", "a b", "a0", "B", "é", "\udcff", "0", "new\nline", "𐍈"])
TREES = st.sets(st.lists(NAMES, min_size=1, max_size=3).map(tuple), max_size=12)


def listed(*arguments: Path | str) -> list[str]:
    return [relative for _, (relative, _, _) in list_images(find_inputs([str(each) for each in arguments]), Counter())]


@given(TREES)
def test_each_image_once_in_the_order_of_path_bytes(tree: set[tuple[str, ...]]) -> None:
    """A folder gives each of its images exactly once, in the order of their whole paths' bytes."""
    with tempfile.TemporaryDirectory() as folder:
        images = {"/".join(path) + ".png" for path in tree}
        for image in images:
            Path(folder, image).parent.mkdir(parents=True, exist_ok=True)
            Path(folder, image).touch()
        assert listed(folder) == sorted(images, key=os.fsencode)


def test_what_is_no_image_is_skipped_and_counted(tmp_path: Path) -> None:
    """Files with another suffix, hidden entries, symbolic links and special files get no row, and are counted."""
    for name in ("b.PNG", "a.jpeg", "notes.txt", ".DS_Store", "._a.jpg"):
        (tmp_path / name).touch()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "c.png").touch()
    (tmp_path / "link.png").symlink_to("a.jpeg")
    (tmp_path / "loop").symlink_to(".")
    os.mkfifo(tmp_path / "pipe.jpg")
    skipped: Counter[str] = Counter()
    assert [path for _, (path, _, _) in list_images(find_inputs([str(tmp_path)]), skipped)] == ["a.jpeg", "b.PNG"]
    assert skipped == {"other suffix": 1, "hidden": 3, "symbolic link": 2, "special file": 1}


def test_folders_nested_deeper_than_python_recurses(tmp_path: Path) -> None:
    """An image is found at any depth that the file system's paths allow."""
    depth = sys.getrecursionlimit() + 100
    folder = tmp_path.joinpath("top", *"d" * depth)
    # The commands, because Python's own mkdir and rmtree recurse.
    subprocess.run(["mkdir", "-p", folder], check=True)
    try:
        (folder / "x.png").touch()
        assert listed(tmp_path / "top") == ["d/" * depth + "x.png"]
    finally:
        subprocess.run(["rm", "-rf", tmp_path / "top"], check=True)


def test_a_folder_that_cannot_be_listed_stops_the_run(tmp_path: Path) -> None:
    """A folder that can't be listed is an error: going on would lose its images silently."""
    descriptor = os.open(tmp_path, os.O_RDONLY)
    for _ in range(20):  # too long for a path: not even root can list it
        os.mkdir("d" * 255, dir_fd=descriptor)
        below = os.open("d" * 255, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    with pytest.raises(DataError, match=r"can't be listed \(File name too long\)"):
        listed(tmp_path)


def test_several_inputs_keep_their_order(tmp_path: Path) -> None:
    """Inputs are planned in the order in which they were named, a named file whatever its suffix."""
    for name in ("a/1.png", "b/2.png", "b/odd.data"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    inputs = find_inputs([f"{tmp_path}/b/odd.data", f"{tmp_path}/b/2.png", f"{tmp_path}/a/"])
    assert [(inputs[number].given, path) for number, (path, _, _) in list_images(inputs, Counter())] == [
        (f"{tmp_path}/b", "odd.data"),
        (f"{tmp_path}/b", "2.png"),
        (f"{tmp_path}/a", "1.png"),
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["missing"], r"'missing' can't be read \(No such file or directory\)"),
        (["a", "./a/"], "named twice"),
        (["a", "a/b"], "is inside the input"),
        (["a/b/1.png", "."], "is inside the input"),
        (["a/b/1.png", "link/1.png"], "named twice"),
        (["a/b/1.png/"], "Not a directory"),
        (["pipe.jpg"], "neither a folder nor a file"),
    ],
)
def test_wrong_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str) -> None:
    """An input that is missing, is no folder or file, or would be classified twice is refused."""
    monkeypatch.chdir(tmp_path)
    Path("a/b").mkdir(parents=True)
    Path("a/b/1.png").touch()
    Path("link").symlink_to("a/b")
    os.mkfifo("pipe.jpg")
    with pytest.raises(DataError, match=sentence):
        find_inputs(arguments)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    """A folder without images is refused, with what it holds instead and what images are called."""
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=r"no image in .* \(skipped: other suffix 1\); .*\.png"):
        require_images(find_inputs([str(tmp_path)]))
    with pytest.raises(DataError, match=r"no image in .* \(skipped: not included 1\); .* matches one of \*\.gif$"):
        require_images(find_inputs([str(tmp_path)]), Selection(include=("*.gif",)))


def test_a_plan_on_disk_gives_back_each_path(tmp_path: Path) -> None:
    """A plan that is longer than a read block gives back every path, odd bytes and all, chunk by chunk."""
    folder = tmp_path / "images"
    folder.mkdir()
    first = folder / "\udcff\n first.png"
    first.touch()
    for number in range(2000):
        os.link(first, folder / f"{number:060}.png")
    inputs = find_inputs([str(folder)])
    plan = write_plan(tmp_path / "plan", inputs, chunk_size=300)
    assert (plan.images, plan.chunks, plan.rows(0), plan.rows(6)) == (2001, 7, 300, 201)
    assert plan.digest == digest_of(tmp_path / "plan")

    def relative(chunks: range) -> list[str]:
        found = planned_images(tmp_path / "plan", inputs, chunk_size=300, chunks=chunks)
        return [file.relative for file in found]

    everything = [path for _, (path, _, _) in list_images(inputs, Counter())]
    assert relative(range(7)) == everything
    assert relative(range(2, 4)) == everything[600:1200]
    assert [path for chunk in range(7) for path in relative(range(chunk, chunk + 1))] == everything


def test_paths_are_printable() -> None:
    """A path becomes UTF-8 whatever its bytes, and a sound one stays as it is."""
    assert utf8_text(os.fsdecode(b"a\xff\xc3\xa9.png")) == "a\\xffé.png"


@pytest.mark.parametrize(
    ("relative", "label"),
    [("cat/1.png", "cat"), ("cat/2024/1.png", "cat"), ("cat/dog/1.png", "cat"), ("test/dog/1.png", "dog"),
     ("1.png", None), ("other/1.png", None)],
)  # fmt: skip
def test_the_label_that_an_image_lies_under(tmp_path: Path, relative: str, label: str | None) -> None:
    """As in training, the class is the folder nearest to the input, however deep the image lies in it."""
    image = ImageFile(input=Input(given="photos", location=str(tmp_path / "photos")), relative=relative)
    assert image.label({"cat", "dog"}) == label


def test_an_input_that_is_itself_a_class_folder(tmp_path: Path) -> None:
    """`tandem batch photos/cat` measures against the label cat."""
    image = ImageFile(input=Input(given="photos/cat", location=str(tmp_path / "photos" / "cat")), relative="1.png")
    assert image.label({"cat", "dog"}) == "cat"
