"""The plan: the ordered list of a run's images, made once, kept on disk and cut into chunks.

It is a file of NUL-terminated records `<input>/<path>`, as `find -print0` writes them: the number of the INPUT, and
the path of the image below it, in whatever bytes the file system has. So memory does not grow with the number of
images, and no file name needs escaping.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from classifier.errors import DataError
from classifier.images import IMAGE_SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """A folder of images, or one image, as it was named on the command line.

    Attributes:
        given: the folder as it was named; for an image, the folder it lies in.
        folder: the same, absolute and without symbolic links.
        file: the image's name; None for a folder.
    """

    given: str
    folder: str
    file: str | None = None

    @property
    def path(self) -> str:
        """The absolute path of the folder or the image."""
        return self.folder if self.file is None else os.path.join(self.folder, self.file)  # noqa: PTH118


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFile:
    """One image of a plan.

    Attributes:
        relative: its path below the folder of its input.
    """

    input: Input
    relative: str

    @property
    def path(self) -> Path:
        """Where it is."""
        return Path(self.input.folder, self.relative)

    @property
    def printable_path(self) -> str:
        """Its relative path as the rows have it."""
        return printable(self.relative)

    @property
    def printable_input(self) -> str:
        """Its input as the rows have it."""
        return printable(self.input.given)

    def label(self, labels: Container[str]) -> str | None:
        """Return which of `labels` it lies under, where folders are classes; None where it lies under none.

        As in training, the folder nearest to the input counts, however deep the image lies in it.
        """
        folders = [*printable(self.relative).split("/")[:-1], printable(Path(self.input.folder).name)]
        return next((folder for folder in folders if folder in labels), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedInput:
    """An `Input` as a plan records it, in UTF-8."""

    given: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is known of a plan without reading its list.

    Attributes:
        skipped: how many entries of the folders are no images to be classified, by reason.
        digest: SHA-256 of the list.
    """

    inputs: tuple[PlannedInput, ...]
    images: int
    chunk_size: int
    skipped: dict[str, int]
    digest: str

    @property
    def chunks(self) -> int:
        """How many chunks there are."""
        return -(-self.images // self.chunk_size)

    def rows(self, chunk: int) -> int:
        """Return how many images a chunk has: `chunk_size`, the last one what is left."""
        return min(self.chunk_size, self.images - chunk * self.chunk_size)


def printable(path: str) -> str:
    r"""Return a path as UTF-8 text: each byte that is not UTF-8 stands as `\xNN`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def find_inputs(arguments: Sequence[str]) -> tuple[Input, ...]:
    """Return the folders and images that were named.

    Raises:
        DataError: one is missing, is neither, or lies within another, so that its images would be planned twice.
    """
    inputs = tuple(_find_input(argument) for argument in arguments)
    paths = [input.path for input in inputs]
    seen: set[str] = set()
    for path in paths:
        if path in seen:
            raise DataError(f"the input '{printable(path)}' is named twice; name it once")
        seen.add(path)
    folders = {input.folder for input in inputs if input.file is None}
    for path in paths:
        if within := next((str(parent) for parent in Path(path).parents if str(parent) in folders), None):
            raise DataError(
                f"the input '{printable(path)}' lies within the input '{printable(within)}' and would be classified "
                "twice; name only one of them"
            )
    return inputs


def _find_input(argument: str) -> Input:
    given = os.path.normpath(argument)
    try:
        mode = os.stat(argument).st_mode  # noqa: PTH116 # Path would drop the trailing slash that wants a folder
    except OSError as error:
        raise DataError(
            f"the input '{printable(argument)}' can't be read ({error.strerror}); name a folder of images, or an image"
        ) from error
    if stat.S_ISDIR(mode):
        return Input(given=given, folder=os.path.realpath(argument))
    if not stat.S_ISREG(mode):
        raise DataError(f"the input '{printable(argument)}' is neither a folder nor a file; name one of the two")
    folder, file = os.path.split(given)
    return Input(given=folder or ".", folder=os.path.realpath(folder or "."), file=file)


def list_images(inputs: Sequence[Input], skipped: Counter[str]) -> Iterator[tuple[int, str]]:
    """Yield the number of the input and the relative path of each image, and count in `skipped` what is none.

    The order is that of the inputs, and within a folder that of the paths' bytes. An image is a regular file with
    the suffix of a format that is accepted. Hidden entries, symbolic links and special files are skipped. A file
    that was named itself is always an image.

    Raises:
        DataError: a folder can't be listed; skipping it would lose images silently.
    """
    for number, input in enumerate(inputs):
        if input.file is not None:
            yield number, input.file
        else:
            for relative in _walk(input, skipped):
                yield number, relative


def _walk(input: Input, skipped: Counter[str]) -> Iterator[str]:
    # Depth first without recursion: folders can be nested deeper than Python recurses. A folder's path ends in "/",
    # also where it is sorted: so the order is that of whole paths, and one folder's names are in memory at a time.
    pending = [""]
    while pending:
        relative = pending.pop()
        if relative and not relative.endswith("/"):
            yield relative
            continue
        try:
            with os.scandir(os.path.join(input.folder, relative)) as entries:  # noqa: PTH118
                names = [name for entry in entries if (name := _select(entry, skipped))]
        except OSError as error:
            raise DataError(
                f"the folder '{printable(os.path.join(input.given, relative))}' can't be listed "  # noqa: PTH118
                f"({error.strerror}); make it readable, or name only the folders that are"
            ) from error
        names.sort(key=os.fsencode, reverse=True)
        pending.extend(relative + name for name in names)


def _select(entry: os.DirEntry[str], skipped: Counter[str]) -> str | None:
    """Return the name of an image, that of a folder with a slash behind it, or None for what is skipped."""
    if entry.name.startswith("."):
        reason = "hidden"
    elif entry.is_symlink():
        reason = "symbolic link"
    elif entry.is_dir(follow_symlinks=False):
        return entry.name + "/"
    elif not entry.is_file(follow_symlinks=False):
        reason = "special file"
    elif Path(entry.name).suffix.lower() not in IMAGE_SUFFIXES:
        reason = "other suffix"
    else:
        return entry.name
    skipped[reason] += 1
    return None


def require_images(inputs: Sequence[Input]) -> None:
    """Check that there is at least one image, without listing more than it takes to find it.

    Raises:
        DataError: there is none.
    """
    skipped: Counter[str] = Counter()
    if next(list_images(inputs, skipped), None) is None:
        raise DataError(
            f"no image in {', '.join(repr(printable(input.given)) for input in inputs)}"
            f"{f' (skipped: {describe_counts(skipped)})' if skipped else ''}; "
            f"an image's name ends in one of {' '.join(sorted(IMAGE_SUFFIXES))}"
        )


def describe_counts(counts: Mapping[str, int]) -> str:
    """Return counts as text, `hidden 1, other suffix 3`."""
    return ", ".join(f"{what} {count:,}" for what, count in sorted(counts.items()))


def write_plan(path: Path, inputs: Sequence[Input], *, chunk_size: int) -> Plan:
    """Return the plan of the inputs, its list written durably to `path`.

    Raises:
        DataError: a folder can't be listed.
        OSError: the list can't be written.
    """
    skipped: Counter[str] = Counter()
    digest = hashlib.sha256()
    images = 0
    with path.open("wb") as file:
        for number, relative in list_images(inputs, skipped):
            record = b"%d/%s\0" % (number, os.fsencode(relative))
            digest.update(record)
            file.write(record)
            images += 1
        file.flush()
        os.fsync(file.fileno())
    return Plan(
        inputs=planned_inputs(inputs),
        images=images,
        chunk_size=chunk_size,
        skipped=dict(sorted(skipped.items())),
        digest=f"sha256:{digest.hexdigest()}",
    )


def planned_inputs(inputs: Sequence[Input]) -> tuple[PlannedInput, ...]:
    """Return the inputs as a plan records them."""
    return tuple(PlannedInput(given=printable(input.given), path=printable(input.path)) for input in inputs)


def digest_of(path: Path) -> str:
    """Return the digest of a list as it stands on disk."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def planned_images(
    path: Path, inputs: Sequence[Input], *, chunk_size: int, chunks: Container[int]
) -> Iterator[ImageFile]:
    """Yield the images of these chunks of the plan whose list is at `path`, in the plan's order."""
    for position, record in enumerate(_records(path)):
        if position // chunk_size in chunks:
            number, _, relative = record.partition(b"/")
            yield ImageFile(input=inputs[int(number)], relative=os.fsdecode(relative))


def _records(path: Path) -> Iterator[bytes]:
    rest = b""
    with path.open("rb") as file:
        while block := file.read(1 << 16):
            *records, rest = (rest + block).split(b"\0")
            yield from records
