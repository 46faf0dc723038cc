"""Which validation images become the golden set, and how near their scores must come."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from classifier.images import read_image
from classifier.selftest import GoldenSet

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from classifier.types import Precision
    from export.scoring import ScoredImages

MAX_IMAGES = 16
TOLERANCE_FLOOR = 1e-4
"""What another CPU's kernels may differ by, however near the exporting machine's came."""


def make_golden_set(scored: ScoredImages, *, precision: Precision, max_difference: float) -> GoldenSet:
    """Return a few validation images as they are on disk, with the scores that torch gives them in fp32.

    Args:
        scored: the validation images.
        precision: at which `max_difference` was measured.
        max_difference: the largest distance of a score from torch's; twice that is tolerated.
    """
    chosen = choose([file.stat().st_size for file in scored.files], scored.truth, scored.reference)
    return GoldenSet(
        images=tuple(read_image(scored.files[index]) for index in chosen),
        scores=scored.reference[chosen],
        tolerances={precision: max(TOLERANCE_FLOOR, 2 * max_difference)},
    )


def choose(sizes_bytes: Sequence[int], truth: NDArray[np.int64], reference: NDArray[np.float32]) -> list[int]:
    """Return the indices of up to `MAX_IMAGES` images: the least certain one, and small ones of many labels.

    An artifact is copied often, so nothing of the larger half is taken for its uncertainty. The same images give the
    same choice.
    """
    by_size = sorted(range(len(sizes_bytes)), key=lambda index: (sizes_bytes[index], index))
    smaller_half = by_size[: (len(by_size) + 1) // 2]
    least_certain = min(smaller_half, key=lambda index: (reference[index].max(), index))
    # The smallest of each label, then the second smallest of each, and so on.
    turns: Counter[int] = Counter()
    turn_of = {}
    for index in by_size:
        label = int(truth[index])
        turn_of[index] = turns[label]
        turns[label] += 1
    in_turn = sorted(by_size, key=turn_of.__getitem__)  # A stable sort: by size within a turn.
    return sorted(list(dict.fromkeys([least_certain, *in_turn]))[:MAX_IMAGES])
