from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from classifier.errors import ExportRefused
from classifier.types import Preprocessing
from export.graphs.graph import MAX_WEIGHT_BYTES, EndToEnd, check_graph, export_graph, find_head
from tests.conftest import ROOT
from training.data.tensors import normalise
from training.network import build_network
from training.torchvision_compat import import_torchvision

PREPROCESSING = Preprocessing(resize_size=40, crop_size=32, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
LABELS = ("cat", "dog", "a bird, 'seen'", "ünïcode")


def small_network(classes: int = len(LABELS)) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, classes),
    ).eval()


@pytest.fixture(scope="module")
def graph() -> bytes:
    return export_graph(small_network(), LABELS, PREPROCESSING)


def random_images(n: int, size: int = 32) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def run(graph: bytes, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    logits, probabilities = session.run(["logits", "probabilities"], {"images": images})
    return logits, probabilities


@pytest.mark.parametrize("batch", [0, 1, 2, 5])
def test_any_batch_size_gives_the_scores_of_the_network_on_normalised_pixels(graph: bytes, batch: int) -> None:
    """The graph takes uint8 NHWC from the decoder: it includes cast, normalisation and transposition."""
    images = random_images(batch)
    logits, probabilities = run(graph, images)

    mean, std = np.float32(PREPROCESSING.mean), np.float32(PREPROCESSING.std)
    normalised = ((images.astype(np.float32) / 255 - mean) / std).transpose(0, 3, 1, 2)
    with torch.inference_mode():
        expected = small_network()(torch.from_numpy(normalised.copy()))

    assert logits.dtype == probabilities.dtype == np.float32
    assert logits.shape == probabilities.shape == (batch, len(LABELS))
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(probabilities, torch.softmax(expected, 1).numpy(), atol=1e-5)


def test_the_file_describes_its_input_and_output_by_itself(graph: bytes) -> None:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    assert tuple(json.loads(metadata["labels"])) == LABELS
    assert json.loads(metadata["preprocessing"])["resize_size"] == 40
    (images,) = session.get_inputs()
    assert (images.name, images.type, images.shape) == ("images", "tensor(uint8)", ["N", 32, 32, 3])
    assert {(o.name, o.type, tuple(o.shape)) for o in session.get_outputs()} == {
        (name, "tensor(float)", ("N", len(LABELS))) for name in ("logits", "probabilities")
    }


def test_the_file_has_no_traces_of_the_exporting_machine(graph: bytes) -> None:
    for trace in (ROOT, Path.cwd(), Path.home(), torch.__file__, "site-packages", ".py", "stack_trace", "namespace"):
        assert str(trace).encode() not in graph


def test_every_initializer_is_inside_the_file(graph: bytes) -> None:
    model = onnx.load_model_from_string(graph)
    assert model.graph.initializer
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in model.graph.initializer)
    assert model.opset_import[0].version == 20


def test_the_same_network_gives_the_same_bytes(graph: bytes) -> None:
    assert export_graph(small_network(), LABELS, PREPROCESSING) == graph


class Transposed(nn.Module):
    """Returns `[classes, N]`."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3)).T


class FixedBatch(nn.Module):
    """Only runs two images, the number in the exporter's sample."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3)).reshape(2, 3)


class DataDependent(nn.Module):
    """Branches on its input, which a graph can't."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores = images.mean(dim=(2, 3))
        return scores if scores.sum() > 0 else -scores


class NoSuchOperator(nn.Module):
    """Uses an operator that ONNX lacks."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(images.mean(dim=(2, 3)))


