"""The plan: the ordered list of a run's images, made once, kept on disk and cut into chunks.

It is a file of NUL-terminated records `<input>[:[<start>+]<size>]/<path>`: the number of the INPUT, the image's place
in it if needed, and the path below it, in the bytes of the file system. So memory does not grow with the number of
images, and no file name needs escaping.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batch.inputs.listing import list_images, read_records
from batch.inputs.named import Input, Kind
from batch.inputs.selection import SUFFIXES_ALONE, Selection
from batch.inputs.sources import Sources, beside
from batch.inputs.stamps import as_path, path_text
from batch.inputs.stores.urls import is_url
from classifier.errors import DataError
from classifier.images import IMAGE_SUFFIXES
from classifier.wording import counted, tally, utf8_text

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping, Sequence
    from pathlib import Path

    from batch.inputs.holders.opening import Found

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """One image of a plan.

    Attributes:
        relative: path below the input's folder, or inside the tar file; in a table of images, the row's number.
        start: first byte, or row, in the file that holds the image; None if the image is a file itself.
        size: in bytes, if known before reading.
        data: the image's bytes, if they can only be read in the order of the plan.
    """

    input: Input
    relative: str
    start: int | None = None
    size: int | None = None
    data: bytes | None = None

    @property
    def location(self) -> str:
        """The path or URL of the image's file, or of the file that holds the image."""
        if self.start is not None:
            return self.input.location
        if is_url(self.relative) and self.input.kind in {"list", "parquet"}:
            return self.relative
        return self.input.file_of(self.relative)

    @property
    def printable_path(self) -> str:
        """The relative path as rows carry it."""
        return path_text(self.relative)

    @property
    def printable_input(self) -> str:
        """The input as rows carry it."""
        return path_text(self.input.given)

    def label(self, labels: Container[str]) -> str | None:
        """Return the label whose folder holds the image; None if none does.

        As in training, the folder nearest to the input counts, however deep the image is. A path from a list has no
        input above it, so there the folder nearest to the image counts.
        """
        folders = utf8_text(self.relative).split("/")[:-1]
        if self.input.kind in {"list", "parquet"}:
            folders.reverse()
        folders.append(utf8_text(os.path.basename(self.input.location)))  # noqa: PTH119
        return next((folder for folder in folders if folder in labels), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedInput:
    """An `Input` as a plan records it, in UTF-8: `path_text`."""

    given: str
    location: str
    path: str
    kind: Kind
    column: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Facts about a plan, without its list.

    Attributes:
        selection: which entries of folders and tar files were taken.
        skipped: number of skipped entries, by reason.
        digest: SHA-256 of the list.
    """

    inputs: tuple[PlannedInput, ...]
    selection: Selection
    images: int
    chunk_size: int
    skipped: dict[str, int]
    digest: str

    def __str__(self) -> str:
        """The number of images, of all entries that were seen, and of those that were skipped, by reason."""
        skipped = sum(self.skipped.values())
        seen = self.images + skipped
        text = f"planned {counted(self.images, 'image')}, of {seen:,} {'entry' if seen == 1 else 'entries'} seen"
        return f"{text}; skipped {skipped:,}: {tally(self.skipped)}" if skipped else text

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return -(-self.images // self.chunk_size)

    def rows(self, chunk: int) -> int:
        """Return the number of images in a chunk: `chunk_size`, or the rest in the last chunk."""
        return min(self.chunk_size, self.images - chunk * self.chunk_size)


def require_images(inputs: Sequence[Input], selection: Selection = SUFFIXES_ALONE) -> None:
    """Check that there is an image, without listing more than up to the first one.

    Raises:
        DataError: there is none.
    """
    if any(input.kind == "list" for input in inputs):
        return  # standard input can be read only once
    skipped: Counter[str] = Counter()
    if next(list_images(inputs, skipped, selection), None) is None:
        names = " ".join(selection.include or sorted(IMAGE_SUFFIXES))
        raise DataError(
            f"no image in {', '.join(repr(utf8_text(input.given)) for input in inputs)}"
            f"{f' (skipped: {describe_counts(skipped)})' if skipped else ''}; "
            f"an image's name {'matches' if selection.include else 'ends in'} one of {names}"
        )


def describe_counts(counts: Mapping[str, int]) -> str:
    """Return counts as text, `hidden 1, other suffix 3`."""
    return ", ".join(f"{what} {count:,}" for what, count in sorted(counts.items()))


def write_plan(path: Path, inputs: Sequence[Input], *, chunk_size: int, selection: Selection = SUFFIXES_ALONE) -> Plan:
    """Write the list of the inputs' images durably to `path`, what it was made of beside it, and return the plan.

    Raises:
        DataError: an input can't be listed.
        OSError: the list can't be written.
    """
    skipped: Counter[str] = Counter()
    digest = hashlib.sha256()
    images, sources = 0, Sources(inputs)
    last, last_folder, with_images = -1, "", set()
    # Both files are opened now: if the folder is replaced meanwhile, nothing is written into the new one.
    with path.open("wb") as file, beside(path).open("wb") as made_of:
        for number, found in list_images(inputs, skipped, selection):
            record = _encode(number, found)
            digest.update(record)
            file.write(record)
            images += 1
            # A list can have 100 million images: what few of them need is done at the first of a folder.
            folder = found[0][: found[0].rfind("/") + 1]
            if folder != last_folder or number != last:
                last, last_folder = number, folder
                with_images.add(number)
                sources.add(number, found)
        file.flush()
        os.fsync(file.fileno())
        sources.write(made_of)
    for number in sorted(set(range(len(inputs))) - with_images if images else ()):
        log.warning("no image in '%s'", utf8_text(inputs[number].path))
    return Plan(
        inputs=planned_inputs(inputs),
        selection=selection,
        images=images,
        chunk_size=chunk_size,
        skipped=dict(sorted(skipped.items())),
        digest=f"sha256:{digest.hexdigest()}",
    )


def planned_inputs(inputs: Sequence[Input]) -> tuple[PlannedInput, ...]:
    """Return the inputs as a plan records them."""
    return tuple(
        PlannedInput(
            given=path_text(each.given),
            location=path_text(each.location),
            path=path_text(each.path),
            kind=each.kind,
            column=each.column,
        )
        for each in inputs
    )


def inputs_of(plan: Plan) -> tuple[Input, ...]:
    """Return the inputs of a plan, to read its images again. They need not exist."""
    return tuple(
        Input(
            given=each.given,
            location=as_path(each.location),
            kind=each.kind,
            file={"file": os.path.basename(as_path(each.path)), "list": as_path(each.path)}.get(each.kind),  # noqa: PTH119
            column=each.column,
        )
        for each in plan.inputs
    )


def digest_of(path: Path) -> str:
    """Return the digest of the list at `path`."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def planned_images(
    path: Path, inputs: Sequence[Input], *, chunk_size: int, chunks: Container[int]
) -> Iterator[ImageFile]:
    """Yield the images of these chunks from the list at `path`, in its order."""
    with path.open("rb") as file:
        for position, record in enumerate(read_records(file, b"\0")):
            if position // chunk_size in chunks:
                yield _decode(record, inputs)


def listed_images(inputs: Sequence[Input]) -> Iterator[ImageFile]:
    """Yield the images of the inputs in the order that a plan would have.

    Raises:
        DataError: an input can't be listed.
    """
    return (_decode(_encode(number, found)[:-1], inputs) for number, found in list_images(inputs, Counter()))


def _encode(number: int, found: Found) -> bytes:
    relative, start, size = found
    place = b"" if size is None else b":%d" % size if start is None else b":%d+%d" % (start, size)
    return b"%d%b/%b\0" % (number, place, os.fsencode(relative))


def _decode(record: bytes, inputs: Sequence[Input]) -> ImageFile:
    head, _, relative = record.partition(b"/")
    number, _, place = head.partition(b":")
    start, _, size = place.rpartition(b"+")
    return ImageFile(
        input=inputs[int(number)],
        relative=os.fsdecode(relative),
        start=int(start) if start else None,
        size=int(size) if size else None,
    )
