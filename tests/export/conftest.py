"""Images, networks that need no training, and the trained digits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from registry import Artifact, LocalRegistry

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, int]]:
    """Return 40 images of three labels: noise with a different tint for each label."""
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
    """Return a network that tells most of `samples` apart."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 3)).eval()


@pytest.fixture
def colour_network() -> nn.Module:
    """Return a network that classifies all of `samples` correctly, and needs every layer for that."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 3),
    )  # fmt: skip
    first, second, last = network[0], network[2], network[6]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(0.02)
        for colour in range(3):
            first.weight[colour + 1, colour] += 1 / 9
            second.weight[colour + 1, colour + 1] += 1
            last.weight[colour, colour + 1] += 3
        first.bias += 3  # above zero, so that Relu changes nothing
    return network.eval()


@pytest.fixture
def sensitive_network(colour_network: nn.Module) -> nn.Module:
    """Return that network with a huge channel in its first layer, which the second layer ignores.

    In 256 levels over that channel's range, all other channels become zero, so the second layer can't be in int8.
    """
    first, second = colour_network[0], colour_network[2]
    with torch.no_grad():
        first.weight[0] = 1e4
        first.bias[0] = 3e5
        second.weight[:, 0] = 0
    return colour_network


@pytest.fixture(scope="session")
def artifact(digits_home: Path) -> Artifact:
    """Return the trained model `digits:1`."""
    return LocalRegistry(digits_home / "registry").resolve("digits:1")
