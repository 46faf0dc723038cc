"""The images that the benchmark sends: crops of the photographs that scikit-learn and scikit-image bring, at one size.

The same each time with one version of Pillow. Photographs, because noise and blots decode at another speed.
"""

from __future__ import annotations

import hashlib
import random
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

from PIL import Image

_SOURCES = {
    "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
    "skimage": tuple(f"data/{name}" for name in ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")),
}
"""Photographs in each package's wheel: none needs a download."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSet:
    """Encoded images, all different.

    Attributes:
        name: what they are, for people.
        folder: where they are, as `00000.jpg` and so on.
        digest: SHA-256 of all their bytes, one after the other.
        sources: the SHA-256 of each photograph that they were made of.
        mean_bytes: mean size of a file.
    """

    name: str
    folder: Path
    count: int
    digest: str
    sources: dict[str, str]
    mean_bytes: int


def find_sources() -> dict[str, Path]:
    """Return the photographs by name; scikit-image's only where it is installed."""
    found: dict[str, Path] = {}
    for package, names in _SOURCES.items():
        spec = find_spec(package)
        if spec is not None and spec.origin is not None:
            found |= {f"{package}/{name}": Path(spec.origin).parent / name for name in names}
    if not found:
        sys.exit("there are no photographs: neither scikit-learn nor scikit-image is installed; install the first")
    return found


def make_images(folder: Path, *, count: int, width: int, height: int, seed: int = 0) -> ImageSet:
    """Fill `folder` with JPEGs of `width` × `height` pixels: random crops of 70 to 100 % of each photograph's sides."""
    sources = find_sources()
    photographs = [Image.open(path).convert("RGB") for path in sources.values()]
    dice, total = random.Random(seed), hashlib.sha256()
    folder.mkdir(parents=True, exist_ok=True)
    size = 0
    for number in range(count):
        data = _encode(_crop(photographs[number % len(photographs)], (width, height), dice))
        (folder / f"{number:05}.jpg").write_bytes(data)
        total.update(data)
        size += len(data)
    return ImageSet(
        name=f"{count} JPEGs of {width} × {height} pixels, crops of {len(sources)} photographs",
        folder=folder,
        count=count,
        digest=total.hexdigest(),
        sources={name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in sources.items()},
        mean_bytes=size // count,
    )


def make_classes(folder: Path, *, each: int, side: int) -> Path:
    """Fill `folder` with a class of images for each photograph, to train a network on; return it."""
    dice = random.Random(1)
    for name, path in find_sources().items():
        photograph = Image.open(path).convert("RGB")
        target = folder / Path(name).stem
        target.mkdir(parents=True, exist_ok=True)
        for number in range(each):
            (target / f"{number:03}.jpg").write_bytes(_encode(_crop(photograph, (side, side), dice)))
    return folder


def _crop(photograph: Image.Image, size: tuple[int, int], dice: random.Random) -> Image.Image:
    part = dice.uniform(0.7, 1.0)
    width, height = (round(part * side) for side in photograph.size)
    left, top = dice.randint(0, photograph.width - width), dice.randint(0, photograph.height - height)
    box = (left, top, left + width, top + height)
    return photograph.resize(size, Image.Resampling.BICUBIC, box=box)


def _encode(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
