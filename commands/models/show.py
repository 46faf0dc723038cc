"""`tandem models show`."""

from __future__ import annotations

import click

from classifier.artifact import CARD
from classifier.types import to_json
from classifier.wording import one_line, table_lines
from commands.options import json_option, reference_argument
from registry.attaching import referrers_of
from registry.local import LocalRegistry
from registry.opening import find_model
from registry.summary import FILE_COLUMNS, PRECISION_COLUMNS, describe_model


@click.command(
    epilog="\b\nExample:\n  tandem models show digits\n  tandem models show digits:3 --card\n"
    "  tandem models show ghcr.io/acme/digits:3",
)
@reference_argument
@json_option
@click.option("--card", is_flag=True, help="Print only the model card, as Markdown.")
def show(reference: str, as_json: bool, card: bool) -> None:
    """Show a model: its files and digests, the precisions that it allows, its accuracy.

    The weights of a remote model are not fetched.
    """
    if card and as_json:
        raise click.UsageError("--card and --json exclude each other")
    artifact = find_model(reference, LocalRegistry.default())
    if card:
        click.echo("\n".join(map(one_line, artifact.read(CARD).decode(errors="replace").split("\n"))), nl=False)
        return
    description = describe_model(artifact)
    if as_json:
        click.echo(to_json(description), nl=False)
        return
    tables = [table_lines(("MODEL", artifact.reference), description.facts())]
    if description.evaluation is not None:
        tables.append(table_lines(PRECISION_COLUMNS, [way.cells() for way in description.evaluation.precisions]))
    tables.append(table_lines(FILE_COLUMNS, [file.cells() for file in description.files]))
    if referrers := referrers_of(artifact):
        rows = [(one.manifest.kind, one.descriptor.digest) for one in referrers]
        tables.append(table_lines(("REFERRER", "DIGEST"), rows))
    click.echo("\n\n".join("\n".join(table) for table in tables))
