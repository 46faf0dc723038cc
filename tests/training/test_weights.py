"""Weights of torchvision and of other trainers, laid out as they are published and saved."""

from __future__ import annotations

import argparse
import os
import re
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from classifier.errors import DataError
from training.network import architectures, build_network, load_weights
from training.torchvision_compat import import_torchvision
from training.weights import load_own, with_versions

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    State = dict[str, torch.Tensor]


def before_counting(state: State) -> State:
    """As files from before BatchNorm counted its batches; they have no versions either."""
    return OrderedDict((key, value) for key, value in state.items() if not key.endswith("num_batches_tracked"))


def with_dots(state: State) -> State:
    """As torchvision's published densenets."""
    pattern = r"(denselayer\d+\.(?:norm|conv))([12])\."
    return OrderedDict((re.sub(pattern, r"\1.\2.", key), value) for key, value in before_counting(state).items())


def with_linear(state: State) -> State:
    """As torchvision's published vision transformers."""
    names = {"mlp.0.": "mlp.linear_1.", "mlp.3.": "mlp.linear_2."}
    return OrderedDict(
        (re.sub(r"mlp\.[03]\.", lambda match: names[match[0]], key), value) for key, value in state.items()
    )


def as_it_is(state: State) -> State:
    return state


PUBLISHED = {
    "resnet18": before_counting,
    "densenet121": with_dots,
    "vit_b_16": with_linear,
    "mnasnet0_5": as_it_is,
    "mobilenet_v3_small": as_it_is,
    "googlenet": before_counting,
}
OPTIONS = {name: {"init_weights": False} for name in ("googlenet", "inception_v3")}


def heads(network: nn.Module, published: State) -> set[str]:
    own = network.state_dict()
    return {key for key in own if key in published and own[key].shape != published[key].shape}


def equal_but_for(network: nn.Module, published: State, head: set[str]) -> bool:
    own = network.state_dict()
    return all(torch.equal(own[key], published[key]) for key in own.keys() - head)


