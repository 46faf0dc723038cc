"""Opening a file that holds many images, local or remote."""

from __future__ import annotations

import tarfile
from contextlib import closing, contextmanager
from typing import IO, TYPE_CHECKING

from batch.inputs import urls
from classifier.errors import DataError
from classifier.wording import utf8_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batch.inputs.named import Input

Found = tuple[str, int | None, int | None]
"""An image in an input: its path below the input and, if needed, its place: first byte and size, or row and 1."""


@contextmanager
def opening(input: Input) -> Iterator[IO[bytes]]:
    """Yield the file of an input for reading.

    Raises:
        DataError: it can't be read, or not to its end.
    """
    what = f"the {input.kind} file '{utf8_text(input.given)}'"
    try:
        if urls.is_url(input.location):
            with urls.reaching(input.location), closing(urls.open_url(input.location)) as file:
                yield file
        else:
            with open(input.location, "rb") as file:  # noqa: PTH123
                yield file
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"{what} can't be read to its end ({error}); copy or make it again") from error
    except OSError as error:  # gzip's and lzma's are OSErrors without an errno
        raise DataError(f"{what} can't be read ({error.strerror or error}); copy or make it again") from error
