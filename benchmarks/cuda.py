"""What an NVIDIA GPU gives, for a machine that has one: `nox -s gpu -- [--json FILE]`.

resnet50 at 224 pixels, on weights that know nothing, in fp32 and fp16 through Tandem's own engine: are its scores the
same bits from run to run, in another session, and at each place in a batch; how far are they from the CPU's in fp32;
and how many images a second are that, against the bound: the same graph run again and again on images that are on the
GPU already. Decoding is not counted. Both take turns, and medians are compared.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.figures import Bar, at_most, finish
from benchmarks.models import make_resnet50, open_work
from classifier.artifact import MODEL, MODEL_FP16
from classifier.engines.graphs import OUTPUT
from classifier.engines.onnxruntime import OnnxRuntimeEngine
from classifier.engines.runtime import check_cuda, load_runtime
from classifier.engines.sessions import open_on_cpu, open_on_cuda
from classifier.errors import TandemError
from classifier.wording import table_lines
from export.evaluating import open_images
from export.measuring.precisions import TOLERANCE_FLOORS

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from classifier.types import Precision
    from registry import Artifact

GRAPHS: dict[Precision, str] = {"fp32": MODEL, "fp16": MODEL_FP16}
TIMED_S = 2.0
BATCHES = 8
"""That the engine is given at once: how it passes from one to the next is part of its speed."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What was measured in one precision.

    Attributes:
        unlike_again: images whose scores have other bits in a second run, or in another session.
        unlike_elsewhere: likewise at another place in the batch, or alone.
        distance: of a probability from the CPU's in fp32, at most.
        engine: images/s from memory to scores, in each repetition.
        bound: images/s of the graph on resident images.
    """

    what: str
    batch_size: int
    unlike_again: int
    unlike_elsewhere: int
    distance: float
    engine: list[float]
    bound: list[float]


def unlike(scores: NDArray[np.float32], others: NDArray[np.float32]) -> int:
    """Return how many rows differ in a bit."""
    return sum(one.tobytes() != other.tobytes() for one, other in zip(scores, others, strict=True))


def resident_run(graph: bytes, *, size: int, crop_size: int) -> Callable[[], None]:
    """Return a function that runs `graph` once on a batch that is on the GPU, and waits for it."""
    runtime = load_runtime()
    given = open_on_cpu(runtime, graph, optimise=False).get_inputs()[0]
    session: Any = open_on_cuda(runtime, graph, index=0, fixed_sizes={given.shape[0]: size})
    noise = np.random.default_rng(0).integers(0, 256, (size, crop_size, crop_size, 3), dtype=np.uint8)
    binding = session.io_binding()
    binding.bind_ortvalue_input(given.name, runtime.OrtValue.ortvalue_from_numpy(noise, "cuda", 0))
    binding.bind_output(OUTPUT, "cuda", 0)

    def run() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    run()  # Only the first loads cuDNN.
    return run


def images_per_s(run: Callable[[], object], images: int) -> float:
    """Return how many images a second `run` does, which does so many each time."""
    done, started = 0, time.perf_counter()
    while (elapsed_s := time.perf_counter() - started) < TIMED_S:
        run()
        done += images
    return done / elapsed_s


def measure(artifact: Artifact, precision: Precision, images_nhwc: NDArray[np.uint8], repetitions: int) -> Figures:
    """Return the figures of resnet50 in one precision."""
    graph, crop_size = artifact.read(GRAPHS[precision]), artifact.config.preprocessing.crop_size
    engine = OnnxRuntimeEngine(graph, device="cuda", precision=precision, tuning="throughput")
    size = engine.info.batch_size
    assert size is not None
    other = OnnxRuntimeEngine(graph, device="cuda", precision=precision, batch_size=size)
    scores = engine.run(images_nhwc)
    count = len(images_nhwc)
    moved = [np.roll(engine.run(np.roll(images_nhwc, by, axis=0)), -by, axis=0) for by in (1, 7, count // 2)]
    alone = np.concatenate([engine.run(image[np.newaxis]) for image in images_nhwc])
    cpu = OnnxRuntimeEngine(artifact.read(MODEL)).run(images_nhwc)
    noise = np.random.default_rng(0).integers(0, 256, (BATCHES * size, crop_size, crop_size, 3), dtype=np.uint8)
    resident = resident_run(graph, size=size, crop_size=crop_size)
    rates: tuple[list[float], list[float]] = ([], [])
    for _ in range(repetitions):
        rates[0].append(images_per_s(lambda: engine.run(noise), len(noise)))
        rates[1].append(images_per_s(resident, size))
    return Figures(
        what=str(engine.info),
        batch_size=size,
        unlike_again=max(unlike(scores, again.run(images_nhwc)) for again in (engine, other)),
        unlike_elsewhere=max(unlike(scores, each) for each in (*moved, alone)),
        distance=float(np.abs(scores - cpu).max()),
        engine=rates[0],
        bound=rates[1],
    )


def main() -> None:
    """Run everything, print a table, and exit with 1 if there is no GPU, or a bar isn't kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="where the model is kept for the next time")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    try:
        gpu = check_cuda(load_runtime(), 0)
        work = open_work(options.work)
        artifact = make_resnet50(work)
        batches = open_images(work / "pictures" / "train", artifact.config).batches()
        images_nhwc = np.concatenate([images for _, images in batches])
        found = {precision: measure(artifact, precision, images_nhwc, options.repetitions) for precision in GRAPHS}
    except TandemError as error:
        sys.exit(f"Error: {error}")
    print(f"resnet50 at 224 px on {gpu.name} ({gpu.compute_capability}), medians of {options.repetitions}")
    rows = []
    for precision, each in found.items():
        engine, bound = statistics.median(each.engine), statistics.median(each.bound)
        unlikes = f"{each.unlike_again} and {each.unlike_elsewhere} of {len(images_nhwc)}"
        rates = f"{engine:.0f}", f"{bound:.0f}", f"{engine / bound:.1%}"
        rows.append((precision, str(each.batch_size), *rates, unlikes, f"{each.distance:.1e}"))
    columns = ("", "BATCH", "IMAGES/S", "BOUND", "OF IT", "UNLIKE AGAIN, ELSEWHERE", "FROM THE CPU'S FP32")
    print("\n".join(table_lines(columns, rows)))
    bars: dict[str, Bar] = {}
    for precision, each in found.items():
        bars[f"{precision}: images with other bits in another run"] = at_most(each.unlike_again, 0)
        bars[f"{precision}: images with other bits elsewhere in a batch"] = at_most(each.unlike_elsewhere, 0)
    bars["fp32: distance from the CPU's scores"] = at_most(found["fp32"].distance, TOLERANCE_FLOORS["fp32"])
    finish(bars, {"gpu": asdict(gpu), "precisions": {name: asdict(each) for name, each in found.items()}}, options.json)


if __name__ == "__main__":
    main()
