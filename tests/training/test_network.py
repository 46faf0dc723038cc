from __future__ import annotations

import pytest
import torch

from training.network import build_network, pretrained_preprocessing


@pytest.mark.parametrize("size", [8, 9, 28, 33, 64])
def test_small_cnn_takes_any_small_image(size: int) -> None:
    """Sizes may be odd, and need not be powers of two."""
    network = build_network("small_cnn", classes=5, image_size=size)
    assert network(torch.zeros(2, 3, size, size)).shape == (2, 5)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3", "vit_b_32", "squeezenet1_1"])
def test_networks_with_special_options(name: str) -> None:
    """Networks return no auxiliary logits in training, and transformers are built for the image size."""
    network = build_network(name, classes=5, image_size=96).train()
    assert network(torch.zeros(2, 3, 96, 96)).shape == (2, 5)


def test_preprocessing_travels_with_the_weights() -> None:
    """Sizes, interpolation, mean and std are those of the weights."""
    preprocessing = pretrained_preprocessing("efficientnet_b0")
    assert (preprocessing.resize_size, preprocessing.crop_size, preprocessing.interpolation) == (256, 224, "bicubic")
    assert preprocessing.mean == (0.485, 0.456, 0.406)