@pytest.mark.parametrize(
    ("network", "fact"),
    [
        (small_network(7), r"returns scores of shape \(2, 7\), but 3 labels need \(2, 3\)"),
        (Transposed(), r"returns scores of shape \(3, 2\)"),
        (FixedBatch(), "must take any batch size"),
        (DataDependent(), "can't write the network as ONNX opset 20 .*data-dependent"),
        (NoSuchOperator(), "can't write the network as ONNX opset 20 .*bessel_j0"),
    ],
)
def test_an_unusable_network_is_refused_in_one_sentence(
    network: nn.Module, fact: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """torch prints pages about its internal graph on such a failure; the user only gets the reason."""
    with pytest.raises(ExportRefused, match=fact) as refused:
        export_graph(network, LABELS[:3], PREPROCESSING)
    assert "\n" not in str(refused.value)
    assert capfd.readouterr() == ("", "")


def test_weights_too_large_for_one_onnx_file_are_refused_before_any_work() -> None:
    with torch.device("meta"):
        network = nn.Linear(MAX_WEIGHT_BYTES // 4000 + 1, 1000, bias=False)
    with pytest.raises(ExportRefused, match=r"weights take 2\.0 GB, but one ONNX file holds at most 2\.0 GB"):
        export_graph(network, LABELS, PREPROCESSING)


def test_invalid_onnx_is_refused(graph: bytes) -> None:
    model = onnx.load_model_from_string(graph)
    model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(ExportRefused, match="not valid ONNX"):
        check_graph(model, size=32, classes=len(LABELS))


def test_a_graph_with_a_path_of_this_machine_is_refused(graph: bytes) -> None:
    model = onnx.load_model_from_string(graph)
    model.graph.node[0].name = f"{Path.cwd()}/network.py"
    with pytest.raises(ExportRefused, match="traces of this machine"):
        check_graph(model, size=32, classes=len(LABELS))


@pytest.fixture(scope="module")
def embedder() -> bytes:
    network = small_network()
    return export_graph(network, LABELS, PREPROCESSING, head=find_head(network, PREPROCESSING))


def test_embeddings_are_the_input_of_the_last_layer(graph: bytes, embedder: bytes) -> None:
    """They are a third output; the other two are bit-equal to those of a graph without embeddings."""
    images, network = random_images(5), small_network()
    session = onnxruntime.InferenceSession(embedder, providers=["CPUExecutionProvider"])
    assert [(each.name, each.type, each.shape[1]) for each in session.get_outputs()] == [
        ("logits", "tensor(float)", 4), ("probabilities", "tensor(float)", 4), ("embeddings", "tensor(float)", 8)
    ]  # fmt: skip
    logits, probabilities, embeddings = session.run(None, {"images": images})
    with torch.inference_mode():
        expected = network[:-1](normalise(torch.from_numpy(images), PREPROCESSING)).numpy()
    np.testing.assert_allclose(embeddings, expected, atol=1e-6)
    weight, bias = (parameter.detach().numpy() for parameter in network[-1].parameters())
    np.testing.assert_allclose(embeddings @ weight.T + bias, logits, atol=1e-6)
    assert [each.tobytes() for each in (logits, probabilities)] == [each.tobytes() for each in run(graph, images)]


def test_the_same_network_with_embeddings_gives_the_same_bytes(embedder: bytes) -> None:
    assert export_graph(small_network(), LABELS, PREPROCESSING, head="5") == embedder


def test_a_graph_with_other_embeddings_than_declared_is_refused(graph: bytes, embedder: bytes) -> None:
    for data, size in ((graph, 8), (embedder, None), (embedder, 9)):
        with pytest.raises(ExportRefused, match="inputs and outputs"):
            check_graph(onnx.load_model_from_string(data), size=32, classes=len(LABELS), embedding_size=size)


@pytest.mark.parametrize(
    ("architecture", "head", "width"),
    [
        ("small_cnn", "head", 128),
        ("resnet18", "fc", 512),
        ("mobilenet_v3_small", "classifier.3", 1024),
        ("efficientnet_b0", "classifier.1", 1280),
        ("convnext_tiny", "classifier.2", 768),
        ("vit_b_32", "heads.head", 768),
        ("densenet121", "classifier", 1024),
        ("googlenet", "fc", 1024),
        ("swin_t", "head", 768),
    ],
)
def test_the_last_layer_is_found_in_every_kind_of_network(architecture: str, head: str, width: int) -> None:
    network = build_network(architecture, classes=7, image_size=32).eval()
    found = find_head(network, Preprocessing(resize_size=32, crop_size=32))
    assert (found, network.get_submodule(found).in_features) == (head, width)


@pytest.mark.parametrize(
    "network",
    [
        build_network("squeezenet1_1", classes=3, image_size=32).eval(),
        nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3), nn.LogSoftmax(dim=1)).eval(),
    ],
    ids=["no linear layer", "not the last"],
)
def test_a_network_that_does_not_end_in_a_linear_layer_has_no_embeddings(network: nn.Module) -> None:
    with pytest.raises(
        ExportRefused, match=r"its logits don't come from a linear layer: export it without --embeddings"
    ):
        find_head(network, PREPROCESSING)


@torch.no_grad()
def lively(network: nn.Module, images_nchw: torch.Tensor) -> nn.Module:
    """Change `network` so that scores differ between images, as in a trained network; return it."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # use the statistics of all images
        elif isinstance(module, nn.Linear):
            head = module
    network.train()(images_nchw)
    nn.init.normal_(head.weight)
    std, mean = torch.std_mean(network.eval()(images_nchw), dim=0)
    head.bias.copy_((head.bias - mean) / std)
    head.weight.div_(std[:, None])
    return network


@pytest.mark.parametrize("architecture", ["resnet18", "mobilenet_v3_small"])
def test_networks_of_torchvision_are_exported(architecture: str) -> None:
    torch.manual_seed(0)
    images = random_images(6, 64)
    preprocessing = Preprocessing(resize_size=64, crop_size=64)
    network = import_torchvision().models.get_model(architecture, weights=None, num_classes=12)
    network = lively(network, normalise(torch.from_numpy(images), preprocessing))
    head = find_head(network, preprocessing)
    with torch.inference_mode():
        _, expected, embeddings = map(np.asarray, EndToEnd(network, preprocessing, head=head)(torch.from_numpy(images)))
    assert expected.std(axis=0).max() > 1e-2  # otherwise the comparison would prove nothing

    graph = export_graph(network, [f"class {i}" for i in range(12)], preprocessing, head=head)
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(["probabilities"], {"images": images})[0], expected, atol=1e-5)
    np.testing.assert_allclose(session.run(["embeddings"], {"images": images})[0], embeddings, rtol=1e-4, atol=1e-5)
