"""`tandem models list`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from classifier.types import to_json
from classifier.wording import table_lines
from commands.options import json_option
from registry.local import LocalRegistry
from registry.oci.references import Reference
from registry.resolving import no_model_yet
from registry.summary import MODEL_COLUMNS, summarise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from registry.oci.artifact import Artifact


@click.command(
    "list",
    epilog="\b\nExample:\n  tandem models list\n  tandem models list ghcr.io/acme/digits\n"
    "  tandem models list --json | jq -r '.[].digest'",
)
@click.argument("repository", metavar="[REPOSITORY]", required=False)
@json_option
def list_models(repository: str | None, as_json: bool) -> None:
    """List every version of every model, with its aliases; with REPOSITORY, those of one model, local or remote."""
    registry = LocalRegistry.default()
    listed = registry.models() if repository is None else _list_repository(repository, registry)
    summaries = [summarise(artifact) for artifact in listed]
    if as_json:
        click.echo(to_json(summaries), nl=False)
    elif summaries:
        click.echo("\n".join(table_lines(MODEL_COLUMNS, [summary.cells() for summary in summaries])))
    else:
        click.echo(no_model_yet(registry.root), err=True)


def _list_repository(repository: str, registry: LocalRegistry) -> Sequence[Artifact]:
    parsed = Reference.parse(repository)
    if parsed.tag is not None or parsed.digest is not None:
        raise click.UsageError(f"'{repository}' names one model; 'tandem models show {repository}' shows it")
    if parsed.host is None:
        return [model for model in registry.models() if model.name == parsed.name]
    from registry.remote.models import RemoteModels  # HTTP and TLS, which few commands need

    return RemoteModels(parsed).models()
