"""`tandem evaluate`: parse, evaluate, print."""

from __future__ import annotations

from pathlib import Path

import click

from commands.options import Number


@click.command(
    epilog="\b\nExample:\n  tandem evaluate digits ~/.tandem/datasets/digits/test\n  tandem models show digits"
)
@click.argument("reference", metavar="MODEL")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--max-accuracy-drop", metavar="PART", type=Number(0, 1),
    help="A precision is allowed if its acc1 is at most so much below that of fp32: 0.005 is half a point.  "
    "[default: what the model was exported with]",
)  # fmt: skip
def evaluate(reference: str, folder: Path, max_accuracy_drop: float | None) -> None:
    """Measure MODEL in the precisions that its export could not run: a new version with more evidence.

    FOLDER has a folder of images for each of the model's labels. Each precision that this machine can run, and that is
    not measured yet, is compared with fp32 on them. The graphs stay what they are; where there is nothing new, so does
    the version. Aliases are not moved: 'tandem models tag' does that. Of a remote model the new version is local:
    'tandem models push' brings it back.
    """
    from export.evaluating import evaluate_model  # noqa: PLC0415 # the engines take a second to import
    from export.reporting import report  # noqa: PLC0415
    from registry import LocalRegistry, fetch_model  # noqa: PLC0415

    registry = LocalRegistry.default()
    artifact = fetch_model(reference, registry)
    added = evaluate_model(artifact, folder, registry=registry, max_accuracy_drop=max_accuracy_drop)
    click.echo("\n".join(report(added)))
