from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from classifier.types import AllowedPrecision, ModelConfig, Preprocessing
from export.card import MAX_CONFUSION_LABELS, MAX_LISTED_LABELS, write_card
from export.evaluation import Evaluation, PrecisionEvaluation, measure
from training.config import TrainingConfig

PREPROCESSING = Preprocessing(resize_size=256, crop_size=224)


def card_of(labels: tuple[str, ...], *, dataset: str = "pets", **training: object) -> str:
    classes = len(labels)
    random = np.random.default_rng(0)
    scores = random.dirichlet(np.ones(classes), 50 * classes).astype(np.float32)
    measured = measure(scores, np.arange(50 * classes) % classes, labels)
    evaluation = Evaluation(
        dataset=dataset,
        split="val",
        images=50 * classes,
        torch=measured,
        precisions=(
            PrecisionEvaluation(
                engine="onnxruntime", precision="fp32", metrics=measured, agreement=1.0, max_difference=2.4e-7
            ),
        ),
    )
    config = ModelConfig(
        name="pets",
        architecture="resnet18",
        labels=labels,
        preprocessing=PREPROCESSING,
        allowed=(AllowedPrecision(precision="fp32", engine="onnxruntime", device="cpu", graph="model.onnx"),),
        opset=20,
    )
    trained = TrainingConfig(
        data="/home/someone/secret/pets", data_digest="sha256:0", val_folder="val", labels=labels,
        architecture="resnet18", weights=None, preprocessing=PREPROCESSING, epochs=30, batch_size=64, lr=0.003,
        label_smoothing=0.1, flip=True, patience=10, val_fraction=None, seed=0, device="cpu", precision="fp32",
    )  # fmt: skip
    return write_card(config, evaluation, dataclasses.replace(trained, **training))


def tables(card: str) -> list[list[str]]:
    return [re.findall(r"^\|.*\|$", block, re.M) for block in card.split("\n\n") if block.startswith("|")]


def test_a_card_has_the_sections_and_lines_to_copy() -> None:
    card = card_of(("cat", "dog", "owl"))
    assert card.startswith("---\npipeline_tag: image-classification\n")
    assert re.findall(r"^## (.*)$", card, re.M) == [
        "How to use", "Model details", "Preprocessing", "Training", "Evaluation", "Limits",
    ]  # fmt: skip
    for line in (
        "tandem classify IMAGE --model pets",
        "tandem batch FOLDER --model pets",
        "TANDEM_MODEL=pets bentoml serve",
    ):
        assert line in card
    assert "2.4e-07" in card
    assert "central 224 × 224" in card


@pytest.mark.parametrize("weights", ["/home/someone/secret/weights.pt", "DEFAULT", None])
def test_no_path_of_the_data_or_the_weights_is_in_a_card(weights: str | None) -> None:
    card = card_of(("cat", "dog"), weights=weights)
    assert "secret" not in card
    assert "weights" in card


@pytest.mark.parametrize("label", ["a|b", "**bold**", "<script>alert(1)</script>", "back`tick", "[x](y)", "new\nline"])
def test_a_label_can_not_break_the_tables_or_become_markup(label: str) -> None:
    """Labels are names of folders, which may hold anything."""
    card = card_of((label, "dog"), dataset=label)
    for table in tables(card):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table}) == 1
    for markup in ("a|b", "**bold**", "<script>", "back`tick", "[x](y)", "new\nline"):
        assert markup not in card


def test_a_matrix_that_nobody_can_read_is_left_out() -> None:
    def labels(count: int) -> tuple[str, ...]:
        return tuple(f"label {index}" for index in range(count))

    assert "### Confusion matrix" in card_of(labels(MAX_CONFUSION_LABELS))
    assert "### Confusion matrix" not in card_of(labels(MAX_CONFUSION_LABELS + 1))
    many = card_of(labels(MAX_LISTED_LABELS + 50))
    assert f"The {MAX_LISTED_LABELS} labels with the lowest recall" in many
    assert max(len(table) for table in tables(many)) == MAX_LISTED_LABELS + 2
