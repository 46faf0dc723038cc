from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from classifier.types import AllowedPrecision, EngineInfo, ModelConfig, Preprocessing
from export.card import MAX_CONFUSION_LABELS, MAX_LISTED_LABELS, replace_precisions, write_card
from export.measuring.evaluation import Evaluation, compare, measure
from export.measuring.precisions import WAYS, judge
from training.config import TrainingConfig

PREPROCESSING = Preprocessing(resize_size=256, crop_size=224)


def evaluation_of(labels: tuple[str, ...], dataset: str, *measured: AllowedPrecision) -> Evaluation:
    """Return an evaluation of random scores; the first way and the `measured` ones have a measurement."""
    classes = len(labels)
    random = np.random.default_rng(0)
    truth = np.arange(50 * classes) % classes
    scores = random.dirichlet(np.ones(classes), 50 * classes).astype(np.float32)
    engine = EngineInfo(name="onnxruntime", version="1.31.1", device="cpu", precision="fp32", instruction_set="avx2")
    measurement = compare(scores, scores, truth, labels, engine=engine, dataset=dataset)
    measurement = dataclasses.replace(measurement, max_difference=2.4e-7)
    return Evaluation(
        dataset=dataset,
        split="val",
        images=50 * classes,
        torch=measure(scores, truth, labels),
        max_accuracy_drop=0.005,
        precisions=tuple(judge(way, measurement if way in {WAYS[0], *measured} else None, limit=0.005) for way in WAYS),
    )


def card_of(labels: tuple[str, ...], *, dataset: str = "pets", **training: object) -> str:
    config = ModelConfig(
        name="pets",
        architecture="resnet18",
        labels=labels,
        preprocessing=PREPROCESSING,
        allowed=WAYS[:1],
        opset=20,
    )
    trained = TrainingConfig(
        data="/home/someone/secret/pets", data_digest="sha256:0", val_folder="val", labels=labels,
        architecture="resnet18", weights=None, preprocessing=PREPROCESSING, epochs=30, batch_size=64, lr=0.003,
        label_smoothing=0.1, flip=True, patience=10, val_fraction=None, seed=0, device="cpu", precision="fp32",
    )  # fmt: skip
    return write_card(config, evaluation_of(labels, dataset), dataclasses.replace(trained, **training))


def tables(card: str) -> list[list[str]]:
    return [re.findall(r"^\|.*\|$", block, re.M) for block in card.split("\n\n") if block.startswith("|")]


def test_a_card_has_all_sections_and_commands_to_copy() -> None:
    card = card_of(("cat", "dog", "owl"))
    assert card.startswith("---\npipeline_tag: image-classification\n")
    assert re.findall(r"^## (.*)$", card, re.M) == [
        "How to use", "Model details", "Preprocessing", "Training", "Evaluation", "Precisions", "Limits",
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
def test_a_card_has_no_path_of_the_data_or_the_weights(weights: str | None) -> None:
    card = card_of(("cat", "dog"), weights=weights)
    assert "secret" not in card
    assert "weights" in card


@pytest.mark.parametrize("label", ["a|b", "**bold**", "<script>alert(1)</script>", "back`tick", "[x](y)", "new\nline"])
def test_a_label_can_not_break_tables_or_become_markup(label: str) -> None:
    """Labels are folder names, which may contain any character."""
    card = card_of((label, "dog"), dataset=label)
    for table in tables(card):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table}) == 1
    for markup in ("a|b", "**bold**", "<script>", "back`tick", "[x](y)", "new\nline"):
        assert markup not in card


def test_a_confusion_matrix_of_too_many_labels_is_left_out() -> None:
    def labels(count: int) -> tuple[str, ...]:
        return tuple(f"label {index}" for index in range(count))

    assert "### Confusion matrix" in card_of(labels(MAX_CONFUSION_LABELS))
    assert "### Confusion matrix" not in card_of(labels(MAX_CONFUSION_LABELS + 1))
    many = card_of(labels(MAX_LISTED_LABELS + 50))
    assert f"The {MAX_LISTED_LABELS} labels with the lowest recall" in many
    assert max(len(table) for table in tables(many)) == MAX_LISTED_LABELS + 2


def test_every_way_of_running_has_a_row_that_says_whether_it_is_allowed() -> None:
    (table,) = [table for table in tables(card_of(("cat", "dog", "owl"))) if table[0].startswith("| precision")]
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table[2:]]
    assert [row[:3] for row in rows] == [[way.precision, way.engine, way.device] for way in WAYS]
    assert rows[0][-1] == rows[1][-1] == "yes"
    assert rows[0][4] == rows[0][3] != "-"
    assert rows[1][3] == "-"
    assert all(
        row[-1].startswith("no: not measured yet: 'tandem evaluate' does it on a machine with") for row in rows[2:]
    )


def test_new_evidence_changes_only_the_section_on_precisions() -> None:
    """`tandem evaluate` rewrites this section; without the training run it can't write the others."""
    labels = ("cat", "dog", "owl")
    before = card_of(labels)
    assert replace_precisions(before, evaluation_of(labels, "pets")) == before
    after = replace_precisions(before, evaluation_of(labels, "pets", *WAYS))
    section = re.compile(r"\n## Precisions\n.*?(?=\n## )", re.S)
    assert section.sub("", after) == section.sub("", before)
    assert "not measured" in before
    assert "not measured" not in after
