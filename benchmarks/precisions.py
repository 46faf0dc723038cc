"""Every precision that a model allows, side by side: how fast, how soon, how right.

    nox -s bench -- precisions --data fashion-mnist.tar.gz --work .precisions [--json FILE]

Everything goes through Tandem: models are trained and exported by its commands, and run by its engines. Speed and the
first answer are those of resnet50 at 224 pixels on 2 threads, on weights that know nothing: that changes no speed.
Ways of running take turns in each round, each is compared with the base in the same round, and the medians of that
count: a machine whose other tenants come and go slows down all of a round. Accuracy is measured on Fashion-MNIST's
10,000 test images, 28 × 28, which neither training nor export has seen. The models stay in the work folder for the next
time.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tarfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.figures import Bar, at_least, at_most, finish
from benchmarks.models import make_model, make_resnet50, open_work
from classifier.engines.selection import choose, describe_way, open_engine
from classifier.hardware import cpu_of_onednn
from classifier.wording import table_lines
from export.evaluating import open_images
from export.measuring.precisions import run_engine
from registry.summary import describe_model

if TYPE_CHECKING:
    from classifier.engines import Engine
    from classifier.types import AllowedPrecision
    from registry import Artifact

THREADS = 2
BATCH_SIZE = 8
TIMED_S = 0.4
ROUNDS = 3
"""Of speed in each repetition: many short ones, because another program comes and goes."""
TRAINING_IMAGES = 1_000
"""Of each label: what one or two cores train on in minutes. High accuracy is not needed here."""

NETWORKS = {"small_cnn": 6, "resnet18": 2}
"""Epochs."""

BASE = "fp32 with onnxruntime on cpu"
SPEED_BARS = {
    "int8 with onnxruntime on cpu": 2.0,
    "bf16 with openvino on cpu": 3.5,
    "int8 with openvino on cpu": 6.0,
}
HEADINGS = {
    "one_batch": f"IMAGES/S, {BATCH_SIZE} AT ONCE",
    "many": "IMAGES/S, THROUGHPUT",
    "opened_s": "FIRST ANSWER, S",
    "tested_s": "WITH SELF-TEST, S",
}
DIGITS = {"one_batch": 1, "many": 1, "opened_s": 2, "tested_s": 2}
CACHED = ("bf16 with openvino on cpu", "int8 with openvino on cpu")
"""What is compiled, and kept compiled; ONNX Runtime has nothing to keep."""
MAX_POINTS = 0.3

# From a fresh process, whose imports count, to the answer for one image; `open_model` self-tests too, as services do.
FIRST_ANSWER = """
import sys, time
started = time.perf_counter()
from classifier.model import Model
from registry import LocalRegistry, open_model
door, reference, engine, precision, threads = sys.argv[1:]
options = {"engine": engine, "device": "cpu", "precision": precision, "threads": int(threads)}
if door == "opened":
    model = Model.open(LocalRegistry.default().resolve(reference), **options)
else:
    model = open_model(reference, **options)
model.classify(model.golden.images[:1])
print(time.perf_counter() - started)
"""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What was measured of one way of running resnet50, in each repetition.

    Attributes:
        one_batch: images/s of batches of 8, one after the other.
        many: images/s where the engine is opened for throughput, and given as many as occupy it.
        opened_s: from a fresh process to the first answer.
        tested_s: likewise, with the golden set replayed between.
    """

    one_batch: list[float]
    many: list[float]
    opened_s: list[float]
    tested_s: list[float]


def unpack(archive: Path, work: Path) -> Path:
    """Return the folder with `train` and `test` in it; of the training images so many as are used."""
    folder = work / "fashion-mnist"
    if folder.is_dir():
        return folder
    partial = work / "unpacking"
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                parts = Path(member.name).parts
                if len(parts) == 4 and (parts[1] == "test" or int(Path(parts[3]).stem) < TRAINING_IMAGES):
                    tar.extract(member, partial, filter="data")
        (partial / "fashion-mnist").rename(folder)
    except (OSError, ValueError, tarfile.TarError) as error:
        sys.exit(f"{archive} is not Fashion-MNIST as fashion-mnist/SPLIT/LABEL/NUMBER.png in a tar file ({error})")
    return folder


def open_way(artifact: Artifact, way: AllowedPrecision, *, tuning: str = "latency") -> Engine:
    """Return the engine that production would open for `way`."""
    return open_engine(
        artifact.config, artifact.read, engine=way.engine, device=way.device, precision=way.precision,
        threads=THREADS, batch_size=BATCH_SIZE, tuning=tuning, digest=artifact.digest,
    )  # fmt: skip


def images_per_s(engine: Engine, images_nhwc: np.ndarray) -> float:
    """Return how many images the engine scores in a second, given these again and again."""
    done, started = 0, time.perf_counter()
    while (elapsed_s := time.perf_counter() - started) < TIMED_S:
        engine.run(images_nhwc)
        done += len(images_nhwc)
    return done / elapsed_s