@pytest.mark.parametrize("given", ["DEFAULT", "file"])
@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.reported("weights-default-as-published")
def test_weights_as_torchvision_publishes_them(
    name: str, given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old names and versions are converted as torchvision does it; the head for other classes stays new."""
    models = import_torchvision().models
    published = models.get_model(name, weights=None, **OPTIONS.get(name, {})).state_dict()
    # torch's download cache.
    file = tmp_path / "hub" / "checkpoints" / Path(models.get_model_weights(name).DEFAULT.url).name
    file.parent.mkdir(parents=True)
    torch.save(PUBLISHED[name](published), file)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    network = build_network(name, classes=3, image_size=224)
    load_weights(network, "DEFAULT" if given == "DEFAULT" else str(file), name, classes=3, image_size=224)
    head = heads(network, published)
    assert len(head) == 2
    assert equal_but_for(network, published, head)


def test_damaged_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the file in torch's cache, which must go before torch downloads it again."""
    models = import_torchvision().models
    file = tmp_path / "hub" / "checkpoints" / Path(models.get_model_weights("squeezenet1_1").DEFAULT.url).name
    file.parent.mkdir(parents=True)
    file.write_bytes(b"<html>proxy error</html>")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    network = build_network("squeezenet1_1", classes=3, image_size=32)
    with pytest.raises(DataError, match=f"{file} are damaged: delete the file"):
        load_weights(network, "DEFAULT", "squeezenet1_1", classes=3, image_size=32)


def test_weights_that_cannot_be_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error gives the URL for a manual download."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # Nobody listens there.
    network = build_network("mobilenet_v3_small", classes=3, image_size=32)
    with pytest.raises(DataError, match=r"can't be downloaded .*fetch https://.*mobilenet_v3_small.*--weights"):
        load_weights(network, "DEFAULT", "mobilenet_v3_small", classes=3, image_size=32)


SAVED_BY: dict[str, Callable[[nn.Module], Any]] = {
    "DataParallel": lambda network: torch.nn.DataParallel(network).state_dict(),
    "torch.compile": lambda network: torch.compile(network).state_dict(),  # type: ignore[attr-defined]
    "both": lambda network: torch.nn.DataParallel(torch.compile(network)).state_dict(),  # type: ignore[arg-type]
    "an average of weights": lambda network: AveragedModel(network).state_dict(),
    "a module around it": lambda network: {f"backbone.{key}": value for key, value in network.state_dict().items()},
    "a script": lambda network: {"state_dict": network.state_dict(), "epoch": 3, "best_acc1": 0.5},
    "torchvision's script": lambda network: {"model": network.state_dict(), "args": argparse.Namespace(lr=0.1)},
    "torch's tutorial": lambda network: {"model_state_dict": network.state_dict(), "loss": 0.3},
    "a distributed script": lambda network: {"state_dict": torch.nn.DataParallel(network).state_dict()},
    "a plain dict": lambda network: dict(network.state_dict()),
}


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch.compile imports what it deprecates
@pytest.mark.parametrize("name", ["squeezenet1_1", "mnasnet0_5"])
@pytest.mark.parametrize("trainer", SAVED_BY)
@pytest.mark.reported("weights-of-other-trainers")
def test_weights_of_other_trainers(name: str, trainer: str, tmp_path: Path) -> None:
    """Prefixes and wrappers of usual training scripts are taken off."""
    trained = build_network(name, classes=5, image_size=32)
    torch.save(SAVED_BY[trainer](trained), tmp_path / "saved.pt")
    network = build_network(name, classes=3, image_size=32)
    load_weights(network, str(tmp_path / "saved.pt"), name, classes=3, image_size=32)
    head = heads(network, trained.state_dict())
    assert len(head) == 2
    assert equal_but_for(network, trained.state_dict(), head)


@pytest.mark.parametrize("saved", [{}, {"state_dict": {}}, {"state_dict": [1]}, {"module.": torch.zeros(1)}])
def test_dicts_that_hold_no_weights(saved: object, tmp_path: Path) -> None:
    torch.save(saved, tmp_path / "saved.pt")
    network = build_network("small_cnn", classes=3, image_size=8)
    with pytest.raises(DataError):
        load_weights(network, str(tmp_path / "saved.pt"), "small_cnn", classes=3, image_size=8)


@pytest.mark.filterwarnings("ignore:A new version of MNASNet")
def test_weights_of_an_older_version(tmp_path: Path) -> None:
    """mnasnet's first version has another stem: it is trained and saved as that version, as in torchvision."""

    def first_version() -> State:
        network = build_network("mnasnet0_5", classes=3, image_size=32)
        empty: State = OrderedDict()
        empty._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
        network.load_state_dict(empty, strict=False)
        return network.state_dict()

    old = first_version()
    torch.save(old, tmp_path / "first.pt")
    network = build_network("mnasnet0_5", classes=3, image_size=32)
    assert network.state_dict()["layers.0.weight"].shape != old["layers.0.weight"].shape
    load_weights(network, str(tmp_path / "first.pt"), "mnasnet0_5", classes=3, image_size=32)
    assert equal_but_for(network, old, set())
    torch.save(with_versions(dict(network.state_dict()), network.state_dict()), tmp_path / "best.pt")
    exported = build_network("mnasnet0_5", classes=3, image_size=32)
    load_own(exported, torch.load(tmp_path / "best.pt", weights_only=True))
    assert equal_but_for(exported, old, set())


FEW = ("small_cnn", "resnet18", "mnasnet0_5", "densenet121", "squeezenet1_1", "googlenet", "regnet_x_400mf")


def names_of_networks() -> list[str]:
    """Return a few, or all, where TANDEM_TEST_NETWORKS=all says so: `nox -s networks`."""
    return architectures() if os.environ.get("TANDEM_TEST_NETWORKS") == "all" else list(FEW)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", names_of_networks())
@pytest.mark.parametrize("versioned", [True, False])
@pytest.mark.reported("export-mnasnet")
def test_checkpoint_round_trip(name: str, versioned: bool, tmp_path: Path) -> None:
    """What a run saves of a network, it loads; also as runs of earlier releases saved it, without versions."""
    size = 8 if name == "small_cnn" else 224
    trained = build_network(name, classes=3, image_size=size)
    state = {key: tensor.contiguous() for key, tensor in trained.state_dict().items()}
    torch.save(with_versions(state, trained.state_dict()) if versioned else state, tmp_path / "best.pt")
    del trained
    network = build_network(name, classes=3, image_size=size)
    load_own(network, torch.load(tmp_path / "best.pt", weights_only=True))
    assert equal_but_for(network, state, set())


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", [name for name in names_of_networks() if name != "small_cnn"])
def test_weights_of_every_network(name: str, tmp_path: Path) -> None:
    """Weights for a thousand classes start a run with three."""
    published = import_torchvision().models.get_model(name, weights=None, **OPTIONS.get(name, {})).state_dict()
    torch.save(published, tmp_path / "published.pt")
    network = build_network(name, classes=3, image_size=224)
    load_weights(network, str(tmp_path / "published.pt"), name, classes=3, image_size=224)
    head = heads(network, published)
    assert 1 <= len(head) <= 2
    assert equal_but_for(network, published, head)
