"""The golden set and its replay: what differs fails, whatever the way in which it differs."""

from __future__ import annotations

import contextlib
import io
import warnings
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifier.artifact import GOLDEN
from classifier.errors import DamagedArtifact, SelfTestFailed
from classifier.golden import GoldenSet
from classifier.selftest import self_test

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from classifier.engines import Engine
    from classifier.model import Model
    from classifier.types import EngineInfo

golden_sets = st.builds(
    lambda images, classes, tolerance: GoldenSet(
        images=tuple(images),
        scores=np.full((len(images), classes), 1 / classes, np.float32),
        tolerances={"fp32": tolerance},
    ),
    st.lists(st.binary(max_size=50), min_size=1, max_size=5),
    st.integers(2, 5),
    st.floats(0, 1),
)


@given(golden=golden_sets)
def test_golden_set_round_trip(golden: GoldenSet) -> None:
    """What is written is what is read, and the same set is the same bytes: it is part of a digest."""
    data = golden.to_bytes()
    again = GoldenSet.from_bytes(data)
    assert again.images == golden.images
    assert again.scores.tobytes() == golden.scores.tobytes()
    assert again.tolerances == golden.tolerances
    assert again.to_bytes() == data


def test_golden_set_bytes_do_not_depend_on_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Written on another day, in another time zone, a set is the same bytes."""
    golden = GoldenSet(images=(b"image",), scores=np.ones((1, 2), np.float32), tolerances={"fp32": 1e-4})
    data = golden.to_bytes()
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.0)
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    assert golden.to_bytes() == data


@given(data=st.data())
def test_corrupt_golden_set(digits_files: dict[str, bytes], data: st.DataObject) -> None:
    """A golden set that was cut or altered is read, or is damage: no other exception gets out."""
    whole = digits_files[GOLDEN]
    end = data.draw(st.just(len(whole)) | st.integers(0, len(whole)))
    corrupt = bytearray(whole[:end])
    for position in data.draw(st.lists(st.integers(0, max(end - 1, 0)), max_size=4)) if end else []:
        corrupt[position] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DamagedArtifact):
        GoldenSet.from_bytes(bytes(corrupt))


def npz(**arrays: object) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]  # objects are what this is about
    return file.getvalue()


def npy(array: NDArray[np.float32]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def with_claim(shape: str) -> bytes:
    """Return a golden set whose scores say that they have this shape."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}".encode()
    file = io.BytesIO(npz(**GOOD))
    with zipfile.ZipFile(file, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has two of this name, of which the last counts
        archive.writestr("scores.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    return file.getvalue()


def compressed(size: int) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **GOOD | {"images": np.zeros(size, np.uint8), "offsets": np.array([0, 1, size])})
    return file.getvalue()


GOOD = {
    "images": np.frombuffer(b"ab", np.uint8),
    "offsets": np.array([0, 1, 2]),
    "scores": np.ones((2, 3), np.float32),
    "precisions": np.array(["fp32"]),
    "tolerances": np.array([1e-4]),
}


def test_the_good_one_is_good() -> None:
    """The cases below fail for what they change, not for what they share."""
    assert GoldenSet.from_bytes(npz(**GOOD)).images == (b"a", b"b")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a zip",
        npy(np.ones(3, np.float32)),
        npz(images=GOOD["images"]),
        npz(**GOOD | {"scores": np.array([{"a": 1}, None], dtype=object)}),
        npz(**GOOD | {"scores": np.ones((2, 3), np.float64)}),
        npz(**GOOD | {"scores": np.ones((3, 3), np.float32)}),
        npz(**GOOD | {"offsets": np.array([0, 2])}),
        npz(**GOOD | {"offsets": np.array([0, 2, 1])}),
        npz(**GOOD | {"offsets": np.array([0, 1, 3])}),
        npz(**GOOD | {"offsets": np.array([], np.int64)}),
        npz(**GOOD | {"offsets": np.array(7)}),
        npz(**GOOD | {"tolerances": np.array([1e-4, 1e-3])}),
        npz(**GOOD | {"tolerances": np.array([np.nan])}),
        npz(**GOOD | {"tolerances": np.array([-1.0])}),
        with_claim(f"({10**15},)"),
        with_claim(f"({10**30},)"),
        with_claim("(" * 150 + "1" + ")" * 150),
        compressed(10**8),
    ],
    ids=[
        "empty", "text", "an .npy", "fields missing", "pickled", "float64", "too many scores", "offset missing",
        "offsets fall", "offsets past the end", "no offsets", "offsets no list", "tolerances of nothing",
        "tolerance NaN", "tolerance below 0", "petabytes", "more than a size can be", "nested", "a bomb",
    ],
)  # fmt: skip
def test_malformed_golden_set(data: bytes) -> None:
    """Each way of being malformed is damage, with a remedy; a pickle is never opened."""
    with pytest.raises(DamagedArtifact, match=r"golden.npz of the model is not a golden set \(.+\); export the model"):
        GoldenSet.from_bytes(data)


