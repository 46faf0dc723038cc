"""Images and networks that need no training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from classifier.artifact import EVALUATION
from classifier.types import from_json
from export.evaluation import Evaluation
from registry import LocalRegistry

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, int]]:
    """Return 40 images of three labels: noise around another colour for each."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    made = []
    for index in range(40):
        label = index % 3
        pixels = random.integers(0, 120, (24, 24, 3))
        pixels[..., label] += 80
        path = folder / f"{index:02}.png"
        Image.fromarray(pixels.astype(np.uint8)).save(path)
        made.append((path, label))
    return made


@pytest.fixture
def network() -> nn.Module:
    """Return a network that tells the colours of `samples` apart, though not always."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 3)).eval()


@pytest.fixture(scope="session")
def digits_evaluation(digits_home: Path) -> Evaluation:
    """Return the evaluation of the really trained digits."""
    return from_json(LocalRegistry(digits_home / "registry").resolve("digits:1").read(EVALUATION), Evaluation)
