from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from classifier.engines.onnxruntime import OnnxRuntimeEngine
from classifier.errors import ExportRefused
from classifier.images import decode_image
from classifier.types import Preprocessing
from export.graphs.graph import export_graph, find_head
from export.images import LabelledImages
from export.measuring.scoring import MAX_DIFFERENCE, check_agreement, score_images
from tests.export.colours import LABELS, PREPROCESSING

Samples = list[tuple[Path, int]]


def engine_of(network: nn.Module) -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine(export_graph(network, LABELS, PREPROCESSING), device="cpu")


def ignore(images: int) -> None:
    pass


def test_torch_and_the_engine_score_every_image_from_the_same_pixels(network: nn.Module, samples: Samples) -> None:
    calls: list[int] = []
    scored = score_images(
        network,
        engine_of(network),
        LabelledImages(samples, PREPROCESSING),
        PREPROCESSING,
        advance=calls.append,
    )
    assert sum(calls) == len(samples)
    assert scored.reference.shape == scored.scores.shape == (len(samples), len(LABELS))
    np.testing.assert_allclose(scored.scores, scored.reference, atol=1e-6)

    pixels = decode_image(samples[-1][0].read_bytes(), PREPROCESSING).pixels.astype(np.float32) / 255
    normalised = (pixels - np.float32(PREPROCESSING.mean)) / np.float32(PREPROCESSING.std)
    with torch.inference_mode():
        logits = network(torch.from_numpy(normalised.transpose(2, 0, 1).copy())[None])
    np.testing.assert_allclose(scored.reference[-1], torch.softmax(logits, 1)[0], atol=1e-6)


def test_embeddings_that_are_not_the_networks_are_refused(network: nn.Module, samples: Samples) -> None:
    """If the last layer ignores a number of the embedding, no score shows that it is wrong."""
    with torch.no_grad():
        network[-1].weight[:, :4] = 0  # the first channel's
    moved = copy.deepcopy(network)
    with torch.no_grad():
        moved[0].bias[0] += 1
    head, images = find_head(network, PREPROCESSING), LabelledImages(samples, PREPROCESSING)
    engine = OnnxRuntimeEngine(export_graph(network, LABELS, PREPROCESSING, head=head))
    score_images(network, engine, images, PREPROCESSING, head=head, advance=ignore)
    score_images(moved, engine, images, PREPROCESSING, advance=ignore)
    with pytest.raises(
        ExportRefused, match=r"does not compute the network's embeddings: a number in that of \d\d\.png"
    ):
        score_images(moved, engine, images, PREPROCESSING, head=head, advance=ignore)


def test_a_graph_of_other_weights_is_refused_with_the_numbers(network: nn.Module, samples: Samples) -> None:
    """The graph and the network differ in one weight."""
    moved = copy.deepcopy(network)
    with torch.no_grad():
        moved[-1].bias[0] += 0.01
    with pytest.raises(
        ExportRefused, match=r"a probability of \d\d\.png differs by 0\.00\d+, but only 0\.0001 is allowed"
    ):
        score_images(network, engine_of(moved), LabelledImages(samples, PREPROCESSING), PREPROCESSING, advance=ignore)


def test_a_graph_with_another_normalisation_is_refused(network: nn.Module, samples: Samples) -> None:
    """The reference uses the run's preprocessing, so a wrong mean in the graph is detected."""
    other = Preprocessing(resize_size=20, crop_size=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    engine = OnnxRuntimeEngine(export_graph(network, LABELS, other), device="cpu")
    with pytest.raises(ExportRefused, match="does not compute what the network does"):
        score_images(network, engine, LabelledImages(samples, PREPROCESSING), PREPROCESSING, advance=ignore)


def test_a_diverged_network_is_refused_as_such(network: nn.Module, samples: Samples) -> None:
    engine = engine_of(network)
    with torch.no_grad():
        network[-1].bias.fill_(float("nan"))
    with pytest.raises(ExportRefused, match="not finite numbers: train again with a lower --lr"):
        score_images(network, engine, LabelledImages(samples, PREPROCESSING), PREPROCESSING, advance=ignore)


def agree(reference: list[float], scores: list[float]) -> None:
    check_agreement([Path("a.png")], np.array([reference], np.float32), np.array([scores], np.float32))


def test_tied_labels_may_swap() -> None:
    agree([0.4, 0.4 + MAX_DIFFERENCE / 2, 0.2], [0.4 + MAX_DIFFERENCE / 2, 0.4, 0.2])


def test_labels_that_are_not_tied_may_not_swap_even_if_each_score_is_near() -> None:
    ahead, moved = 1.5 * MAX_DIFFERENCE, 0.9 * MAX_DIFFERENCE
    with pytest.raises(
        ExportRefused, match=r"a\.png another label than the network, whose top label leads by 0\.00015"
    ):
        agree([0.4, 0.4 + ahead, 0.2], [0.4 + moved, 0.4 + ahead - moved, 0.2])


@pytest.mark.parametrize("score", [float("nan"), 0.4 + 2 * MAX_DIFFERENCE])
def test_a_score_that_is_nan_or_too_different_is_refused(score: float) -> None:
    with pytest.raises(ExportRefused, match=r"differs by .*, but only 0\.0001 is allowed"):
        agree([0.4, 0.3, 0.3], [score, 0.3, 0.3])
