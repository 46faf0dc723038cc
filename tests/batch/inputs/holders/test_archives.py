"""Tar files of images: the same rows as from a folder, in any order of resuming."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import shutil
import subprocess
import tarfile
import tempfile
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch.inputs.listing import list_images
from batch.inputs.named import find_inputs
from batch.inputs.plan import listed_images
from classifier.errors import DataError
from tests.batch.conftest import read_parts
from tests.batch.images import WHAT, make_tar, rows_of

if TYPE_CHECKING:
    from batch.inputs.holders.opening import Found
    from tests.batch.conftest import Run


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.xz"])
def test_a_tar_file_gives_the_rows_of_its_folder(tmp_path: Path, run: Run, few: Path, suffix: str) -> None:
    """A tar file gives the rows that its folder gives; what is no image in it is counted, and the accuracy is known."""
    shard = make_tar(tmp_path / f"few.{suffix}", few, f"w:{suffix[4:]}")
    of_folder, of_tar = run(tmp_path / "folder"), run(tmp_path / "tar", shard)
    assert rows_of(tmp_path / "tar", *WHAT) == rows_of(tmp_path / "folder", *WHAT)
    assert of_tar.run.plan.skipped == {"other suffix": 40, "symbolic link": 1}
    assert of_tar.accuracy == of_folder.accuracy
    before = read_parts(tmp_path / "tar")
    for number in (3, 1):
        (tmp_path / "tar" / "parts" / f"part-0000{number}.parquet").unlink()
    assert run(tmp_path / "tar", shard).attempts[-1].images == 18
    assert read_parts(tmp_path / "tar") == before


def test_a_tar_file_without_its_end_is_refused(tmp_path: Path, few: Path) -> None:
    """Wherever a tar file is cut off, and where a header in it is damaged, it is refused: no image is lost silently."""
    whole = make_tar(tmp_path / "few.tar", few, "w").read_bytes()
    cut = tmp_path / "cut.tar"
    with tarfile.open(tmp_path / "few.tar") as tar:
        end = tar.getmembers()[-1].offset_data
        second = tar.getmembers()[2].offset
    for size in [*range(0, end, 487), end]:
        cut.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"the tar file '.*cut\.tar' can't be read"):
            list(listed_images(find_inputs([str(cut)])))
    cut.write_bytes(whole[:second] + b"x" * 512 + whole[second + 512 :])
    with pytest.raises(DataError, match="no end mark where its last member ends"):
        list(listed_images(find_inputs([str(cut)])))


def test_a_tar_file_that_lost_its_end_after_it_was_planned(tmp_path: Path, run: Run, few: Path) -> None:
    """A tar file that became shorter is not the one that was planned: the resumed run is refused."""
    shard = make_tar(tmp_path / "few.tar", few, "w")
    run(tmp_path / "out", shard)
    (tmp_path / "out" / "parts" / "part-00004.parquet").unlink()
    os.truncate(shard, 4000)
    with pytest.raises(DataError, match=r"few\.tar' had [0-9,]+ bytes and has 4,000 after its images were planned"):
        run(tmp_path / "out", shard)


COMPRESSED = {
    "none": lambda data: data,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}


@pytest.mark.parametrize("name", ["few.tar", "few.tar.gz", "few.tar.zst", "few.txz"])
@pytest.mark.parametrize("compression", COMPRESSED)
def test_the_contents_say_how_a_tar_file_is_compressed(
    tmp_path: Path, run: Run, few: Path, name: str, compression: str
) -> None:
    """Whatever the name says, the images are those in the file; so they are if it is resumed."""
    plain = make_tar(tmp_path / "plain.tar", few, "w").read_bytes()
    shard = tmp_path / name
    shard.write_bytes(COMPRESSED[compression](plain))
    run(tmp_path / "tar", shard)
    run(tmp_path / "folder")
    assert rows_of(tmp_path / "tar", *WHAT) == rows_of(tmp_path / "folder", *WHAT)
    (tmp_path / "tar" / "parts" / "part-00003.parquet").unlink()
    run(tmp_path / "tar", shard)
    assert rows_of(tmp_path / "tar", *WHAT) == rows_of(tmp_path / "folder", *WHAT)


@pytest.mark.parametrize("compression", COMPRESSED)
@pytest.mark.reported("tar-concatenated")
def test_after_the_end_of_a_tar_file_only_zeros_may_follow(tmp_path: Path, few: Path, compression: str) -> None:
    """Tar files that were joined with `cat`, before or after compression, are refused; padding with zeros is not."""
    plain = make_tar(tmp_path / "plain.tar", few, "w").read_bytes()
    compress, path = COMPRESSED[compression], tmp_path / "x.tar"
    joined = [compress(plain + plain), compress(plain) * 2, compress(plain) + plain, compress(plain + b"x")]
    for data in joined:
        path.write_bytes(data)
        with pytest.raises(
            DataError, match=r"x\.tar' can't be read.*(goes on behind its end mark|damaged|Not a gzip|)"
        ):
            listed(path)
    whole = compress(plain)
    for cut in range(0, len(whole) - 1, len(whole) // 20) if compression != "none" else ():
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"x\.tar' can't be read"):
            listed(path)
    path.write_bytes(compress(plain + bytes(20_000)) + bytes(1024) * (compression != "zstd"))
    assert len(listed(path)[0]) == 40


def listed(path: Path) -> tuple[list[Found], Counter[str]]:
    skipped: Counter[str] = Counter()
    return [found for _, found in list_images(find_inputs([str(path)]), skipped)], skipped


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("batches", [9, 1])
@pytest.mark.reported("tar-hard-link")
def test_hard_links_have_the_bytes_of_their_targets(
    tmp_path: Path, run: Run, few: Path, mode: str, batches: int
) -> None:
    """A tar file of a folder with hard links gives the rows of the folder, whatever was linked to what, resumed too."""
    shutil.copytree(few, tmp_path / "in")
    for number, image in enumerate(sorted((tmp_path / "in").rglob("*.png"))):
        os.link(image, image.with_name(f"link-{number}.png"))
        os.link(image, tmp_path / "in" / f"{number:02}-link.png")
    flags = {"w": "-cf", "w:gz": "-czf"}[mode]
    subprocess.run(["tar", "-C", tmp_path / "in", "--sort=name", flags, tmp_path / "x.tar", "."], check=True)
    run(tmp_path / "folder", tmp_path / "in", batch_size=batches)
    run(tmp_path / "tar", tmp_path / "x.tar", batch_size=batches)
    (tmp_path / "tar" / "parts" / "part-00005.parquet").unlink()
    run(tmp_path / "tar", tmp_path / "x.tar", batch_size=batches)
    of_tar = [(path.removeprefix("./"), *row) for path, *row in rows_of(tmp_path / "tar", *WHAT)]
    assert len(of_tar) == 120
    assert sorted(of_tar) == sorted(rows_of(tmp_path / "folder", *WHAT))


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.none() | st.sampled_from("abcdx")), max_size=8))
def test_hard_links_are_those_that_tar_extracts(members: list[tuple[str, str | None]]) -> None:
    """A hard link has the bytes that its target had there: of the last member of that name before it."""
    file, last, expected, lost = io.BytesIO(), {}, [], 0
    with tarfile.open(fileobj=file, mode="w") as tar:
        for number, (name, target) in enumerate(members):
            member = tarfile.TarInfo(f"./{name}.png")
            if target is None:
                member.size = 1
                last[name] = bytes([number])
            else:
                member.type, member.linkname = tarfile.LNKTYPE, f"{target}.png"
                last[name] = last.get(target)
            tar.addfile(member, io.BytesIO(bytes([number])))
            if last[name] is None:
                lost += 1
            else:
                expected.append((member.name, last[name]))
    with tempfile.NamedTemporaryFile(suffix=".tar") as on_disk:
        on_disk.write(data := file.getvalue())
        on_disk.flush()
        found, skipped = listed(Path(on_disk.name))
    assert [(name, data[start : start + size]) for name, start, size in found if start and size] == expected
    assert skipped == ({"hard link without its target": lost} if lost else {})


def test_members_that_are_no_files_are_named_and_counted(tmp_path: Path) -> None:
    """Sparse files, devices, pipes and symbolic links are no images, and neither are hard links to them."""
    (tmp_path / "sparse.png").touch()
    os.truncate(tmp_path / "sparse.png", 1 << 20)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("sparse.png")
    (tmp_path / "a.png").write_bytes(b"a")
    os.link(tmp_path / "sparse.png", tmp_path / "zhard.png")
    names = ["a.png", "link.png", "pipe.png", "sparse.png", "zhard.png"]
    subprocess.run(["tar", "-C", tmp_path, "-cSf", tmp_path / "x.tar", *names], check=True)
    found, skipped = listed(tmp_path / "x.tar")
    assert [name for name, _, _ in found] == ["a.png"]
    assert skipped == {"symbolic link": 1, "special file": 1, "sparse file": 2}


def test_a_tar_in_memory_does_not_grow(tmp_path: Path) -> None:
    """Listing a tar file keeps no member that was listed."""
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for number in range(2000):
            tar.addfile(tarfile.TarInfo(f"{number}.png"), io.BytesIO())
    tracemalloc.start()
    assert sum(1 for _ in listed_images(find_inputs([str(tmp_path / "x.tar")]))) == 2000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500_000


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME], ids=["pax", "long name"])
def test_a_header_of_gigabytes_is_not_read(tmp_path: Path, kind: bytes) -> None:
    """A small compressed tar file can hold a header that takes more memory than there is: it is refused."""
    header = tarfile.TarInfo("x")
    header.type, header.size = kind, 3 << 30
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20)))
    with pytest.raises(DataError, match="a header in it has 3,221,225,472 bytes"):
        listed(tmp_path / "x.tar.gz")
