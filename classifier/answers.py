"""The JSON answers of a Tandem service: the service encodes them with `msgspec`, and clients decode the same types.

Class names and docstrings are public: they become the schemas of the service's OpenAPI document.
"""

from __future__ import annotations

from dataclasses import dataclass

from classifier.types import EngineInfo, Prediction, Preprocessing  # noqa: TC001 # msgspec reads the annotations

DEFAULT_TOP_K = 5
"""Labels of an answer, if the request does not say how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification:
    """The answer of `POST /classify`.

    Attributes:
        predictions: the labels with the highest scores, the highest first.
        model: what classified the image, `digits@sha256:…`.
        digest: of that model, `sha256:…`.
        engine: what ran the model.
    """

    predictions: tuple[Prediction, ...]
    model: str
    digest: str
    engine: EngineInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfTest:
    """The self-test that the model has passed before the service was ready.

    Attributes:
        images: how many golden images were replayed.
        tolerance: by how much a score was allowed to differ from the expected one.
    """

    images: int
    tolerance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDescription:
    """The answer of `GET /model`.

    Attributes:
        model: the identity, `digits@sha256:…`.
        labels: the classes, in the order of `Prediction.index`.
    """

    model: str
    name: str
    digest: str
    architecture: str
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    engine: EngineInfo
    self_test: SelfTest


@dataclass(frozen=True, slots=True, kw_only=True)
class Error:
    """Why a request was refused.

    Attributes:
        reason: the kind of failure in one word, stable across releases.
        message: a sentence for people.
        request_id: of the request, as in the service's log; null for one image of several, and for what is not HTTP.
    """

    reason: str
    message: str
    request_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchItem:
    """The result of one image of `POST /classify_batch`: `predictions`, or `error`; the other is null."""

    predictions: tuple[Prediction, ...] | None = None
    error: Error | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchClassification:
    """The answer of `POST /classify_batch`.

    Attributes:
        results: one for each image, in the order of the images.
        model: what classified the images, `digits@sha256:…`.
        digest: of that model, `sha256:…`.
        engine: what ran the model.
    """

    results: tuple[BatchItem, ...]
    model: str
    digest: str
    engine: EngineInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """The answer to a request that was refused."""

    error: Error
