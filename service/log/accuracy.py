"""The live accuracy of a model, with how sure it is."""

from __future__ import annotations

import math
from dataclasses import dataclass

_Z = 1.959963984540054
"""The 97.5 % quantile of the normal distribution: 95 % of it lie between -z and z."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """How often the top label was the true one, where feedback says so.

    Attributes:
        images: with feedback.
        correct: of these.
        acc1: the share of correct ones, `correct / images`.
        low: lower end of its 95 % confidence interval (Wilson's).
        high: upper end.
    """

    images: int
    correct: int
    acc1: float
    low: float
    high: float

    @classmethod
    def of(cls, correct: int, images: int) -> Accuracy | None:
        """Return the accuracy, with the interval of Wilson (1927); None without images."""
        if images == 0:
            return None
        acc1, z2 = correct / images, _Z**2
        centre = acc1 + z2 / (2 * images)
        half = _Z * math.sqrt(acc1 * (1 - acc1) / images + z2 / (4 * images**2))
        scale = 1 + z2 / images
        low, high = max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)
        # Rounding must not leave the share outside.
        return cls(images=images, correct=correct, acc1=acc1, low=min(low, acc1), high=max(high, acc1))
