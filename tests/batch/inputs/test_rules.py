"""The same rules for every source: what of one tree is taken from a folder, an archive, a bucket, a list or a table."""

from __future__ import annotations

import os
import tarfile
from collections import Counter
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch.inputs.listing import list_images
from batch.inputs.named import find_inputs
from batch.inputs.plan import write_plan
from batch.inputs.selection import Selection

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batch.inputs.named import Input
    from tests.batch.conftest import Run
    from tests.batch.inputs.conftest import Web

pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)

FILES = ("a.png", "keep/b.png", "keep/deep/c.png", "notes.txt", "odd.data")
HIDDEN = (".d.png", "._e.png", ".git/f.png", "keep/.cache/deep/g.png")
OF_SYSTEMS = ("@eaDir/a.png/SYNOPHOTO_THUMB_XL.png", "keep/@eaDir/h.png", "__MACOSX/keep/i.png", "#recycle/j.png")
HARD_LINK, LINK, LINK_TO_FOLDER = "keep/same.png", "keep/link.png", "linked"
IMAGES = {"a.png", "keep/b.png", "keep/deep/c.png", HARD_LINK}

RULES: dict[str, tuple[Selection, set[str]]] = {
    "images": (Selection(), IMAGES),
    "--include of names": (Selection(include=("*.data", "b*")), {"odd.data", "keep/b.png"}),
    "--include of paths": (Selection(include=("keep/deep/*",)), {"keep/deep/c.png"}),
    "--exclude of a folder": (Selection(exclude=("deep",)), IMAGES - {"keep/deep/c.png"}),
    "--exclude of a folder by its path": (Selection(exclude=("keep/de*",)), IMAGES - {"keep/deep/c.png"}),
    "--exclude of a path of find": (Selection(exclude=("./keep/deep",)), IMAGES - {"keep/deep/c.png"}),
    "--exclude of the top folder": (Selection(exclude=("keep",)), {"a.png"}),
    "--exclude of names": (Selection(exclude=("[ab].png",)), {"keep/deep/c.png", HARD_LINK}),
}

SKIPPED = {"hidden", "system folder", "other suffix", "symbolic link"}
"""The reasons that the tree gives where links can be."""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a folder with one entry for each rule."""
    tree = tmp_path / "tree"
    for name in (*FILES, *HIDDEN, *OF_SYSTEMS):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(name.encode())
    os.link(tree / "a.png", tree / HARD_LINK)
    (tree / LINK).symlink_to("b.png")
    (tree / LINK_TO_FOLDER).symlink_to("keep")
    return tree


def folder(tree: Path, **_: Any) -> tuple[Input, ...]:
    return find_inputs([str(tree)])


def tar(tree: Path, mode: str = "w", name: str = "tree.tar", prefix: str = ".", **_: Any) -> tuple[Input, ...]:
    with tarfile.open(tree.parent / name, mode) as archive:
        archive.add(tree, prefix)
    return find_inputs([str(tree.parent / name)])


def tar_gz(tree: Path, **_: Any) -> tuple[Input, ...]:
    return tar(tree, "w:gz", "tree.tar.gz")


def tar_without_dots(tree: Path, **_: Any) -> tuple[Input, ...]:
    return tar(tree, prefix="")


def s3_bucket(tree: Path, s3: Callable[[], Any], **_: Any) -> tuple[Input, ...]:
    s3().put(f"{tree}/", f"tree-{tree.parent.name}".replace("_", "-"), recursive=True)
    return find_inputs([f"s3://tree-{tree.parent.name}".replace("_", "-")])


def tar_over_http(tree: Path, web: Web, **_: Any) -> tuple[Input, ...]:
    tar(tree)
    (tree.parent / "tree.tar").rename(web.folder / "tree.tar")
    return find_inputs([f"{web.url}/tree.tar"])


WALKED = (folder, tar, tar_without_dots, tar_gz, s3_bucket, tar_over_http)


def listed(inputs: tuple[Input, ...], selection: Selection) -> tuple[list[str], Counter[str]]:
    skipped: Counter[str] = Counter()
    return [path.removeprefix("./") for _, (path, _, _) in list_images(inputs, skipped, selection)], skipped


@pytest.mark.parametrize("source", WALKED, ids=lambda source: source.__name__)
@pytest.mark.reported("synology-thumbnails")
def test_the_rules_are_those_of_a_folder(tree: Path, web: Web, source: Any, request: pytest.FixtureRequest) -> None:
    """Every rule takes from a tar file, compressed or remote, and from a bucket what it takes from their folder.

    A bucket has no links: what was uploaded through one is an object like any other.
    """
    inputs = source(tree, web=web, s3=lambda: _bucket(request, tree))
    through_links = {LINK, *(f"linked/{name.removeprefix('keep/')}" for name in (*IMAGES, LINK) if "keep/" in name)}
    for name, (selection, expected) in RULES.items():
        found, skipped = listed(inputs, selection)
        assert len(found) == len(set(found)), name
        if source is s3_bucket:
            assert set(found) - through_links == expected, name
        else:
            assert set(found) == expected, name
            assert skipped["symbolic link"] + skipped["excluded"] >= 2, name
        assert {"hidden", "system folder"} <= set(skipped), name
    found, skipped = listed(inputs, Selection())
    plan = write_plan(tree.parent / "plan", inputs, chunk_size=2)
    count, out_of = len(found), len(found) + skipped.total()
    assert str(plan).startswith(f"planned {count} images, of {out_of} entries seen; skipped {out_of - count}: ")
    assert f" {skipped['system folder']} system folder" in str(plan)
    assert set(skipped) == SKIPPED - ({"symbolic link"} if source is s3_bucket else set())


def _bucket(request: pytest.FixtureRequest, tree: Path) -> Any:
    files = request.getfixturevalue("s3")
    files.mkdir(f"tree-{tree.parent.name}".replace("_", "-"))
    return files


@pytest.mark.parametrize("source", ["list", "list of URLs", "Parquet file of paths"])
def test_what_is_named_in_a_list_is_always_an_image(tree: Path, source: str, web: Web) -> None:
    """No rule applies to entries of a list or a table, as to a file on the command line: they were named one by one."""
    names = [*FILES, *HIDDEN, *OF_SYSTEMS, HARD_LINK, LINK, "gone.png"]
    if source == "Parquet file of paths":
        pq.write_table(pa.table({"image": names}), tree / "index.parquet")
        inputs = find_inputs([str(tree / "index.parquet")])
    else:
        names = [f"{web.url}/{name}" for name in names] if source == "list of URLs" else names
        (tree / "list").write_text("\n".join(names))
        inputs = find_inputs([], files_from=str(tree / "list"))
    for selection, _ in RULES.values():
        assert listed(inputs, selection) == (names, Counter())
    plan = write_plan(tree.parent / "plan", inputs, chunk_size=2)
    assert str(plan) == f"planned {len(names)} images, of {len(names)} entries seen"


def test_the_log_says_what_was_planned(tmp_path: Path, run: Run, few: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each plan ends in a line with all that was seen, taken and skipped; an INPUT without images in a warning."""
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / ".a.png").touch()
    (tmp_path / "none" / "@eaDir").mkdir()
    with caplog.at_level("INFO"):
        run(tmp_path / "out", few, tmp_path / "none")
    assert (
        "planned 40 images, of 42 entries seen; skipped 2: 1 hidden, 1 system folder; classifying 40 images in 5 chunks"
        in caplog.messages
    )
    assert f"no image in '{tmp_path / 'none'}'" in caplog.messages
