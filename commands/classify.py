"""`tandem classify`: a quick look at a few images."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from classifier.errors import ImageError, UnreadableImage
from classifier.wording import counted, utf8_text
from commands.exit_codes import FAILED_IMAGES
from commands.options import engine_options, model_option

if TYPE_CHECKING:
    from classifier.model import Model
    from classifier.types import Prediction

_EXAMPLE = """\b
Example:
  tandem classify cat.jpg dog.png --model pets:3
  tandem classify *.jpg --json | jq -r '[.path, .predictions[0].label] | @tsv'
"""


@click.command(epilog=_EXAMPLE)
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="IMAGE...")
@model_option
@engine_options
@click.option("-k", "--top-k", type=click.IntRange(min=1), default=5, show_default=True, help="Labels for each image.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each image, for programs.")
def classify(images: tuple[Path, ...], model: str | None, top_k: int, as_json: bool, **engine_options: Any) -> None:
    """Classify a few images and print the top labels of each.

    An image that can't be classified gets a line that says why; the others still get their answers, and the exit code
    is 3. For folders, use 'tandem batch'.
    """
    from registry.opening import open_model

    opened = open_model(model, **engine_options)
    failed = 0
    for path in images:
        answer = classify_file(opened, path, top_k)
        failed += isinstance(answer, ImageError)
        click.echo(as_line(opened, path, answer) if as_json else as_text(path, answer))
    if failed:
        click.echo(f"{failed} of {counted(len(images), 'image')} could not be classified", err=True)
        sys.exit(FAILED_IMAGES)


def classify_file(model: Model, path: Path, k: int) -> tuple[Prediction, ...] | ImageError:
    """Return the top-k predictions for the image in a file, or its error."""
    from classifier.images import read_image

    if path.is_dir():
        return UnreadableImage(
            f"a folder, not an image; 'tandem batch {utf8_text(path)}' classifies all images in it", reason="not_a_file"
        )
    try:
        data = read_image(path)
    except ImageError as error:
        return error
    (answer,) = model.classify([data], k)
    return answer


def as_line(model: Model, path: Path, answer: tuple[Prediction, ...] | ImageError) -> str:
    """Return an answer as one line of JSON, with the keys of the service's answers."""
    record: dict[str, object] = {"path": utf8_text(path)}
    if isinstance(answer, ImageError):
        record["error"] = {"reason": answer.reason, "message": str(answer)}
    else:
        record["predictions"] = answer
    record |= {"model": model.identity, "digest": model.digest, "engine": model.engine.info}
    return msgspec.json.encode(record).decode()


def as_text(path: Path, answer: tuple[Prediction, ...] | ImageError) -> str:
    """Return an answer as a small table under the image's name."""
    title = click.style(utf8_text(path), bold=True)
    if isinstance(answer, ImageError):
        return f"{title}\n  {click.style('error', fg='red')}  {answer}"
    width = max(len(prediction.label) for prediction in answer)
    rows = (f"  {prediction.label:<{width}}  {prediction.score:8.3%}" for prediction in answer)
    return "\n".join((title, *rows))