# The replay


def with_golden(model: Model, golden: GoldenSet) -> Model:
    return replace(model, golden=golden)


class Altered:
    """The engine of a model, whose scores are altered on their way out."""

    def __init__(self, engine: Engine, alter: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> None:
        self.engine, self.alter = engine, alter

    @property
    def info(self) -> EngineInfo:
        return self.engine.info

    def run(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self.alter(self.engine.run(images_nhwc))


def altered(model: Model, alter: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> Model:
    return replace(model, engine=Altered(model.engine, alter))


def test_trained_model_passes(digits_model: Model) -> None:
    """A model gives the scores here that torch gave, and the report says how near."""
    report = self_test(digits_model)
    assert report.images == len(digits_model.golden.images)
    assert 0 <= report.max_difference <= report.tolerance == digits_model.golden.tolerances["fp32"]
    assert report.engine == digits_model.engine.info


def test_one_altered_score_fails(digits_model: Model) -> None:
    """One score of one image, further away than the tolerance, fails the model; nearer, it passes."""
    golden = digits_model.golden
    for distance, passes in ((2.0, False), (0.5, True)):
        scores = golden.scores.copy()
        scores[-1, 3] += np.float32(distance * golden.tolerances["fp32"])
        model = with_golden(digits_model, replace(golden, scores=scores))
        if passes:
            self_test(model)
        else:
            with pytest.raises(SelfTestFailed, match=r"a score is 0\.0002 away from the expected one, and 0\.0001 is"):
                self_test(model)


def test_nan_fails(digits_model: Model) -> None:
    """A NaN, which no comparison is true of, fails: expected or found."""
    scores = digits_model.golden.scores.copy()
    scores[0, 0] = np.nan
    with pytest.raises(SelfTestFailed, match="a score is nan away"):
        self_test(with_golden(digits_model, replace(digits_model.golden, scores=scores)))
    with pytest.raises(SelfTestFailed, match="a score is nan away"):
        self_test(altered(digits_model, lambda scores: np.full_like(scores, np.nan)))


def test_scores_that_depend_on_neighbours_fail(digits_model: Model) -> None:
    """One bit that an image's neighbours change fails the model, however near the scores are."""

    def last_bit(scores: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.nextafter(scores, np.float32(1)) if len(scores) > 1 else scores

    with pytest.raises(SelfTestFailed, match="an image's scores depend on the images beside it"):
        self_test(altered(digits_model, last_bit))


def test_golden_image_that_does_not_decode(digits_model: Model) -> None:
    golden = replace(digits_model.golden, images=(b"no image", *digits_model.golden.images[1:]))
    with pytest.raises(SelfTestFailed, match="a golden image does not decode here"):
        self_test(with_golden(digits_model, golden))


def test_golden_set_of_another_model(digits_model: Model) -> None:
    """A golden set with another number of classes, or no tolerance for what runs, is damage."""
    scores = digits_model.golden.scores[:, :9]
    with pytest.raises(DamagedArtifact, match=r"has scores \[\d+, 9\] where the graph gives \[\d+, 10\]"):
        self_test(with_golden(digits_model, replace(digits_model.golden, scores=scores)))
    with pytest.raises(DamagedArtifact, match="has no tolerance for precision 'fp32'"):
        self_test(with_golden(digits_model, replace(digits_model.golden, tolerances={})))


def test_an_engine_reads_as_one_line(digits_model: Model) -> None:
    info = replace(digits_model.engine.info, version="1.31.1", instruction_set="avx2")
    assert str(info) == "onnxruntime 1.31.1, cpu (avx2), fp32"
    info = replace(info, device="cuda:0", instruction_set="sm_90", batch_size=32)
    assert str(info) == "onnxruntime 1.31.1, cuda:0 (sm_90), fp32, batches of 32"
