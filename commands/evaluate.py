"""`tandem evaluate`."""

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
    help="Allow a precision if its acc1 is at most this much below fp32's: 0.005 is half a point.  "
    "[default: as the model was exported]",
)  # fmt: skip
def evaluate(reference: str, folder: Path, max_accuracy_drop: float | None) -> None:
    """Measure MODEL in precisions that its export could not run, and add a version with the new evidence.

    FOLDER holds a folder of images for each of the model's labels. Every precision that this machine can run and that
    is not measured yet is compared with fp32 on these images. The graphs don't change, and without new evidence there
    is no new version. Aliases don't move: use 'tandem models tag'. The new version of a remote model is local: use
    'tandem models push'. 'tandem val' measures a model as it is.
    """
    from export.evaluating import evaluate_model  # the engines take a second to import
    from export.reporting import report
    from registry import LocalRegistry, fetch_model

    registry = LocalRegistry.default()
    artifact = fetch_model(reference, registry)
    added = evaluate_model(artifact, folder, registry=registry, max_accuracy_drop=max_accuracy_drop)
    click.echo("\n".join(report(added)))
