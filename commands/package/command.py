"""`tandem package`: a model in an image, labelled, pushed to where the model is."""

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
@click.option("--batch", "bulk", is_flag=True, help="The image of the bulk run, in place of the service's.")
@click.option(
    "--device", type=click.Choice(["cpu", "cuda"]),
    help="What the bulk run's image is for.  [default: cuda; the service's image is for CPUs]",
)  # fmt: skip
@click.option(
    "--push", "target", is_flag=False, flag_value="", metavar="[IMAGE]",
    help="Push the image with 'docker push'; without IMAGE as the model's name with '-service' or '-batch' behind it, "
    "to the registry that holds the model.",
)  # fmt: skip
def package(reference: str, bulk: bool, device: str | None, target: str | None) -> None:
    """Build an image that holds one model, exactly the digest that REF names; run it in the clone of Tandem.

    The service's image is a Bento, containerized by BentoML; that of '--batch' is Dockerfile.batch's with a read-only
    registry in it. Labels say which model is in it, 'tandem.model', and which commit of the sources,
    'org.opencontainers.image.revision'. An image that was not packaged takes its model from a mounted registry, or
    pulls it at its start: docs/containers.md says when to choose which.
    """
    from commands.package import images  # noqa: PLC0415  # --help answers at once

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
