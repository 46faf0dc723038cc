"""Parity: one folder down both roads, through a running service and as `tandem batch` does it, and the scores compared.

Where engine and its version, kind of device, instruction set and precision are the same, both must give the same bits.
Elsewhere they must agree within the tolerance that the artifact has for its precision.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice, tee
from typing import TYPE_CHECKING

import numpy as np

from batch.inputs.plan import listed_images
from batch.pipeline.inference import batch_size_of, batched, score_batches
from batch.pipeline.reading import decode_threads, load_image, load_images, map_ahead, read_file, with_data
from classifier.errors import DataError, ImageError, ServiceError
from classifier.types import EngineInfo  # noqa: TC001 # msgspec reads the annotations
from parity.client import Answer, Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from batch.inputs.named import Input
    from batch.inputs.plan import ImageFile
    from batch.pipeline.inference import ScoredImage
    from batch.pipeline.reading import LoadedImage
    from classifier.model import Model
    from parity.client import ServedModel, ServiceClient

MAX_LISTED = 20
"""Disagreements that a report lists; it counts them all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """An image on which the roads differ by more than they may."""

    path: str
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityReport:
    """What the comparison found.

    Attributes:
        must_be_bit_equal: whether both run the same engine in the same way.
        tolerance: by how much a score may differ; 0 where it must be bit-equal.
        images: that both roads classified.
        bit_equal: how many of them got the same bits for every score.
        top1_equal: how many of them got the same top label.
        max_difference: the largest distance between the two scores of a label.
        refused: how many neither road could classify, both for the same reason.
        unread: how many could not be read, and were sent nowhere.
        disagreements: on how many images the roads differ by more than they may.
        listed: the first of those.
    """

    model: str
    service: str
    bulk_engine: EngineInfo
    service_engine: EngineInfo
    must_be_bit_equal: bool
    tolerance: float
    images: int
    bit_equal: int
    top1_equal: int
    max_difference: float
    refused: int
    unread: int
    disagreements: int
    listed: tuple[Disagreement, ...]
    in_parity: bool


def compare_roads(
    model: Model, client: ServiceClient, inputs: Sequence[Input], *, limit: int | None = None, concurrency: int = 8
) -> ParityReport:
    """Return what the service and a bulk run with `model` make of the same images, the first `limit` of them.

    Raises:
        DataError: a folder can't be listed, or there is no image that both roads classify.
        ServiceError: the service can't be used, or serves another model.
    """
    served = client.describe()
    if served.digest != model.digest:
        raise ServiceError(
            f"the service at {client.url} serves {served.model}, and here the model is {model.identity}; "
            "name the same model on both roads"
        )
    tally = _Tally(
        must_be_bit_equal=model.engine.info.bit_equal_to(served.engine), tolerance=_tolerance(model, served.engine)
    )
    for image, answer in _both_roads(model, client, served, inputs, limit=limit, concurrency=concurrency):
        tally.add(image, answer)
    if not tally.images and not tally.disagreements:
        raise DataError("neither road classified an image, so nothing is proved; name a folder with sound images")
    return ParityReport(
        model=model.identity,
        service=client.url,
        bulk_engine=model.engine.info,
        service_engine=served.engine,
        must_be_bit_equal=tally.must_be_bit_equal,
        tolerance=tally.tolerance,
        images=tally.images,
        bit_equal=tally.bit_equal,
        top1_equal=tally.top1_equal,
        max_difference=tally.max_difference,
        refused=tally.refused,
        unread=tally.unread,
        disagreements=tally.disagreements,
        listed=tuple(tally.listed),
        in_parity=tally.disagreements == 0,
    )


def _tolerance(model: Model, served: EngineInfo) -> float:
    """Return by how much a score may differ between this machine's engine and the service's."""
    info = model.engine.info
    if info.bit_equal_to(served):
        return 0.0
    try:
        return max(model.golden.tolerances[each.precision] for each in (info, served))
    except KeyError as error:
        raise ServiceError(
            f"{model.identity} has no tolerance for precision {error}, with which the service runs; "
            "export the model again"
        ) from error


