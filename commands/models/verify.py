"""`tandem models verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from classifier.errors import DamagedArtifact
from classifier.wording import counted, one_line
from registry.attaching import signature_problem
from registry.local import LocalRegistry

if TYPE_CHECKING:
    from collections.abc import Sequence


@click.command(epilog="\b\nExample:\n  tandem models verify digits:3\n  tandem models verify --all")
@click.argument("references", metavar="REF...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Verify every model in the registry.")
@click.option(
    "--key",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="TANDEM_TRUSTED_KEY",
    show_envvar=True,
    help="Public key, as PEM. Models that it did not sign are refused.",
)
def verify(references: Sequence[str], every: bool, key: Path | None) -> None:
    """Read every byte of models and compare it with its digest; exit with 1 if something is damaged or unsigned."""
    if every == bool(references):
        raise click.UsageError("name the models to verify, or give --all")
    registry = LocalRegistry.default()
    artifacts = registry.models() if every else [registry.find(reference) for reference in references]
    bad = 0
    for artifact in artifacts:
        problems, verdict = artifact.verify(), "damaged"
        if key is not None and not problems and (problem := signature_problem(artifact, key)) is not None:
            problems, verdict = [problem], "not signed"
        click.echo(f"{artifact.reference} {artifact.digest} {verdict if problems else 'ok'}")
        for problem in problems:
            click.echo(f"  {one_line(problem)}")
        bad += bool(problems)
    if bad:
        raise DamagedArtifact(f"{bad} of {counted(len(artifacts), 'model')} can't be used, for the reasons above")
