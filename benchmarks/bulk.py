"""How many images a second a bulk run reads, decodes and writes: beside the loop that one writes by hand.

The engine answers at once, so that what is measured is everything else: on many cores, and with a GPU, that is what a
run waits for. The loop by hand is a pool of threads that open, resize and crop with Pillow, numpy and a CSV file; it
makes no digest, survives no `kill -9` and no hostile image. Both run in turn, on the same images and threads.

CPU time of the run's own process bounds what many cores can do with Tandem, whose codecs run in other processes: of
what is left, Python's lock lets one thread do most at a time. The loop's own includes its codecs. On two cores, where
the lock is little waited for, the loop is the faster one, for all that it leaves out.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import shlex
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from batch.inputs.named import find_inputs
from batch.pipeline.loading import decode_threads
from batch.run.local import LocalRunner
from batch.run.runner import BatchJob, run_batch
from batch.run.stopping import Interrupts
from benchmarks.figures import at_least, at_most, finish
from classifier.golden import GoldenSet
from classifier.hardware import cpu_limit
from classifier.model import Model
from classifier.types import AllowedPrecision, EngineInfo, ModelConfig, Preprocessing

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

CLASSES, BATCH_SIZE = 1000, 64
DISTINCT = 500
"""Images that are drawn for each size; the others are hard links of them."""
SIZES = {256: 224, 32: 28}
"""Sides of the images, and what the model takes of them."""


class InstantEngine:
    """Answers at once, and the same to everything."""

    embedding_size = None
    classes, busy_size = CLASSES, BATCH_SIZE
    info = EngineInfo(name="instant", version="1", device="cpu", precision="fp32", instruction_set="none")

    def __init__(self, crop_size: int) -> None:
        self.crop_size = crop_size
        levels = np.random.default_rng(0).random((BATCH_SIZE, CLASSES), dtype=np.float32)
        self._scores = levels / levels.sum(axis=1, keepdims=True)

    def run(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return some scores."""
        return self._scores[: len(images_nhwc)].copy()

    def embed(self, images_nhwc: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return no embeddings."""
        raise ValueError("there are none")


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What was measured of one way of doing it, a value for each repetition.

    Attributes:
        cpu_ms: for each image, of the run's own process.
    """

    images_per_s: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)

    def add(self, run: Callable[[], None], images: int) -> None:
        """Run once, and add what it took."""
        started, cpu_s = time.perf_counter(), time.process_time()
        run()
        self.images_per_s.append(images / (time.perf_counter() - started))
        self.cpu_ms.append((time.process_time() - cpu_s) / images * 1000)


