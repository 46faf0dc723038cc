"""The models that the benchmarks run: trained and exported once, by the project's own commands, into a work folder."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

from PIL import Image

from benchmarks.serving.photographs import make_classes
from classifier.errors import ModelNotFound
from registry import Artifact, LocalRegistry

TANDEM = str(Path(sys.executable).with_name("tandem"))

_SIDE = 256
_PICTURES = {"train": 48, "val": 16}
"""Of each label: as few as calibrate int8."""


def open_work(folder: Path) -> Path:
    """Return the work folder, made if it isn't there: this process and those that it starts keep their models in it."""
    work = folder.resolve()
    work.mkdir(parents=True, exist_ok=True)
    os.environ["TANDEM_HOME"] = str(work / "home")
    return work


def make_model(name: str, data: Path, *options: str, work: Path, export_options: tuple[str, ...] = ()) -> Artifact:
    """Return the model `name`, trained on `data` and exported where the registry doesn't hold it yet."""
    registry = LocalRegistry.default()
    try:
        return registry.resolve(name)
    except ModelNotFound:
        run = work / "runs" / name
        # One that was cut short is there already.
        _tandem("train", str(data), "--run", str(run), *options, *(["--resume"] if run.is_dir() else []))
        _tandem("export", str(run), "--name", name, *export_options)
        return registry.resolve(name)


def make_resnet50(work: Path) -> Artifact:
    """Return a resnet50 at 224 pixels trained on a few synthetic pictures.

    It measures speed, which does not depend on the weights.

    Its accuracy means nothing, so every precision is allowed.
    """
    pictures = work / "pictures"
    if not pictures.is_dir():
        _draw_pictures(pictures)
    options = ("--arch", "resnet50", "--image-size", "224", "--epochs", "1", "--batch-size", "16")
    return make_model("resnet50", pictures, *options, work=work, export_options=("--max-accuracy-drop", "1"))


def make_mobilenet(work: Path) -> Artifact:
    """Return a mobilenet_v3_small at 224 pixels, trained on a few crops of photographs, so that its scores differ."""
    data = work / "classes"
    if not data.is_dir():
        make_classes(data, each=20, side=256)
    options = ("--arch", "mobilenet_v3_small", "--image-size", "224", "--epochs", "10", "--batch-size", "16")
    return make_model(
        *("mobilenet", data, *options, "--val-fraction", "0.2"),
        work=work,
        export_options=("--precisions", "fp32,fp16", "--max-accuracy-drop", "1"),
    )


def _draw_pictures(folder: Path) -> None:
    """Fill `folder` with soft blots, reddish and bluish: the same each time."""
    dice = random.Random(0)
    for split, count in _PICTURES.items():
        for label, channel in (("red", 0), ("blue", 2)):
            target = folder / split / label
            target.mkdir(parents=True)
            for number in range(count):
                levels = bytearray(dice.randrange(192) for _ in range(8 * 8 * 3))
                levels[channel::3] = bytes(level + 64 for level in levels[channel::3])
                blot = Image.frombytes("RGB", (8, 8), bytes(levels))
                blot.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC).save(target / f"{number:03}.jpg", quality=90)


def _tandem(*command: str) -> None:
    print("$ tandem", *command, file=sys.stderr)
    if subprocess.run([TANDEM, *command], stdout=sys.stderr, check=False).returncode != 0:
        sys.exit(f"tandem {command[0]} failed")
