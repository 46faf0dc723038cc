"""`tandem package`."""

from __future__ import annotations

from pathlib import Path

import click

_EXAMPLE = """\b
Example:
  tandem package digits:3
  tandem package localhost:5000/acme/digits:3 --push localhost:5000/acme/digits-service:3
  tandem package ghcr.io/acme/digits:production --batch --push
  docker run --rm -p 3000:3000 localhost:5000/acme/digits-service:3
"""


@click.command(epilog=_EXAMPLE)
@click.argument("reference", metavar="REF")
@click.option("--batch", "bulk", is_flag=True, help="Build the image of the bulk run instead of the service's.")
@click.option(
    "--device", type=click.Choice(["cpu", "cuda"]),
    help="Device of the bulk run's image.  [default: cuda; the service's image is for CPUs]",
)  # fmt: skip
@click.option(
    "--push", "target", is_flag=False, flag_value="", metavar="[IMAGE]",
    help="Push the image with 'docker push'. Without IMAGE its name is the model's with '-service' or '-batch' "
    "appended, in the registry that holds the model.",
)  # fmt: skip
def package(reference: str, bulk: bool, device: str | None, target: str | None) -> None:
    """Build an image that holds exactly one model, the digest that REF names. Run it in the clone of Tandem.

    The service's image is a Bento, containerized by BentoML. The image of '--batch' is Dockerfile.batch's with a
    read-only registry in it. The label 'tandem.model' names the model, and 'org.opencontainers.image.revision' the
    commit of the sources. Other images mount a registry or pull their model when they start: docs/containers.md says
    when to choose which.
    """
    from commands.package import images

    if device is not None and not bulk and device != "cpu":
        raise click.UsageError("the service's image is for CPUs: --device goes with --batch")
    packaged = images.package(
        reference,
        Path.cwd(),
        kind=images.BATCH if bulk else images.SERVICE,
        device=device or "cuda",
        image=target or None,
        push=target is not None,
    )
    click.echo(f"{packaged.image} holds {packaged.model}, revision {packaged.revision}")
    if packaged.pushed is not None:
        click.echo(f"pushed as {packaged.pushed}")
