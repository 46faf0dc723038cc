"""What tests of inputs share: a tar file of a folder, and the rows of an output."""

from __future__ import annotations

import tarfile
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

if TYPE_CHECKING:
    from pathlib import Path

WHAT = ("path", "status", "bytes", "sha256", "label", "score")


def rows_of(output: Path, *columns: str) -> list[tuple[Any, ...]]:
    """Return these columns of all rows."""
    return [tuple(row[name] for name in columns) for row in pq.read_table(output / "parts").to_pylist()]


def make_tar(path: Path, folder: Path, mode: str) -> Path:
    """Return a tar file of the folder's images, with labels and a link among them."""
    with tarfile.open(path, mode) as tar:
        for image in sorted(folder.rglob("*.png")):
            tar.add(image, image.relative_to(folder))
            tar.addfile(tarfile.TarInfo(f"{image.stem}.cls"))  # as a WebDataset shard has beside each image
        tar.addfile(_link("link.png"))
    return path


def _link(name: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, "0/a.png"
    return member
