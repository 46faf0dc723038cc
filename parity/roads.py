"""Compare the scores that a running service and a bulk run give to the same images.

If both run the same engine and version, kind of device, instruction set and precision, every bit must be equal.
Otherwise the scores must agree within the artifact's tolerance for the precisions.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice, tee
from typing import TYPE_CHECKING

import numpy as np

from batch.inputs.plan import listed_images
from batch.pipeline.ahead import map_ahead
from batch.pipeline.contained import Decoder
from batch.pipeline.inference import batch_size_of, batched, score_batches
from batch.pipeline.loading import decode_threads, load_images
from batch.pipeline.reading import read_file, with_data
from batch.pipeline.workers import Loader
from classifier.answers import Error
from classifier.errors import DataError, ImageError, ServiceError
from classifier.types import EngineInfo  # noqa: TC001 # msgspec reads the annotations

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from batch.inputs.named import Input
    from batch.inputs.plan import ImageFile
    from batch.pipeline.inference import ScoredImage
    from classifier.answers import Classification, ModelDescription
    from classifier.model import Model
    from parity.client import ServiceClient

MAX_LISTED = 20
"""How many disagreements a report lists. It counts all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """An image whose two results differ by more than allowed."""

    path: str
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityReport:
    """The result of a comparison.

    Attributes:
        must_be_bit_equal: whether both run the same engine in the same way.
        tolerance: the largest difference of a score that is allowed; 0 if scores must be bit-equal.
        images: images that both classified.
        bit_equal: those of them with the same bits in every score.
        top1_equal: those of them with the same top label.
        max_difference: the largest difference between the two scores of a label.
        refused: images that both refused for the same reason.
        unread: files that could not be read, so nothing was sent to the service.
        disagreements: images whose two results differ by more than allowed.
        listed: the first MAX_LISTED of those.
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
    """Return the comparison of the service with a bulk run of `model`, on the first `limit` images of `inputs`.

    Up to `concurrency` requests are sent at a time.

    Raises:
        DataError: a folder can't be listed, or neither side classified an image.
        ServiceError: the service can't be used, or serves another model.
    """
    served = client.describe()
    if served.digest != model.digest:
        raise ServiceError(
            f"the service at {client.url} serves {served.model}, but the bulk run uses {model.identity}; "
            "use the same model for both"
        )
    tally = _Tally(
        must_be_bit_equal=model.engine.info.bit_equal_to(served.engine), tolerance=_tolerance(model, served.engine)
    )
    for image, answer in _both_roads(model, client, served, inputs, limit=limit, concurrency=concurrency):
        tally.add(image, answer)
    if not tally.images and not tally.disagreements:
        raise DataError(
            "neither the service nor the bulk run classified an image, so nothing was compared; "
            "choose a folder with valid images"
        )
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
    """Return the largest allowed difference between a score from this machine's engine and one from the service's."""
    info = model.engine.info
    if info.bit_equal_to(served):
        return 0.0
    try:
        return max(model.golden.tolerances[each.precision] for each in (info, served))
    except KeyError as error:
        raise ServiceError(
            f"{model.identity} has no tolerance for precision {error}, which the service runs; export the model again"
        ) from error


def _both_roads(
    model: Model,
    client: ServiceClient,
    served: ModelDescription,
    inputs: Sequence[Input],
    *,
    limit: int | None,
    concurrency: int,
) -> Iterator[tuple[ScoredImage, NDArray[np.float32] | Error | None]]:
    """Yield each image with its bulk result, and the service's scores or error; None if its file could not be read."""

    def ask(file: ImageFile) -> NDArray[np.float32] | Error | None:
        try:
            data = read_file(file)
        except ImageError:
            return None
        answer = client.classify(data, top_k=len(model.config.labels))
        return answer if isinstance(answer, Error) else _scores(answer, model, client, served)

    preprocessing = model.config.preprocessing
    to_send, to_load = tee(islice(with_data(listed_images(inputs)), limit))
    batch_size, threads = batch_size_of(model, None), decode_threads(None)
    with (
        # The bulk run's own: large images are decoded in processes of their own, within its limits.
        Decoder(preprocessing) as decode,
        closing(Loader(preprocessing, processes=threads)) as load,
        closing(map_ahead(ask, to_send, threads=concurrency, ahead=2 * batch_size + concurrency)) as answers,
        closing(load_images(to_load, partial(load, decode=decode), threads=threads, ahead=2 * batch_size)) as loaded,
        closing(score_batches(batched(loaded, batch_size), model)) as scored,
    ):
        yield from zip(chain.from_iterable(scored), answers, strict=True)


def _scores(
    answer: Classification, model: Model, client: ServiceClient, served: ModelDescription
) -> NDArray[np.float32]:
    """Return the scores of an answer in the order of the model's labels, float32 `[classes]`."""
    if (answer.digest, answer.engine) != (served.digest, served.engine):
        raise ServiceError(
            f"the service at {client.url} answered with {answer.digest} on {answer.engine}, but described itself as "
            f"{served.digest} on {served.engine}; compare with a single replica, and not during a deployment"
        )
    scores = {prediction.label: prediction.score for prediction in answer.predictions}
    if scores.keys() != set(model.config.labels):
        raise ServiceError(
            f"the service at {client.url} returned {len(scores)} of the model's {len(model.config.labels)} labels; "
            "check that no proxy drops the query parameter 'top_k'"
        )
    return np.array([scores[label] for label in model.config.labels], dtype=np.float32)


class _Tally:
    """Counts the comparison, image by image. The fields mean the same as in `ParityReport`."""

    def __init__(self, *, must_be_bit_equal: bool, tolerance: float) -> None:
        self.must_be_bit_equal = must_be_bit_equal
        self.tolerance = tolerance
        self.images = self.bit_equal = self.top1_equal = self.refused = self.unread = self.disagreements = 0
        self.max_difference = 0.0
        self.listed: list[Disagreement] = []

    def add(self, image: ScoredImage, answer: NDArray[np.float32] | Error | None) -> None:
        """Add the comparison of one image."""
        bulk = image.loaded.image.reason if isinstance(image.loaded.image, ImageError) else image.scores
        if answer is None or image.loaded.sha256 is None:
            self.unread += 1
        elif isinstance(bulk, np.ndarray) and isinstance(answer, np.ndarray):
            self._compare(image, bulk, answer)
        elif isinstance(answer, Error) and bulk == answer.reason:
            self.refused += 1
        else:
            service = answer.reason if isinstance(answer, Error) else "ok"
            self._disagree(image, f"bulk says {bulk if isinstance(bulk, str) else 'ok'}, the service {service}")

    def _compare(self, image: ScoredImage, bulk: NDArray[np.float32], service: NDArray[np.float32]) -> None:
        same_bits = bulk.tobytes() == service.tobytes()
        difference = float(np.abs(bulk.astype(np.float64) - service).max())
        self.images += 1
        self.bit_equal += same_bits
        self.top1_equal += bool(bulk.argmax() == service.argmax())
        self.max_difference = max(self.max_difference, difference)
        # `not (… <= …)`: a NaN compares false, so it disagrees.
        if not (same_bits if self.must_be_bit_equal else difference <= self.tolerance):
            self._disagree(image, f"a score differs by {difference:.3g}")

    def _disagree(self, image: ScoredImage, what: str) -> None:
        self.disagreements += 1
        if len(self.listed) < MAX_LISTED:
            self.listed.append(Disagreement(path=image.loaded.file.printable_path, what=what))
