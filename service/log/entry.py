"""What the service enters into the prediction log, and the limits on it."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 # msgspec reads the annotations

import msgspec

from classifier.types import EngineInfo, Prediction  # noqa: TC001 # msgspec reads the annotations

MAX_TOP_K = 20
"""Labels of an answer that are kept, the highest first. A client may ask for all labels of a model."""


class LogEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One image of one request.

    A struct, because it is made on the event loop: a frozen dataclass takes longer.

    Attributes:
        time_utc: when the request arrived; aware.
        request_id: the request's id. An id that a client uses twice gets the feedback for both.
        image_index: position of the image in the request, from 0.
        sha256: of the image's bytes, in hex; None if they did not arrive.
        bytes: size of the image; None if it did not arrive.
        model: the identity, `digits@sha256:…`.
        digest: of that model, `sha256:…`.
        engine: what runs the model.
        top_k: the answer, the highest score first; empty if the image was refused.
        queue_ms: from the complete body until the image was taken up. This and the next two are None if the step was
            not reached, or the answer came from the cache.
        decode_ms: bytes → pixels.
        inference_ms: pixels → scores; of the whole execution, which other images may have shared.
        total_ms: from the request line to the answer.
        status: the HTTP status; of an image in a batch, the one that it would have got alone.
        reason: why it was refused, in one word; None if it was not.
        client: the name of the API key; None without keys.
        cached: whether the answer came from the result cache.
    """

    time_utc: datetime
    request_id: str
    model: str
    digest: str
    engine: EngineInfo
    status: int
    image_index: int = 0
    sha256: str | None = None
    bytes: int | None = None
    top_k: tuple[Prediction, ...] = ()
    queue_ms: float | None = None
    decode_ms: float | None = None
    inference_ms: float | None = None
    total_ms: float | None = None
    reason: str | None = None
    client: str | None = None
    cached: bool = False


class Truth(msgspec.Struct, frozen=True, kw_only=True):
    """The true label of an image, as a client reported it.

    Attributes:
        time_utc: when it was reported; aware.
        request_id: of the request that held the image.
        image_index: position of the image in the request, from 0.
    """

    time_utc: datetime
    request_id: str
    image_index: int
    label: str


def within_limits(entry: LogEntry) -> LogEntry:
    """Return `entry` with no more than the labels that are kept."""
    return entry if len(entry.top_k) <= MAX_TOP_K else msgspec.structs.replace(entry, top_k=entry.top_k[:MAX_TOP_K])
