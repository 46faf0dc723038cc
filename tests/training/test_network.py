from __future__ import annotations

from pathlib import Path

import pytest
import torch

from classifier.errors import DataError
from training.network import build_network, load_weights, pretrained_preprocessing
from training.torchvision_compat import import_torchvision


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


@pytest.mark.parametrize(
    ("name", "options", "head"),
    [
        ("mobilenet_v3_small", {}, {"classifier.3.weight", "classifier.3.bias"}),
        ("googlenet", {"init_weights": False}, {"fc.weight", "fc.bias"}),
    ],
)
def test_torchvisions_weights(
    name: str, options: dict[str, bool], head: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DEFAULT loads all weights except the head, which has another number of classes, and the auxiliary heads."""
    models = import_torchvision().models
    published = models.get_model(name, weights=None, **options).state_dict()
    # torch's download cache.
    file = tmp_path / "hub" / "checkpoints" / Path(models.get_model_weights(name).DEFAULT.url).name
    file.parent.mkdir(parents=True)
    torch.save(published, file)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    network = build_network(name, classes=3, image_size=224)
    load_weights(network, "DEFAULT", name, classes=3, image_size=224)
    own = network.state_dict()
    assert {key for key in own if own[key].shape != published[key].shape} == head
    assert all(torch.equal(own[key], published[key]) for key in own.keys() - head)


def test_preprocessing_travels_with_the_weights() -> None:
    """Sizes, interpolation, mean and std are those of the weights."""
    preprocessing = pretrained_preprocessing("efficientnet_b0")
    assert (preprocessing.resize_size, preprocessing.crop_size, preprocessing.interpolation) == (256, 224, "bicubic")
    assert preprocessing.mean == (0.485, 0.456, 0.406)


def test_weights_that_cannot_be_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error gives the URL for a manual download."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # Nobody listens there.
    network = build_network("mobilenet_v3_small", classes=3, image_size=32)
    with pytest.raises(DataError, match=r"can't be downloaded .*fetch https://.*mobilenet_v3_small.*--weights"):
        load_weights(network, "DEFAULT", "mobilenet_v3_small", classes=3, image_size=32)