def first_answer_s(door: str, artifact: Artifact, way: AllowedPrecision) -> float:
    """Return how long a fresh process takes to its first answer."""
    command = [sys.executable, "-c", FIRST_ANSWER, door, artifact.identity, way.engine, way.precision, str(THREADS)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def time_ways(artifact: Artifact, ways: tuple[AllowedPrecision, ...], repetitions: int) -> dict[str, Timing]:
    """Return the timings of each way, by its name."""
    size = artifact.config.preprocessing.crop_size
    noise = np.random.default_rng(0).integers(0, 256, (64, size, size, 3), dtype=np.uint8)
    engines = {
        way: [
            (engine, noise[: engine.busy_size])
            for engine in (open_way(artifact, way, tuning=tuning) for tuning in ("latency", "throughput"))
        ]
        for way in ways
    }
    timings = {way: Timing(one_batch=[], many=[], opened_s=[], tested_s=[]) for way in ways}
    for way in ways:  # Warm: pages, caches, what was compiled.
        for engine, images_nhwc in engines[way]:
            engine.run(images_nhwc)
        first_answer_s("opened", artifact, way)
    for number in range(repetitions):
        # Who follows whom changes: a machine that slows down slows all down.
        order = ways if number % 2 else tuple(reversed(ways))
        for way in order * ROUNDS:
            (soon, eight), (busy, many) = engines[way]
            timings[way].one_batch.append(images_per_s(soon, eight))
            timings[way].many.append(images_per_s(busy, many))
        for way in order:
            timings[way].opened_s.append(first_answer_s("opened", artifact, way))
            timings[way].tested_s.append(first_answer_s("tested", artifact, way))
    return {describe_way(way): timing for way, timing in timings.items()}


def compare_speed(work: Path, repetitions: int) -> tuple[dict[str, Timing], dict[str, Bar]]:
    """Print what each way of running resnet50 takes; return that, and its bars."""
    artifact = make_resnet50(work)
    ways = choose(artifact.config, device="cpu").ways
    timings = time_ways(artifact, ways, repetitions)
    measured = {name: asdict(timing) for name, timing in timings.items()}
    base = measured[BASE]

    def ratio(name: str, what: str) -> float | None:
        if name not in measured:
            return None
        return statistics.median(one / other for one, other in zip(measured[name][what], base[what], strict=True))

    print(
        f"\nresnet50 at {artifact.config.preprocessing.crop_size} px on untrained weights, {THREADS} threads, medians "
        f"of {repetitions}; × is against {BASE} in the same round"
    )
    rows = [
        (
            name,
            *(
                f"{statistics.median(each[what]):.{digits}f}  {ratio(name, what):.2f}×"
                for what, digits in DIGITS.items()
            ),
        )
        for name, each in measured.items()
    ]
    print("\n".join(table_lines(("", *(HEADINGS[what] for what in DIGITS)), rows)))
    print_not_allowed(artifact)

    bars = {f"{name}: speed against fp32": at_least(ratio(name, "one_batch"), bar) for name, bar in SPEED_BARS.items()}
    bars |= {f"{name}: wait for the first answer against fp32": at_most(ratio(name, "opened_s"), 1) for name in CACHED}
    return timings, bars


def compare_accuracy(data: Path, work: Path) -> tuple[dict[str, dict[str, float]], dict[str, Bar]]:
    """Print how right each network is in each way that it allows and this machine has; return that, and its bars."""
    figures, bars = {}, {}
    for network, epochs in NETWORKS.items():
        options = ("--arch", network, "--image-size", "28", "--val-fraction", "0.2", "--epochs", str(epochs))
        artifact = make_model(network.replace("_", "-"), data / "train", *options, work=work)
        images = open_images(data / "test", artifact.config)
        print(f"\n{network} on {len(images):,} test images of Fashion-MNIST, 28 × 28, {epochs} epochs")
        found, rows = {}, []
        for way in sorted(choose(artifact.config, device="cpu").ways, key=lambda way: describe_way(way) != BASE):
            engine = open_way(artifact, way)
            labels = run_engine(engine, images, title=describe_way(way)).argmax(axis=1)
            found[describe_way(way)] = acc1 = float((labels == images.truth).mean())
            points = 100 * (acc1 - found[BASE])
            rows.append((describe_way(way), f"{acc1:.2%}", f"{points:+.2f}", str(engine.info)))
            if way.precision != "fp32":
                bars[f"{network}, points lost by {describe_way(way)}"] = at_most(-points, MAX_POINTS)
        print("\n".join(table_lines(("", "ACC1", "POINTS", "ENGINE"), rows)))
        figures[network] = found
        print_not_allowed(artifact)
    return figures, bars


def print_not_allowed(artifact: Artifact) -> None:
    """Print which ways of running it the model doesn't allow, and why."""
    evaluation = describe_model(artifact).evaluation
    for each in evaluation.precisions if evaluation else ():
        if not each.allowed:
            print(f"{each.precision} with {each.engine} on {each.device}: {each.reason}")


def main() -> None:
    """Run everything, print tables, and exit with 1 if a bar isn't kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="Fashion-MNIST as a tar file of train/ and test/ with a folder of PNGs for each label",
    )
    parser.add_argument(
        "--work", type=Path, required=True, help="where models are kept for the next time; remove it to make them anew"
    )
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--repetitions", type=int, default=7)
    options = parser.parse_args()
    work = open_work(options.work)
    accuracy, right = compare_accuracy(unpack(options.data, work), work)
    print()
    timings, fast = compare_speed(work, options.repetitions)
    figures = {
        "command": f"nox -s bench -- precisions --data {options.data.name} --work {options.work.name} "
        f"--repetitions {options.repetitions}",
        "cpu": cpu_of_onednn().instruction_set,
        "resnet50": {name: asdict(timing) for name, timing in timings.items()},
        "acc1": accuracy,
    }
    finish({**fast, **right}, figures, options.json)


if __name__ == "__main__":
    main()
