"""`tandem models save`."""

from __future__ import annotations

from pathlib import Path

import click

from classifier.wording import table_lines
from commands.options import reference_argument
from registry.local import LocalRegistry
from registry.saving import save as save_model
from registry.summary import FILE_COLUMNS, list_files


@click.command(
    epilog="\b\nExample:\n  tandem models save digits:3 digits-3\n  netron digits-3/model.onnx\n"
    "  tandem models save ghcr.io/acme/digits:3 digits-3"
)
@reference_argument
@click.argument("folder", metavar="FOLDER", type=click.Path(path_type=Path))
def save(reference: str, folder: Path) -> None:
    """Save a model's files in a folder, for programs that read no registry, such as Netron or Triton.

    FOLDER is new or empty, or holds files of this model from an earlier save. Each file is checked against its digest.
    A remote model is fetched once.
    """
    artifact = save_model(reference, folder, LocalRegistry.default())
    click.echo("\n".join(table_lines(FILE_COLUMNS, [file.cells() for file in list_files(artifact)])))
    click.echo(f"{artifact.reference} is saved in {folder}", err=True)
