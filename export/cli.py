"""`tandem export`: parse, export, print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.filesize import decimal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from registry import Added


_EXAMPLE = """\b
Example:
  tandem export runs/digits --name digits
  tandem export runs/digits --name digits --tag candidate"""


@click.command(epilog=_EXAMPLE)
@click.argument("run_path", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="The model's name; the registry numbers its versions.")
@click.option(
    "--tag", "aliases", multiple=True, metavar="ALIAS", help="Put this alias on the version; may be given repeatedly."
)
def export(run_path: Path, name: str, aliases: tuple[str, ...]) -> None:
    """Export the best network of RUN as a model artifact into the registry.

    The network becomes an ONNX graph, is compared with torch on every validation image, measured, and self-tested
    before it enters. A run that was exported before makes no second version.
    """
    # torch and onnx take seconds to import.
    from export.exporting import export_run  # noqa: PLC0415
    from registry import LocalRegistry  # noqa: PLC0415
    from training.run import Run  # noqa: PLC0415

    added = export_run(Run.open(run_path), name=name, aliases=aliases, registry=LocalRegistry.default())
    click.echo("\n".join(report(added)))


def report(added: Added) -> Iterator[str]:
    """Yield the lines that say what is in the registry now, and how good it is."""
    from classifier.artifact import EVALUATION  # noqa: PLC0415
    from classifier.types import from_json  # noqa: PLC0415
    from export.evaluation import Evaluation  # noqa: PLC0415

    artifact = added.artifact
    evaluation = from_json(artifact.read(EVALUATION), Evaluation)
    (measured,) = evaluation.precisions
    yield f"{'' if added.created else 'unchanged: '}{artifact.reference}  {artifact.digest}"
    if artifact.aliases:
        yield f"  aliases {', '.join(artifact.aliases)}"
    yield (
        f"  acc1 {measured.metrics.acc1:.2%} on {evaluation.images:,} validation images "
        f"(torch {evaluation.torch.acc1:.2%}), probabilities within {measured.max_difference:.1e} of torch's"
    )
    yield f"  {len(artifact.files)} files, {decimal(artifact.size)}"
