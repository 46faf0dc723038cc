"""What `models list` and `show` print: one line or one page per model, damaged or not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from classifier.artifact import EVALUATION, FILES, MODEL
from registry.summary import describe_model, summarise
from tests.registry.artifacts import blob_path, make_files

if TYPE_CHECKING:
    from registry import LocalRegistry

MEASUREMENT = (
    b'{"dataset": "test", "images": 1000, "fp32_acc1": 0.9, "metrics": {"acc1": 0.875, "acc5": null, "loss": 1},'
    b' "agreement": 0.99, "max_difference": 0.001, "engine_version": "1"}'
)
EVALUATED = (
    b'{"dataset": "digits", "split": "val", "images": 1000, "torch": {"acc1": 0.9, "acc5": null},'
    b' "max_accuracy_drop": 0.005, "precisions": [{"precision": "int8", "engine": "onnxruntime", "device": "cpu",'
    b' "needs": ["vnni"], "allowed": true, "reason": "", "note": "", "measurement": ' + MEASUREMENT + b"}]}"
)


def test_a_whole_model_has_every_field(registry: LocalRegistry) -> None:
    """Accuracy and precisions come from its evaluation, whatever else that holds."""
    artifact = registry.add("digits", {**make_files(), EVALUATION: EVALUATED}).artifact
    summary, description = summarise(artifact), describe_model(artifact)
    assert (summary.acc1, summary.labels, summary.damaged) == (0.875, 3, None)
    assert [file.file for file in description.files] == list(FILES)
    assert description.evaluation is not None
    [way] = description.evaluation.precisions
    assert way.cells() == (
        *("int8", "onnxruntime", "cpu", "87.50%", "90.00%", "99.00%", "1.0e-03", "1,000 of test", "yes, with vnni"),
    )


def test_an_evaluation_of_another_release_is_left_out(registry: LocalRegistry) -> None:
    """The model is shown without it."""
    artifact = registry.add("digits", make_files()).artifact
    assert describe_model(artifact).evaluation is None
    assert summarise(artifact).acc1 is None


def test_a_damaged_model_keeps_its_line(registry: LocalRegistry) -> None:
    """Its names are known, and the damage is named; a damaged graph isn't read."""
    artifact = registry.add("digits", make_files()).artifact
    blob_path(registry, artifact.files[MODEL].digest).write_bytes(b"damaged")
    assert summarise(artifact).damaged is None
    blob_path(registry, artifact.digest).write_bytes(b"damaged")
    summary = summarise(artifact)
    assert (summary.reference, summary.size_bytes) == ("digits:1", None)
    assert summary.cells()[3] == "damaged"
    assert "'digits:1' is damaged" in str(summary.damaged)