def _both_roads(
    model: Model,
    client: ServiceClient,
    served: ServedModel,
    inputs: Sequence[Input],
    *,
    limit: int | None,
    concurrency: int,
) -> Iterator[tuple[ScoredImage, NDArray[np.float32] | Refusal | None]]:
    """Yield each image as the bulk road has it, and the service's scores, or its refusal; None where none was sent."""

    def ask(file: ImageFile) -> NDArray[np.float32] | Refusal | None:
        try:
            data = read_file(file)
        except ImageError:
            return None
        answer = client.classify(data, top_k=len(model.config.labels))
        return answer if isinstance(answer, Refusal) else _scores(answer, model, client, served)

    def load(files: Sequence[ImageFile]) -> list[LoadedImage]:
        return [load_image(file, model.decode) for file in files]

    to_send, to_load = tee(islice(with_data(listed_images(inputs)), limit))
    batch_size, threads = batch_size_of(model, None), decode_threads(None)
    with (
        closing(map_ahead(ask, to_send, threads=concurrency, ahead=2 * batch_size + concurrency)) as answers,
        closing(load_images(to_load, load, threads=threads, ahead=2 * batch_size)) as loaded,
        closing(score_batches(batched(loaded, batch_size), model)) as scored,
    ):
        yield from zip(chain.from_iterable(scored), answers, strict=True)


def _scores(answer: Answer, model: Model, client: ServiceClient, served: ServedModel) -> NDArray[np.float32]:
    """Return the scores of an answer in the order of the model's labels, float32 `[classes]`."""
    if (answer.digest, answer.engine) != (served.digest, served.engine):
        raise ServiceError(
            f"the service at {client.url} answered with {answer.digest} on {answer.engine} after it had "
            f"said {served.digest} on {served.engine}; compare with one replica, and while none is deployed"
        )
    scores = {prediction.label: prediction.score for prediction in answer.predictions}
    if scores.keys() != set(model.config.labels):
        raise ServiceError(
            f"the service at {client.url} answered {len(scores)} of the model's {len(model.config.labels)} labels; "
            "check that no proxy drops the query 'top_k'"
        )
    return np.array([scores[label] for label in model.config.labels], dtype=np.float32)


class _Tally:
    """The comparison, image by image. Its fields are those of `ParityReport`."""

    def __init__(self, *, must_be_bit_equal: bool, tolerance: float) -> None:
        self.must_be_bit_equal = must_be_bit_equal
        self.tolerance = tolerance
        self.images = self.bit_equal = self.top1_equal = self.refused = self.unread = self.disagreements = 0
        self.max_difference = 0.0
        self.listed: list[Disagreement] = []

    def add(self, image: ScoredImage, answer: NDArray[np.float32] | Refusal | None) -> None:
        """Compare one image: its scores on the bulk road with the service's answer."""
        bulk = image.loaded.image.reason if isinstance(image.loaded.image, ImageError) else image.scores
        if answer is None or image.loaded.sha256 is None:
            self.unread += 1
        elif isinstance(bulk, np.ndarray) and isinstance(answer, np.ndarray):
            self._compare(image, bulk, answer)
        elif isinstance(answer, Refusal) and bulk == answer.reason:
            self.refused += 1
        else:
            service = answer.reason if isinstance(answer, Refusal) else "ok"
            self._disagree(image, f"bulk says {bulk if isinstance(bulk, str) else 'ok'}, the service {service}")

    def _compare(self, image: ScoredImage, bulk: NDArray[np.float32], service: NDArray[np.float32]) -> None:
        same_bits = bulk.tobytes() == service.tobytes()
        difference = float(np.abs(bulk.astype(np.float64) - service).max())
        self.images += 1
        self.bit_equal += same_bits
        self.top1_equal += bool(bulk.argmax() == service.argmax())
        self.max_difference = max(self.max_difference, difference)
        # Written so that a NaN, which is equal to nothing, disagrees.
        if not (same_bits if self.must_be_bit_equal else difference <= self.tolerance):
            self._disagree(image, f"a score differs by {difference:.3g}")

    def _disagree(self, image: ScoredImage, what: str) -> None:
        self.disagreements += 1
        if len(self.listed) < MAX_LISTED:
            self.listed.append(Disagreement(path=image.loaded.file.printable_path, what=what))
