"""Loads images in child processes, each driven by a thread of the run.

Threads alone stop scaling at two or three cores: the codecs release Python's lock, but the code around them holds it
for about as long. Here a thread hands its process a few files at a time, and waits for the pixels without the lock.

The thread itself loads the rest: images that can't be read or decoded, dangerous images, and images in flight when a
process died. So errors are made in one place. The threads also load a run's first images, since many runs end before a
process has started.
"""

from __future__ import annotations

import contextlib
import hashlib
import pickle
import queue
import sys
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING

import msgspec
import numpy as np

from batch.inputs.stores.objects import note_read
from batch.inputs.stores.urls import is_url
from batch.pipeline.contained import inline_limits
from batch.pipeline.loading import LoadedImage, load_image
from batch.pipeline.processes import Process, pipes, receive, send
from batch.pipeline.reading import read_file
from classifier.errors import DataError, ImageError
from classifier.images import DecodedImage, decode_image
from classifier.types import Preprocessing, from_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from batch.inputs.plan import ImageFile
    from batch.pipeline.contained import Decoder

IMAGES_BEFORE_PROCESSES = 200
"""About as many as two threads load while a process starts."""

MAX_BYTES_SENT_BACK = 16 * 2**20
"""Maximum size of an image behind a URL that the process hands back. The thread fetches a larger one again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    """A process's reply for a loaded image. The pixels follow."""

    bytes: int
    sha256: str
    width: int
    height: int
    format: str


_Reply = list[_Loaded | bytes | None]
"""For each file: its image, its bytes if they came over the network, or None."""


class Loader:
    """Loads groups of images as `load_image` does. Safe to call from as many threads as it has processes.

    Args:
        preprocessing: of the model.
        processes: number of child processes; 0 to load everything in the calling threads.
    """

    def __init__(self, preprocessing: Preprocessing, *, processes: int) -> None:
        self._preprocessing = preprocessing
        self._left_to_threads = IMAGES_BEFORE_PROCESSES
        self._can_start = processes > 0
        self._workers: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(processes):
            self._workers.put(None)

    def close(self) -> None:
        """End the processes. No thread may be calling."""
        self._can_start = False
        while not self._workers.empty():
            if worker := self._workers.get():
                worker.close()

    def __call__(self, files: Sequence[ImageFile], decode: Decoder) -> list[LoadedImage]:
        """Return the images of these files. `decode` decodes those that no process decodes.

        Raises:
            DataError: a file that holds images can't be read, or an input disappeared.
            CancelledError: `decode` was stopped.
        """
        # Suspects are decoded contained, to find the image that killed the run before.
        if not self._can_start or self._left_to_threads > 0 or decode.suspects > 0:
            self._left_to_threads -= len(files)  # threads may miscount by a few, which harms nothing
            return _load_here(files, decode)
        worker = self._workers.get()
        try:
            worker = worker or _Worker(self._preprocessing)
            found = worker.load(files) if worker.is_ready() else [None] * len(files)
        except (OSError, EOFError):
            # One of these images may have killed the process. If it never started, the machine has no room for it:
            # the run continues in threads, slower.
            self._can_start = worker is not None and worker.has_started
            if worker:
                worker.close()
            worker = None
            return _load_here(files, decode, contained=True)
        finally:
            self._workers.put(worker)
        given = list(zip(files, found, strict=True))
        left = [replace(file, data=image or file.data) for file, image in given if not isinstance(image, LoadedImage)]
        here = iter(_load_here(left, decode))
        return [image if isinstance(image, LoadedImage) else next(here) for image in found]


def _load_here(files: Sequence[ImageFile], decode: Decoder, *, contained: bool = False) -> list[LoadedImage]:
    """Return the images of these files, loaded by this thread."""
    images = []
    for file in files:
        decode.check_goes_on()
        images.append(load_image(file, decode.contained if contained else decode))
    return images


class _Worker(Process):
    """The child process that loads."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__("batch.pipeline.workers", msgspec.json.encode(preprocessing).decode())
        self.has_started = False
        self._crop_size = preprocessing.crop_size

    def is_ready(self) -> bool:
        """Return whether the process has started.

        Raises:
            OSError, EOFError: it has ended.
        """
        if not self.has_started and self.has_message():
            self.receive()
            self.has_started = True
        return self.has_started

    def load(self, files: Sequence[ImageFile]) -> list[LoadedImage | bytes | None]:
        """Return the images of these files; bytes or None for a file that the caller has to load.

        Raises:
            OSError, EOFError: the process has ended.
        """
        self.send(pickle.dumps(files))
        reply = msgspec.msgpack.decode(self.receive(), type=_Reply)
        loaded = sum(isinstance(each, _Loaded) for each in reply)
        pixels = np.empty((loaded, self._crop_size, self._crop_size, 3), dtype=np.uint8)
        self.receive_into(pixels)
        rows = iter(pixels)
        for file in (file for file, each in zip(files, reply, strict=True) if isinstance(each, _Loaded)):
            if file.data is None and is_url(file.location):
                note_read(file.location)
        return [
            _to_loaded(file, each, rows) if isinstance(each, _Loaded) else each
            for file, each in zip(files, reply, strict=True)
        ]


def _to_loaded(file: ImageFile, found: _Loaded, pixels: Iterator[NDArray[np.uint8]]) -> LoadedImage:
    image = DecodedImage(pixels=next(pixels), width=found.width, height=found.height, format=found.format)
    return LoadedImage(file=replace(file, data=None), bytes=found.bytes, sha256=found.sha256, image=image)


def serve(preprocessing: Preprocessing, requests: IO[bytes], replies: IO[bytes]) -> None:
    """Answer requests for images until the stream ends."""
    with contextlib.suppress(EOFError, BrokenPipeError):
        send(replies, b"")
        while True:
            loaded = [_load(file, preprocessing) for file in pickle.loads(receive(requests))]  # noqa: S301 # the run's own
            reply: _Reply = [each[0] if isinstance(each, tuple) else each for each in loaded]
            send(replies, msgspec.msgpack.encode(reply))
            for each in loaded:
                if isinstance(each, tuple):
                    replies.write(each[1].data)
            replies.flush()


def _load(file: ImageFile, preprocessing: Preprocessing) -> tuple[_Loaded, NDArray[np.uint8]] | bytes | None:
    try:
        data = read_file(file)
    except (ImageError, DataError):
        return None
    try:
        image = decode_image(data, preprocessing, inline_limits(data))
    except ImageError:
        # Reading a disk twice is free; fetching from a store twice costs time and money.
        is_far = file.data is None and is_url(file.location)
        return data if is_far and len(data) <= MAX_BYTES_SENT_BACK else None
    sha256 = hashlib.sha256(data).hexdigest()
    found = _Loaded(bytes=len(data), sha256=sha256, width=image.width, height=image.height, format=image.format)
    return found, image.pixels


if __name__ == "__main__":
    serve(from_json(sys.argv[1].encode(), Preprocessing), *pipes())
