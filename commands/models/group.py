"""`tandem models`: what the registry holds, and which version is which."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.filesize import decimal

from classifier.artifact import CARD
from classifier.errors import DamagedArtifact, UntrustedArtifact
from classifier.types import to_json
from classifier.wording import counted
from commands.models.sign import attach, find_anywhere, referrers_anywhere, sign
from registry.companions import read_referrers, signatures_in
from registry.local import LocalRegistry
from registry.oci.garbage import collect, find_garbage
from registry.oci.references import Reference
from registry.resolving import no_model_yet
from registry.signing import check_signature
from registry.summary import PRECISION_COLUMNS, describe_model, summarise, table_lines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from registry.oci.artifact import Artifact
    from registry.remote.models import RemoteModels

_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
_reference = click.argument("reference", metavar="REF")


@click.group(epilog="\b\nExample:\n  tandem models list\n  tandem models tag digits:3 production")
def models() -> None:
    """List, show, tag, push, pull, sign, verify and remove models.

    A reference with a host before it, 'ghcr.io/acme/digits:3', is that of a remote registry. The local one is an OCI
    image layout in $TANDEM_HOME/registry; where TANDEM_HOME isn't set, in ~/.tandem/registry.
    """


models.add_command(sign)
models.add_command(attach)


@models.command(
    "list",
    epilog="\b\nExample:\n  tandem models list\n  tandem models list ghcr.io/acme/digits\n"
    "  tandem models list --json | jq -r '.[].digest'",
)
@click.argument("repository", metavar="[REPOSITORY]", required=False)
@_json_option
def list_models(repository: str | None, as_json: bool) -> None:
    """List every version of every model, with its aliases; with REPOSITORY, those of a remote one."""
    registry = LocalRegistry.default()
    listed = registry.models() if repository is None else _list_repository(repository, registry)
    summaries = [summarise(artifact) for artifact in listed]
    if as_json:
        click.echo(to_json(summaries), nl=False)
    elif summaries:
        columns = ("MODEL", "ALIASES", "DIGEST", "SIZE", "LABELS", "ARCHITECTURE", "ACC1")
        _print_table(columns, [summary.cells() for summary in summaries])
    else:
        click.echo(no_model_yet(registry.root), err=True)


@models.command(
    epilog="\b\nExample:\n  tandem models show digits\n  tandem models show digits:3 --card\n"
    "  tandem models show ghcr.io/acme/digits:3",
)
@_reference
@_json_option
@click.option("--card", is_flag=True, help="Print the model card, as Markdown, and nothing else.")
def show(reference: str, as_json: bool, card: bool) -> None:
    """Show a model: its files and digests, how it may be run, how accurate it was.

    Of a remote model the weights are not fetched.
    """
    if card and as_json:
        raise click.UsageError("--card and --json exclude each other")
    artifact, repository = find_anywhere(reference)
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
    if referrers := referrers_anywhere(artifact, repository):
        click.echo()
        rows = [(one.manifest.kind, one.descriptor.digest) for one in referrers]
        _print_table(("REFERRER", "DIGEST"), rows)


@models.command(
    epilog="\b\nExample:\n  tandem models tag digits:3 production\n  tandem models tag ghcr.io/acme/digits:3 production"
)
@_reference
@click.argument("aliases", metavar="ALIAS...", nargs=-1, required=True)
def tag(reference: str, aliases: Sequence[str]) -> None:
    """Put aliases on a version, and take them off the one that had them.

    A bare name, 'digits', means the version that is 'production', else the highest.
    """
    parsed = Reference.parse(reference)
    if parsed.host is None:
        artifact = LocalRegistry.default().tag(reference, *aliases)
    else:
        artifact = _remote_models(parsed).tag(parsed, *aliases)
    for alias in aliases:
        click.echo(f"{artifact.name}:{alias} is {artifact.reference} ({artifact.digest})")


@models.command(
    epilog="\b\nExample:\n  tandem models push digits:3 ghcr.io/acme/digits\n"
    "  tandem models push digits:3 localhost:5000/acme/digits:production"
)
@_reference
@click.argument("target", metavar="TARGET")
def push(reference: str, target: str) -> None:
    """Push a model to a remote registry, under its version or under the tag that TARGET has.

    A version that is there is never overwritten; an alias moves. Files that the registry has are not sent again. The
    credentials are those of 'docker login', or TANDEM_REGISTRY_USERNAME and TANDEM_REGISTRY_PASSWORD.
    """
    from registry.transfer import push as push_model  # noqa: PLC0415  # HTTP and TLS, which few commands need

    pushed = push_model(reference, target, LocalRegistry.default())
    files = f"{counted(len(pushed.sent), 'file')} sent, {decimal(sum(pushed.sent))}"
    mounted = f", {pushed.mounted} taken over from another repository" if pushed.mounted else ""
    referrers = f", {counted(pushed.referrers, 'referrer')} added" if pushed.referrers else ""
    click.echo(f"{pushed.reference} is {pushed.digest}")
    click.echo(f"{files}{mounted}{referrers}", err=True)


@models.command(
    epilog="\b\nExample:\n  tandem models pull ghcr.io/acme/digits:3\n"
    "  tandem batch images --model ghcr.io/acme/digits:3 --output out"
)
@_reference
def pull(reference: str) -> None:
    """Pull a model from a remote registry, each file checked against its digest.

    The copy keeps its whole name, and answers to it from then on without the network. What is here already is checked,
    and not fetched again unless it is damaged.
    """
    from registry.transfer import pull as pull_model  # noqa: PLC0415  # HTTP and TLS, which few commands need

    parsed = Reference.parse(reference)
    if parsed.host is None:
        raise click.UsageError(f"'{reference}' has no registry's host before it; 'ghcr.io/acme/{reference}' would have")
    artifact = pull_model(parsed, LocalRegistry.default())
    click.echo(f"{parsed} is {artifact.digest}")


@models.command(epilog="\b\nExample:\n  tandem models verify digits:3\n  tandem models verify --all")
@click.argument("references", metavar="REF...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="Verify every model of the registry.")
@click.option(
    "--key",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="TANDEM_TRUSTED_KEY",
    show_envvar=True,
    help="Public key, as PEM: refuse what it didn't sign.",
)
def verify(references: Sequence[str], every: bool, key: Path | None) -> None:
    """Read every byte of models and compare it with its digest; exit with 1 where something is damaged, or unsigned."""
    if every == bool(references):
        raise click.UsageError("name the models to verify, or give --all")
    registry = LocalRegistry.default()
    artifacts = registry.models() if every else [registry.find(reference) for reference in references]
    damaged = 0
    for artifact in artifacts:
        problems, verdict = artifact.verify(), "damaged"
        if key is not None and not problems:
            problems, verdict = _signature_problems(artifact, key), "not signed"
        click.echo(f"{artifact.reference} {artifact.digest} {verdict if problems else 'ok'}")
        for problem in problems:
            click.echo(f"  {problem}")
        damaged += bool(problems)
    if damaged:
        raise DamagedArtifact(f"{damaged} of {counted(len(artifacts), 'model')} can't be used, for the reasons above")


def _signature_problems(artifact: Artifact, key: Path) -> list[str]:
    signatures = signatures_in(read_referrers(artifact.digest, LocalRegistry.holding(artifact).layout))
    try:
        check_signature(artifact.reference, artifact.layout.read_blob(artifact.descriptor), signatures, key)
    except UntrustedArtifact as error:
        return [str(error)]
    return []


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


@models.command(epilog="\b\nExample:\n  tandem models gc\n  tandem models gc --yes")
@click.option("-y", "--yes", is_flag=True, help="Delete it.")
def gc(yes: bool) -> None:
    """Show what takes space and has no name, such as what an alias that moved left behind; with --yes, delete it.

    Pulls may run meanwhile: files younger than an hour are kept, beginnings of downloads for a day.
    """
    layout = LocalRegistry.default().layout
    garbage = collect(layout) if yes else find_garbage(layout)
    for path in (*garbage.blobs, *garbage.partials):
        click.echo(path)
    files = counted(len(garbage.blobs) + len(garbage.partials), "file")
    click.echo(f"{files}, {decimal(garbage.size_bytes)}, {'deleted' if yes else 'to delete with --yes'}", err=True)


def _list_repository(repository: str, registry: LocalRegistry) -> Sequence[Artifact]:
    parsed = Reference.parse(repository)
    if parsed.tag is not None or parsed.digest is not None:
        raise click.UsageError(f"'{repository}' names one model; 'tandem models show {repository}' shows it")
    if parsed.host is None:
        return [model for model in registry.models() if model.name == parsed.name]
    return _remote_models(parsed).models()


def _remote_models(reference: Reference) -> RemoteModels:
    from registry.remote.models import RemoteModels  # noqa: PLC0415  # HTTP and TLS, which few commands need

    return RemoteModels(reference)


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    click.echo("\n".join(table_lines(columns, rows)))
