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
from export.graph import export_graph, find_head
from export.images import LabelledImages
from export.scoring import MAX_DIFFERENCE, check_agreement, score_images

PREPROCESSING = Preprocessing(resize_size=20, crop_size=16)
LABELS = ("cat", "dog", "owl")
Samples = list[tuple[Path, int]]


def engine_of(network: nn.Module) -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine(export_graph(network, LABELS, PREPROCESSING), device="cpu")


def ignore(images: int) -> None:
    pass


def test_every_image_is_scored_by_torch_and_by_the_engine_from_the_same_pixels(
    network: nn.Module, samples: Samples
) -> None:
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
    """Where the last layer ignores a number, no score tells that it is another one."""
    with torch.no_grad():
        network[-1].weight[:, :4] = 0  # those of the first channel
    moved = copy.deepcopy(network)
    with torch.no_grad():
        moved[0].bias[0] += 1
    head, images = find_head(network, PREPROCESSING), LabelledImages(samples, PREPROCESSING)
    engine = OnnxRuntimeEngine(export_graph(network, LABELS, PREPROCESSING, head=head))
    score_images(network, engine, images, PREPROCESSING, head=head, advance=ignore)
    score_images(moved, engine, images, PREPROCESSING, advance=ignore)
    with pytest.raises(
        ExportRefused, match=r"does not compute the network's embeddings: a number of that of \d\d\.png"
    ):
        score_images(moved, engine, images, PREPROCESSING, head=head, advance=ignore)


def test_a_graph_of_other_weights_is_refused_with_the_numbers(network: nn.Module, samples: Samples) -> None:
    """The graph and the network really differ: one weight was moved between them."""
    moved = copy.deepcopy(network)
    with torch.no_grad():
        moved[-1].bias[0] += 0.01
    with pytest.raises(ExportRefused, match=r"a probability of \d\d\.png is 0\.00\d+ away, and 0\.0001 is allowed"):
        score_images(network, engine_of(moved), LabelledImages(samples, PREPROCESSING), PREPROCESSING, advance=ignore)


def test_a_graph_that_normalises_otherwise_is_refused(network: nn.Module, samples: Samples) -> None:
    """The reference uses the run's preprocessing, not the graph's: a wrong mean in the graph can't hide."""
    other = Preprocessing(resize_size=20, crop_size=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    engine = OnnxRuntimeEngine(export_graph(network, LABELS, other), device="cpu")
    with pytest.raises(ExportRefused, match="does not compute what the network does"):
        score_images(network, engine, LabelledImages(samples, PREPROCESSING), PREPROCESSING, advance=ignore)


def test_a_network_that_diverged_is_refused_for_what_it_is(network: nn.Module, samples: Samples) -> None:
    engine = engine_of(network)
    with torch.no_grad():
        network[-1].bias.fill_(float("nan"))
    with pytest.raises(ExportRefused, match="not finite numbers: train again with a lower --lr"):
        score_images(network, engine, LabelledImages(samples, PREPROCESSING), PREPROCESSING, advance=ignore)


def agree(reference: list[float], scores: list[float]) -> None:
    check_agreement([Path("a.png")], np.array([reference], np.float32), np.array([scores], np.float32))


def test_labels_that_are_tied_may_change_places() -> None:
    agree([0.4, 0.4 + MAX_DIFFERENCE / 2, 0.2], [0.4 + MAX_DIFFERENCE / 2, 0.4, 0.2])


def test_a_label_that_is_ahead_may_not_change_places_though_each_score_is_near() -> None:
    ahead, moved = 1.5 * MAX_DIFFERENCE, 0.9 * MAX_DIFFERENCE
    with pytest.raises(
        ExportRefused, match=r"a\.png another label than the network, whose own best is ahead by 0\.00015"
    ):
        agree([0.4, 0.4 + ahead, 0.2], [0.4 + moved, 0.4 + ahead - moved, 0.2])


@pytest.mark.parametrize("score", [float("nan"), 0.4 + 2 * MAX_DIFFERENCE])
def test_a_score_that_is_no_number_or_too_far_away_is_refused(score: float) -> None:
    with pytest.raises(ExportRefused, match=r"away, and 0\.0001 is allowed"):
        agree([0.4, 0.3, 0.3], [score, 0.3, 0.3])
