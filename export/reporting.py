"""The output of `tandem export` and `tandem evaluate`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.filesize import decimal

from classifier.artifact import EVALUATION
from classifier.types import from_json
from classifier.wording import table_lines
from export.measuring.evaluation import Evaluation
from registry.summary import PRECISION_COLUMNS, describe_model

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry import Added


def report(added: Added) -> Iterator[str]:
    """Yield lines with the version, its accuracy, and the ways it may be run."""
    artifact = added.artifact
    evaluation = from_json(artifact.read(EVALUATION), Evaluation)
    yield f"{'' if added.created else 'unchanged: '}{artifact.reference}  {artifact.digest}"
    if artifact.aliases:
        yield f"  aliases {', '.join(artifact.aliases)}"
    yield (
        f"  acc1 {evaluation.fp32.metrics.acc1:.2%} on {evaluation.images:,} validation images "
        f"(torch {evaluation.torch.acc1:.2%}), probabilities within {evaluation.fp32.max_difference:.1e} of torch's"
    )
    yield f"  {len(artifact.files)} files, {decimal(artifact.size)}"
    if (summary := describe_model(artifact).evaluation) is not None:
        yield ""
        yield from table_lines(PRECISION_COLUMNS, [way.cells() for way in summary.precisions])
