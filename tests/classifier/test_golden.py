"""The file of a golden set: read back as it was written, or reported as damaged."""

from __future__ import annotations

import contextlib
import io
import warnings
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from classifier.artifact import GOLDEN
from classifier.errors import DamagedArtifact
from classifier.golden import GoldenSet

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
    """A set is read back as it was written, and equal sets give equal bytes, since they are part of a digest."""
    data = golden.to_bytes()
    again = GoldenSet.from_bytes(data)
    assert again.images == golden.images
    assert again.scores.tobytes() == golden.scores.tobytes()
    assert again.tolerances == golden.tolerances
    assert again.to_bytes() == data


def test_golden_set_bytes_do_not_depend_on_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A set gives the same bytes on another day and in another time zone."""
    golden = GoldenSet(images=(b"image",), scores=np.ones((1, 2), np.float32), tolerances={"fp32": 1e-4})
    data = golden.to_bytes()
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.0)
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    assert golden.to_bytes() == data


@given(data=st.data())
def test_corrupt_golden_set(digits_files: dict[str, bytes], data: st.DataObject) -> None:
    """A cut or altered golden set is read or is a DamagedArtifact; no other exception gets out."""
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
    """Return a golden set whose scores claim this shape."""
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


def many_images(count: int) -> bytes:
    """Return a golden set of empty images."""
    return npz(
        **GOOD
        | {"offsets": np.zeros(count + 1, np.int64), "scores": np.zeros((count, 1), np.float32), "images": np.zeros(0)}
    )


def many_members(count: int) -> bytes:
    """Return a golden set among `count` empty members."""
    listed = b"PK\1\2" + bytes(42) + b"x"
    good = npz(**GOOD)
    start = good.rindex(b"PK\5\6")
    size = len(listed) * count
    end = (
        b"PK\5\6" + bytes(4) + b"\xff\xff\xff\xff" + size.to_bytes(4, "little") + start.to_bytes(4, "little") + bytes(2)
    )
    return good[:start] + listed * count + end


GOOD = {
    "images": np.frombuffer(b"ab", np.uint8),
    "offsets": np.array([0, 1, 2]),
    "scores": np.ones((2, 3), np.float32),
    "precisions": np.array(["fp32"]),
    "tolerances": np.array([1e-4]),
}


def test_the_good_one_is_good() -> None:
    """The set that the cases below change is valid."""
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
        many_images(200_000),
        many_images(2**22),
        many_members(200_000),
    ],
    ids=[
        "empty", "text", "an .npy", "fields missing", "pickled", "float64", "too many scores", "offset missing",
        "offsets fall", "offsets past the end", "no offsets", "offsets no list", "tolerances of nothing",
        "tolerance NaN", "tolerance below 0", "petabytes", "more than a size can be", "nested", "a bomb",
        "200,000 images", "millions of images", "many members",
    ],
)  # fmt: skip
def test_malformed_golden_set(data: bytes) -> None:
    """A malformed set is a DamagedArtifact with a remedy; a pickle is never opened."""
    with pytest.raises(DamagedArtifact, match=r"golden.npz of the model is not a golden set \(.+\); export the model"):
        GoldenSet.from_bytes(data)
