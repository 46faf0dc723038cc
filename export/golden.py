"""The choice of validation images for the golden set."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING

from classifier.artifact import GOLDEN, MAX_BYTES
from classifier.golden import GoldenSet
from classifier.images import read_image

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from classifier.types import Precision
    from export.images import LabelledImages

MAX_IMAGES = 16
MAX_TOTAL_BYTES = MAX_BYTES[GOLDEN] // 2


def make_golden_set(
    images: LabelledImages, reference: NDArray[np.float32], *, tolerances: Mapping[Precision, float]
) -> GoldenSet:
    """Return a few validation images as encoded on disk, with torch's fp32 scores for them."""
    chosen = choose([file.stat().st_size for file in images.files], images.truth, reference)
    return GoldenSet(
        images=tuple(read_image(images.files[index]) for index in chosen),
        scores=reference[chosen],
        tolerances=tolerances,
    )


def choose(sizes_bytes: Sequence[int], truth: NDArray[np.int64], reference: NDArray[np.float32]) -> list[int]:
    """Return the indices of up to `MAX_IMAGES` images: the least certain one, and small ones of many labels.

    Together they have at most `MAX_TOTAL_BYTES`. The least certain image comes from the smaller half, because an
    artifact is copied often. The same images give the same choice.
    """
    by_size = sorted(range(len(sizes_bytes)), key=lambda index: (sizes_bytes[index], index))
    smaller_half = by_size[: (len(by_size) + 1) // 2]
    least_certain = min(smaller_half, key=lambda index: (reference[index].max(), index))
    # First the smallest image of each label, then the second smallest of each, and so on.
    turns: Counter[int] = Counter()
    turn_of = {}
    for index in by_size:
        label = int(truth[index])
        turn_of[index] = turns[label]
        turns[label] += 1
    in_turn = sorted(by_size, key=turn_of.__getitem__)  # stable: by size within a turn
    chosen = list(dict.fromkeys([least_certain, *in_turn]))[:MAX_IMAGES]
    total_bytes = itertools.accumulate(sizes_bytes[index] for index in chosen)
    within = [index for index, total in zip(chosen, total_bytes, strict=True) if total <= MAX_TOTAL_BYTES]
    return sorted(within or chosen[:1])
