"""The model card: what to know about a model before using it, in the sections that model hubs use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from classifier.types import from_json, to_json
from registry.summary import PRECISION_COLUMNS, EvaluationSummary

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from classifier.types import ModelConfig, Preprocessing
    from export.measuring.evaluation import Evaluation, Metrics
    from training.config import TrainingConfig

MAX_CONFUSION_LABELS = 20
_PRECISIONS = "## Precisions"

MAX_LISTED_LABELS = 100
"""If there are more labels, the card lists those with the lowest recall."""


def write_card(config: ModelConfig, evaluation: Evaluation, training: TrainingConfig) -> str:
    """Return the model card as Markdown with front matter for model hubs; it contains no date and no path."""
    sections = (
        _front_matter(),
        f"# {config.name}\n\n{_summary(config, evaluation)}",
        f"## How to use\n\n{_usage(config)}",
        f"## Model details\n\n{_details(config)}",
        f"## Preprocessing\n\n{_preprocessing(config.preprocessing)}",
        f"## Training\n\n{_training(training, evaluation)}",
        f"## Evaluation\n\n{_evaluation(config, evaluation)}",
        f"{_PRECISIONS}\n\n{_precisions(evaluation)}",
        f"## Limits\n\n{_limits(config, evaluation)}",
    )
    return "\n\n".join(sections) + "\n"


def _front_matter() -> str:
    tags = "\n".join(f"  - {tag}" for tag in ("onnx", "image-classification"))
    return f"---\npipeline_tag: image-classification\ntags:\n{tags}\nmetrics:\n  - accuracy\n---"


def _summary(config: ModelConfig, evaluation: Evaluation) -> str:
    return (
        f"An image classifier: `{config.architecture}`, {len(config.labels)} labels, trained on "
        f"{_dataset(evaluation)}. It labels {_percent(evaluation.fp32.metrics.acc1)} of {evaluation.images:,} "
        "validation images correctly, none of which it was trained on."
    )


def _usage(config: ModelConfig) -> str:
    return f"""```sh
tandem classify IMAGE --model {config.name}
tandem batch FOLDER --model {config.name} --output out
TANDEM_MODEL={config.name} bentoml serve
tandem selftest {config.name}
```"""


def _details(config: ModelConfig) -> str:
    size = config.preprocessing.crop_size
    facts = [
        ("Architecture", f"`{config.architecture}`"),
        ("Format", f"ONNX, opset {config.opset}"),
        ("Input", f"`images`: uint8 [N, {size}, {size}, 3], RGB"),
        ("Outputs", f"`logits` and `probabilities`: float32 [N, {len(config.labels)}]"),
    ]
    if config.embedding_size:
        facts.append(("Embeddings", f"`embeddings`: float32 [N, {config.embedding_size}], the input of the last layer"))
    if len(config.labels) <= MAX_LISTED_LABELS:
        facts.append(("Labels", ", ".join(map(_text, config.labels))))
    else:
        facts.append(("Labels", f"{len(config.labels):,}, listed in `config.json`"))
    return _table(("", ""), facts)


def _preprocessing(preprocessing: Preprocessing) -> str:
    return (
        f"Tandem decodes each image ({preprocessing.decode}), turns it upright by its EXIF tag, lays transparent "
        f"pixels over the colour {_triple(preprocessing.background)}, resizes the shorter side to "
        f"{preprocessing.resize_size} pixels ({preprocessing.interpolation}), and crops the central "
        f"{preprocessing.crop_size} × {preprocessing.crop_size}. The graph normalises: mean "
        f"{_triple(preprocessing.mean)}, standard deviation {_triple(preprocessing.std)}."
    )


def _training(training: TrainingConfig, evaluation: Evaluation) -> str:
    started_from = {None: "random weights", "DEFAULT": "torchvision's pretrained weights"}
    split = (
        f"its `{training.val_folder}` folder"
        if training.val_fraction is None
        else f"{_percent(training.val_fraction)} of each label"
    )
    facts = [
        ("Data set", f"{_dataset(evaluation)}; validated on {split}, {evaluation.images:,} images"),
        ("Started from", started_from.get(training.weights, "weights from a file")),
        ("Epochs", f"at most {training.epochs}; the epoch with the best validation acc1 was kept"),
        ("Batch size", str(training.batch_size)),
        ("Learning rate", f"{training.lr:g}, with warm-up and cosine"),
        ("Label smoothing", f"{training.label_smoothing:g}"),
        ("Mirrored images", "yes" if training.flip else "no"),
        ("Arithmetic", training.precision),
        ("Seed", str(training.seed)),
    ]
    return _table(("", ""), facts)


def _evaluation(config: ModelConfig, evaluation: Evaluation) -> str:
    metrics = evaluation.fp32.metrics
    rows = [("torch", *_accuracy(evaluation.torch)), ("ONNX Runtime", *_accuracy(metrics))]
    introduction = (
        f"On {evaluation.images:,} images of the split `{evaluation.split}` of {_dataset(evaluation)}, in fp32, "
        "decoded like in the service and the bulk run:"
    )
    parts = [
        introduction,
        _table(("", "acc1", "acc5", "loss"), rows),
        "### Per label",
        _per_label(metrics),
    ]
    if len(config.labels) <= MAX_CONFUSION_LABELS:
        parts += [
            "### Confusion matrix",
            "Rows are the true labels, columns the model's.",
            _confusion(metrics),
        ]
    return "\n\n".join(parts)


def replace_precisions(card: str, evaluation: Evaluation) -> str:
    """Return the model card with its precisions section rewritten."""
    before, heading, after = card.partition(f"\n{_PRECISIONS}\n")
    _, next_heading, rest = after.partition("\n## ")
    return f"{before}{heading}\n{_precisions(evaluation)}\n{next_heading}{rest}"


def _precisions(evaluation: Evaluation) -> str:
    introduction = (
        "A precision is allowed if its measured acc1 is at most "
        f"{100 * evaluation.max_accuracy_drop:g} points below fp32's on the same images. `auto` takes the fastest "
        "allowed precision for which the machine has the instructions."
    )
    ways = from_json(to_json(evaluation), EvaluationSummary).precisions
    columns = tuple(column.lower() for column in PRECISION_COLUMNS)
    return f"{introduction}\n\n{_table(columns, [tuple(map(_text, way.cells())) for way in ways])}"


def _accuracy(metrics: Metrics) -> tuple[str, str, str]:
    return _percent(metrics.acc1), _percent(metrics.acc5), f"{metrics.loss:.4f}"


def _per_label(metrics: Metrics) -> str:
    listed = list(metrics.per_class)
    before = ""
    if len(listed) > MAX_LISTED_LABELS:
        listed = sorted(listed, key=lambda each: -1 if each.recall is None else each.recall)[:MAX_LISTED_LABELS]
        before = f"The {MAX_LISTED_LABELS} labels with the lowest recall; `evaluation.json` has all.\n\n"
    rows = [(_text(each.label), _percent(each.precision), _percent(each.recall), str(each.support)) for each in listed]
    return before + _table(("label", "precision", "recall", "images"), rows)


def _confusion(metrics: Metrics) -> str:
    labels = list(metrics.confusion)
    rows = [
        (f"**{_text(label)}**", *(str(metrics.confusion[label].get(other, "·")) for other in labels))
        for label in labels
    ]
    return _table(("", *map(_text, labels)), rows)


def _limits(config: ModelConfig, evaluation: Evaluation) -> str:
    return f"""- It gives every image one of its {len(config.labels)} labels, even an image of something else.
- A score is an uncalibrated softmax output: 0.9 does not mean right nine times in ten.
- It was measured on images of {_dataset(evaluation)}. It can be worse on images from another camera, place or time.
- The epoch was chosen by accuracy on these validation images. Expect slightly less on new images of the same kind."""


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _dataset(evaluation: Evaluation) -> str:
    return f"“{_text(evaluation.dataset)}”"


def _percent(part: float | None) -> str:
    return "–" if part is None else f"{part:.2%}"


def _triple(values: tuple[float, float, float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _text(text: str) -> str:
    """Return `text`, such as a folder's name, escaped so that Markdown shows it verbatim."""
    return "".join(f"\\{char}" if char in "\\`*_{}[]<>()#+!|~&" else char for char in " ".join(text.split()))
