"""`tandem models`: what the registry holds, and which version is which."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click
from rich.filesize import decimal

from classifier.artifact import CARD
from classifier.errors import DamagedArtifact
from classifier.types import to_json
from registry.local import LocalRegistry
from registry.lookup import no_model_yet
from registry.summary import PRECISION_COLUMNS, describe_model, summarise, table_lines

if TYPE_CHECKING:
    from collections.abc import Sequence

_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
_reference = click.argument("reference", metavar="REF")


@click.group(epilog="\b\nExample:\n  tandem models list\n  tandem models tag digits:3 production")
def models() -> None:
    """List, show, tag, verify and remove models of the registry.

    The registry is an OCI image layout in $TANDEM_HOME/registry; where TANDEM_HOME isn't set, in ~/.tandem/registry.
    """


@models.command("list", epilog="\b\nExample:\n  tandem models list\n  tandem models list --json | jq -r '.[].digest'")
@_json_option
def list_models(as_json: bool) -> None:
    """List every version of every model, with its aliases."""
    registry = LocalRegistry.default()
    summaries = [summarise(artifact) for artifact in registry.models()]
    if as_json:
        click.echo(to_json(summaries), nl=False)
    elif summaries:
        columns = ("MODEL", "ALIASES", "DIGEST", "SIZE", "LABELS", "ARCHITECTURE", "ACC1")
        _print_table(columns, [summary.cells() for summary in summaries])
    else:
        click.echo(no_model_yet(registry.root), err=True)


@models.command(epilog="\b\nExample:\n  tandem models show digits\n  tandem models show digits:3 --card")
@_reference
@_json_option
@click.option("--card", is_flag=True, help="Print the model card, as Markdown, and nothing else.")
def show(reference: str, as_json: bool, card: bool) -> None:
    """Show a model: its files and digests, how it may be run, how accurate it was."""
    if card and as_json:
        raise click.UsageError("--card and --json exclude each other")
    artifact = LocalRegistry.default().resolve(reference)
    if card:
        click.echo(artifact.read(CARD), nl=False)
        return
    description = describe_model(artifact)
    if as_json:
        click.echo(to_json(description), nl=False)
        return
    _print_table(("MODEL", artifact.reference), description.facts())
    click.echo()
    if description.evaluation is not None:
        _print_table(PRECISION_COLUMNS, [way.cells() for way in description.evaluation.precisions])
        click.echo()
    _print_table(("FILE", "SIZE", "DIGEST"), [file.cells() for file in description.files])


@models.command(epilog="\b\nExample:\n  tandem models tag digits:3 production")
@_reference
@click.argument("aliases", metavar="ALIAS...", nargs=-1, required=True)
def tag(reference: str, aliases: Sequence[str]) -> None:
    """Put aliases on a version, and take them off the one that had them.

    A bare name, 'digits', means the version that is 'production', else the highest.
    """
    artifact = LocalRegistry.default().tag(reference, *aliases)
    for alias in aliases:
        click.echo(f"{artifact.name}:{alias} is {artifact.reference} ({artifact.digest})")


@models.command(epilog="\b\nExample:\n  tandem models verify digits:3\n  tandem models verify --all")
@click.argument("references", metavar="REF...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Verify every model of the registry.")
def verify(references: Sequence[str], every: bool) -> None:
    """Read every byte of models and compare it with its digest; exit with 1 where something is damaged."""
    if every == bool(references):
        raise click.UsageError("name the models to verify, or give --all")
    registry = LocalRegistry.default()
    artifacts = registry.models() if every else [registry.find(reference) for reference in references]
    damaged = 0
    for artifact in artifacts:
        problems = artifact.verify()
        click.echo(f"{artifact.reference} {artifact.digest} {'damaged' if problems else 'ok'}")
        for problem in problems:
            click.echo(f"  {problem}")
        damaged += bool(problems)
    if damaged:
        raise DamagedArtifact(f"{damaged} of {len(artifacts)} models can't be used, for the reasons above")


@models.command(epilog="\b\nExample:\n  tandem models rm digits:2\n  tandem models rm digits:candidate")
@_reference
@click.option("-y", "--yes", is_flag=True, help="Don't ask.")
@click.option("--force", is_flag=True, help="Remove a version together with the aliases that stand on it.")
def rm(reference: str, yes: bool, force: bool) -> None:
    """Remove a version with its files, or an alias alone.

    Files that other versions use are kept. A version's number is never given again.
    """
    registry = LocalRegistry.default()
    artifact = registry.find(reference)
    if not yes and sys.stdin.isatty():
        click.confirm(f"Remove {reference} ({artifact.digest})?", abort=True)
    removed = registry.remove(reference, force=force)
    freed = f", {decimal(removed.freed_bytes)} freed" if removed.freed_bytes else ""
    click.echo(f"removed {', '.join(removed.references)}{freed}")


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    click.echo("\n".join(table_lines(columns, rows)))
