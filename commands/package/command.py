"""`tandem package`."""

from __future__ import annotations

from pathlib import Path

import click

_EXAMPLE = """\b
Example:
  tandem package digits:3
  tandem package localhost:5000/acme/digits:3 --push localhost:5000/acme/digits-service:3
  tandem package ghcr.io/acme/digits:production --batch --device openvino --push
  docker run --rm -p 3000:3000 localhost:5000/acme/digits-service:3
"""


@click.command(epilog=_EXAMPLE)
@click.argument("reference", metavar="REF")
@click.option("--batch", "bulk", is_flag=True, help="Build the image of the bulk run instead of the service's.")
@click.option(
    "--device", "engine", type=click.Choice(["cpu", "openvino", "cuda"]),
    help="What the image runs models on: a CPU, a CPU with OpenVINO beside ONNX Runtime, or NVIDIA GPUs.  [default: "
    "cpu; cuda with --batch]",
)  # fmt: skip
@click.option(
    "--platform", metavar="OS/ARCH", help="Platform of the image, such as linux/arm64.  [default: this machine's]"
)
@click.option(
    "--base", metavar="IMAGE", envvar="TANDEM_BASE_IMAGE", show_envvar=True,
    help="Image with Python 3.11 to build on, such as your company's copy.  [default: the Dockerfiles' own]",
)  # fmt: skip
@click.option(
    "--push", "target", is_flag=False, flag_value="", metavar="[IMAGE]",
    help="Push the image with 'docker push'. Without IMAGE its name is the model's with '-service' or '-batch' "
    "appended, in the registry that holds the model.",
)  # fmt: skip
def package(
    reference: str, bulk: bool, engine: str | None, platform: str | None, base: str | None, target: str | None
) -> None:
    """Build an image that holds exactly one model, the digest that REF names. Run it in the clone of Tandem.

    The service's image is a Bento in the image of Dockerfile.service. The image of '--batch' is Dockerfile.batch's with
    a read-only registry in it. A build fails if the model does not pass its self-test in the image. The label
    'tandem.model' names the model, and 'org.opencontainers.image.revision' the commit of the sources. '--push' also
    attaches the list of the image's packages (SBOM) to the image and the model in the registry.

    Other images mount a registry or pull their model when they start: docs/deploy/images.md says when to choose which.
    """
    from commands.package import images

    packaged = images.package(
        reference,
        Path.cwd(),
        kind=images.BATCH if bulk else images.SERVICE,
        build=images.Build(engine=engine or ("cuda" if bulk else "cpu"), platform=platform, base=base),
        image=target or None,
        push=target is not None,
    )
    click.echo(f"{packaged.image} holds {packaged.model}, revision {packaged.revision}")
    if packaged.pushed is not None:
        click.echo(f"pushed as {packaged.pushed}")
