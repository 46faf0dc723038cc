"""`tandem classify`: one answer for each image, and what its exit code says."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from registry import LocalRegistry, open_model

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def images(test_folder: Path) -> list[Path]:
    return sorted(test_folder.rglob("*.png"))[::60]


@pytest.mark.usefixtures("home")
def test_table(tandem: Any, images: list[Path]) -> None:
    """Each image is a name with its top labels under it, the highest first; logs are not among them."""
    done = tandem("classify", "--model", "digits", "--top-k", "2", *images)
    lines = done.stdout.splitlines()
    assert lines[::3] == [str(image) for image in images]
    for first, second in zip(lines[1::3], lines[2::3], strict=True):
        assert float(first.split()[1].rstrip("%")) >= float(second.split()[1].rstrip("%"))
    assert re.search(r"digits@sha256:\w+ runs on (onnxruntime|openvino) ", done.stderr)


def test_json_has_the_scores_of_the_model(tandem: Any, home: Path, images: list[Path]) -> None:
    """JSON carries each score exactly, with the model's digest and the engine, as the service does."""
    done = tandem("classify", "--json", *images)
    model = open_model("digits", registry=LocalRegistry(home / "registry"))
    for line, image in zip(done.stdout.splitlines(), images, strict=True):
        answer = json.loads(line)
        (expected,) = model.classify([image.read_bytes()])
        assert [(p["label"], p["index"], p["score"]) for p in answer["predictions"]] == [
            (p.label, p.index, p.score) for p in expected
        ]
        assert all(np.float32(p["score"]) == p["score"] for p in answer["predictions"])
        assert (answer["path"], answer["model"], answer["digest"]) == (str(image), model.identity, model.digest)
        assert answer["engine"]["device"] == "cpu"


@pytest.mark.usefixtures("home")
def test_one_bad_image_spoils_no_other(tandem: Any, images: list[Path], tmp_path: Path) -> None:
    """What is missing, empty, a folder or no image is a line with its reason; the others are answered; exit code 3."""
    (tmp_path / "empty.png").touch()
    (tmp_path / "notes.jpg").write_text("not an image")
    bad = {"missing.png": "missing", "empty.png": "empty", "notes.jpg": "not_an_image", ".": "not_a_file"}
    done = tandem("classify", "--json", images[0], *bad, images[1], check=False, cwd=tmp_path)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 3
    assert [answer.get("error", {}).get("reason") for answer in answers] == [None, *bad.values(), None]
    assert "4 of 6 images could not be classified" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("home")
def test_bad_image_in_the_table(tandem: Any, images: list[Path], tmp_path: Path) -> None:
    """A folder's line names the command for folders."""
    done = tandem("classify", images[0], tmp_path, check=False)
    assert done.returncode == 3
    last = done.stdout.splitlines()[-1]
    assert last == f"  error  a folder, not an image; 'tandem batch {tmp_path}' classifies all images in it"


@pytest.mark.usefixtures("home")
def test_a_name_that_is_not_text(tandem: Any, images: list[Path], tmp_path: Path) -> None:
    r"""A file whose name is not UTF-8 is answered like any other; its name is printed with `\xff`."""
    name = tmp_path / os.fsdecode(b"\xff.png")
    name.write_bytes(images[0].read_bytes())
    for options in ([], ["--json"]):
        assert r"\xff.png" in tandem("classify", name, *options).stdout.replace("\\\\", "\\")


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (["--model", "unknown"], 1, "model 'unknown' is not in the registry"),
        (["--device", "tpu"], 1, "choose auto, cpu, cuda or cuda:N"),
        (["--engine", "tensorrt"], 1, "there is no engine 'tensorrt'"),
        (
            ["--precision", "int4"],
            1,
            "there is no precision 'int4'; choose auto, fp32, bf16, fp16 or int8",
        ),
        (["--top-k", "0"], 2, "Invalid value for '-k'"),
    ],
)
def test_wrong_options(tandem: Any, images: list[Path], options: list[str], code: int, sentence: str) -> None:
    """What can't be had ends in one sentence and answers no image."""
    done = tandem("classify", images[0], *options, check=False)
    assert (done.returncode, done.stdout) == (code, "")
    assert sentence in done.stderr.splitlines()[-1]


def test_no_model_yet(tandem: Any, images: list[Path], tmp_path: Path) -> None:
    done = tandem("classify", images[0], check=False, env={"TANDEM_HOME": str(tmp_path)})
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "holds no model yet" in line
    assert not list(tmp_path.iterdir())


def test_no_image(tandem: Any) -> None:
    assert tandem("classify", check=False).returncode == 2