def draw(folder: Path, side: int, images: int) -> None:
    """Fill `folder` with noisy blots as JPEG, the same each time."""
    folder.mkdir()
    dice = np.random.default_rng(side)
    for number in range(min(images, DISTINCT)):
        blot = Image.fromarray(dice.integers(0, 256, (side // 16, side // 16, 3), dtype=np.uint8))
        levels = np.asarray(blot.resize((side, side), Image.Resampling.BICUBIC)).astype(int)
        noisy = (levels + dice.integers(-12, 13, levels.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{number:06}.jpg", quality=85)
    for number in range(DISTINCT, images):
        os.link(folder / f"{number % DISTINCT:06}.jpg", folder / f"{number:06}.jpg")


def run_tandem(folder: Path, out: Path, engine: InstantEngine, threads: int) -> None:
    """Run a batch over `folder` as `tandem batch` does."""
    config = ModelConfig(
        name="instant",
        architecture="none",
        labels=tuple(f"label {number}" for number in range(CLASSES)),
        preprocessing=Preprocessing(resize_size=engine.crop_size * 8 // 7, crop_size=engine.crop_size),
        allowed=(AllowedPrecision(precision="fp32", engine="instant", device="cpu", graph="none"),),
        opset=20,
    )
    golden = GoldenSet(images=(b"",), scores=np.zeros((1, CLASSES), dtype=np.float32), tolerances={})
    model = Model(name="instant", digest=f"sha256:{'0' * 64}", config=config, engine=engine, golden=golden)
    job = BatchJob(inputs=find_inputs([str(folder)]), output=out)
    with Interrupts() as interrupts, LocalRunner(model, threads=threads) as runner:
        record = run_batch(job, runner, interrupts)
    if record.failed:
        sys.exit(f"{record.failed} images failed")


def run_by_hand(folder: Path, out: Path, engine: InstantEngine, threads: int) -> None:
    """Do what one writes by hand."""
    resize_size, crop_size = engine.crop_size * 8 // 7, engine.crop_size
    margin = (resize_size - crop_size) // 2
    box = (margin, margin, margin + crop_size, margin + crop_size)

    def load(path: Path) -> NDArray[np.uint8]:
        image = Image.open(io.BytesIO(path.read_bytes())).convert("RGB")
        return np.asarray(image.resize((resize_size, resize_size), Image.Resampling.BILINEAR).crop(box))

    paths = sorted(folder.iterdir())
    with ThreadPoolExecutor(threads) as pool, out.open("w", newline="") as file:
        writer = csv.writer(file)
        for start in range(0, len(paths), BATCH_SIZE):
            batch = paths[start : start + BATCH_SIZE]
            scores = engine.run(np.stack(list(pool.map(load, batch))))
            for path, row in zip(batch, scores, strict=True):
                best = np.argsort(-row)[:5]
                writer.writerow([path.name, *best.tolist(), *row[best].tolist()])


def measure(side: int, images: int, threads: int, repetitions: int) -> dict[str, Figures]:
    """Return the figures of both ways, each of which has run once before, for its imports."""
    engine = InstantEngine(SIZES[side])
    found = {"tandem": Figures(), "by hand": Figures()}
    ways = {"tandem": run_tandem, "by hand": run_by_hand}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "images"
        draw(folder, side, images)
        for repetition in range(repetitions + 1):
            for who, run in ways.items():
                figures = found[who] if repetition else Figures()
                out = Path(name) / f"{who}-{repetition}"
                figures.add(lambda run=run, out=out: run(folder, out, engine, threads), images)  # type: ignore[misc]
    return found


def main() -> None:
    """Run everything, print a table, and exit with 1 if a bar isn't kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--images", type=int, default=8000)
    parser.add_argument("--threads", type=int, help="that decode; one for each CPU unless told")
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    threads = decode_threads(options.threads)
    found = {f"{side} px": measure(side, options.images, threads, options.repetitions) for side in SIZES}
    print(f"{options.images:,} JPEGs, {threads} threads, {cpu_limit()} CPUs, medians of {options.repetitions}")
    print(f"{'':18}  {'IMAGES/S':>8}  {'CPU MS PER IMAGE, OWN PROCESS':>29}")
    bars = {}
    for size, by in found.items():
        for who, figures in by.items():
            rate, cpu_ms = statistics.median(figures.images_per_s), statistics.median(figures.cpu_ms)
            print(f"{size:>7}  {who:9}  {rate:>8,.0f}  {cpu_ms:>29.3f}")
        pairs = zip(by["tandem"].images_per_s, by["by hand"].images_per_s, strict=True)
        bars[f"{size}: images/s against by hand"] = at_least(statistics.median(a / b for a, b in pairs), 1)
        bars[f"{size}: CPU ms of its own process"] = at_most(statistics.median(by["tandem"].cpu_ms), 1 / 3)
    command = shlex.join(["python", "-m", "benchmarks.bulk", *sys.argv[1:]])
    ways = {size: {who: asdict(figures) for who, figures in by.items()} for size, by in found.items()}
    finish(bars, {"command": command, "cpus": cpu_limit(), "threads": threads, "sizes": ways}, options.json)


if __name__ == "__main__":
    main()
