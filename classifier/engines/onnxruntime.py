"""ONNX Runtime on the CPU and on CUDA."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier.artifact import MODEL
from classifier.engines.cuda import UNDER_WAY, FixedBatch, open_fastest
from classifier.engines.failures import runtime_errors
from classifier.engines.graphs import (
    EMBEDDINGS,
    OUTPUT,
    check_embeds,
    check_images,
    check_numbers,
    not_a_classifier,
    output_widths,
)
from classifier.engines.runtime import check_cuda, load_runtime
from classifier.engines.screening import screen_graph
from classifier.engines.sessions import open_on_cpu, open_on_cuda, run_session
from classifier.errors import DamagedArtifact, EngineError, EngineUnavailable, OutOfDeviceMemory
from classifier.hardware import cpu
from classifier.types import EngineInfo, Precision

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import ModuleType

    from numpy.typing import NDArray

    from classifier.engines import Tuning
    from classifier.engines.graphs import Outputs

NAME = "onnxruntime"
EXECUTION_SIZE = 16
"""Default batch size on the CPU. Larger batches take more memory and are no faster."""
LATENCY_SIZE = 8
"""Default batch size on CUDA for the tuning `latency`. A GPU takes about as long for one image."""


class OnnxRuntimeEngine:
    """A graph in ONNX Runtime on one device. An `Engine`, with its attributes."""

    def __init__(
        self,
        graph: bytes,
        *,
        device: str = "cpu",
        precision: Precision = "fp32",
        threads: int | None = None,
        batch_size: int | None = None,
        tuning: Tuning = "latency",
        file: str = MODEL,
        alone: bool = False,
    ) -> None:
        """Open `graph` on `device`.

        Args:
            graph: an ONNX file: uint8 `[N, H, W, 3]` in, float32 `[N, classes]` out, named `probabilities`.
            device: `cpu`, `cuda` or `cuda:1`.
            precision: the graph's arithmetic, for `info`.
            threads: number of CPU threads; None takes the CPUs that this process may use.
            batch_size: images per execution, at most. On CUDA smaller batches are padded to it, so that kernels, and
                with them the bits of the scores, are always the same.
            tuning: how to choose the `batch_size` on CUDA if none is given: `latency` takes a small one, `throughput`
                measures which one is fastest.
            file: the graph's name in its artifact, for messages.
            alone: run each image alone on the CPU, as a batch of 1, which `info` says; for a graph whose scores depend
                on the place in a batch.

        Raises:
            EngineUnavailable: the device is not available.
            DamagedArtifact: the bytes are not such a graph.
            OutOfDeviceMemory: the graph or one batch does not fit into the device's memory.
        """
        check_numbers(threads=threads, batch_size=batch_size)
        runtime = load_runtime()
        kind, index = parse_device(device)
        screen_graph(graph, file=file)
        # On the CPU even for CUDA: this tells a damaged graph from an unavailable device, and finds the name of the
        # batch dimension, which the session on CUDA needs.
        session = open_on_cpu(runtime, graph, threads=threads, optimise=kind == "cpu", file=file)
        signature = _inspect(session, file=file)
        self.crop_size = signature.crop_size
        self.classes, self.embedding_size = signature.widths[OUTPUT], signature.widths.get(EMBEDDINGS)
        self._widths = signature.widths
        self._map: Callable[..., Iterable[list[NDArray[np.float32]]]]
        self._execute: Callable[[NDArray[np.uint8], Outputs], list[NDArray[np.float32]]]
        if kind == "cpu":
            instruction_set, fixed_size = cpu().instruction_set, 1 if alone else None
            self.busy_size, self.concurrency = batch_size or EXECUTION_SIZE, 1
            self._execution_size = fixed_size or self.busy_size
            self._map = map
            self._execute = partial(_run_on_cpu, session, signature.input)
        else:
            instruction_set = check_cuda(runtime, index).kind
            fixed = _open_on_cuda(runtime, graph, signature, index=index, size=batch_size, tuning=tuning, file=file)
            self._execution_size = fixed_size = fixed.size
            self.busy_size, self.concurrency = UNDER_WAY * fixed.size, UNDER_WAY
            # Starts its threads on first use.
            self._map = ThreadPoolExecutor(UNDER_WAY, thread_name_prefix=device).map
            self._execute = fixed.run
        self.info = EngineInfo(
            name=NAME,
            version=runtime.__version__,
            device="cpu" if kind == "cpu" else f"cuda:{index}",
            precision=precision,
            instruction_set=instruction_set,
            batch_size=fixed_size,
        )

    def run(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probabilities of the images; see `Engine.run`."""
        (scores,) = self._run(images_nhwc, (OUTPUT,))
        return scores

    def embed(self, images_nhwc: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the probabilities and embeddings of the images; see `Engine.embed`."""
        check_embeds(self.embedding_size)
        scores, embeddings = self._run(images_nhwc, (OUTPUT, EMBEDDINGS))
        return scores, embeddings

    def _run(self, images_nhwc: NDArray[np.uint8], outputs: Outputs) -> list[NDArray[np.float32]]:
        check_images(images_nhwc, size=self.crop_size)
        rows = [np.empty((len(images_nhwc), self._widths[name]), dtype=np.float32) for name in outputs]
        size = self._execution_size
        starts = range(0, len(images_nhwc), size)
        batches = (images_nhwc[start : start + size] for start in starts)
        run_all = self._map if len(starts) > 1 else map
        for start, batch in zip(starts, run_all(self._execute, batches, repeat(outputs)), strict=True):
            for of_all, of_batch in zip(rows, batch, strict=True):
                of_all[start : start + len(of_batch)] = of_batch
        return rows


def parse_device(device: str) -> tuple[str, int]:
    """Return a device's kind and index: ("cpu", 0) for `cpu`, ("cuda", 1) for `cuda:1`.

    Raises:
        EngineUnavailable: the device is unknown.
    """
    kind, colon, index = device.partition(":")
    if kind == "cuda" and (index.isdecimal() or not colon):
        return kind, int(index or 0)
    if device == "cpu":
        return kind, 0
    raise EngineUnavailable(f"engine 'onnxruntime' has no device '{device}'; choose auto, cpu, cuda or cuda:N")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Signature:
    """A graph's input and outputs.

    Attributes:
        input: name of the input.
        batch: name of the input's first dimension.
        crop_size: height and width of the input.
        widths: columns of the probabilities, and of the embeddings if the graph outputs them.
    """

    input: str
    batch: str
    crop_size: int
    widths: Mapping[str, int]


def _inspect(session: Any, *, file: str) -> _Signature:
    try:
        inputs = [(value.name, value.type, value.shape) for value in session.get_inputs()]
        outputs = {value.name: (value.type, value.shape) for value in session.get_outputs()}
    except runtime_errors() as error:  # a name that is not UTF-8
        raise DamagedArtifact(f"{file} has unreadable names of inputs or outputs ({error}); export it again") from error
    widths = output_widths(outputs, float32="tensor(float)")
    match inputs:
        case [(str(name), "tensor(uint8)", [str(batch), int(height), int(width), 3])] if height == width and (
            OUTPUT in widths
        ):
            return _Signature(input=name, batch=batch, crop_size=height, widths=widths)
    raise not_a_classifier(file, inputs=inputs, outputs=outputs)


def _run_on_cpu(session: Any, input: str, batch: NDArray[np.uint8], outputs: Outputs) -> list[NDArray[np.float32]]:
    return run_session(session, list(outputs), {input: np.ascontiguousarray(batch)}, device="cpu")


def _open_on_cuda(
    runtime: ModuleType,
    graph: bytes,
    signature: _Signature,
    *,
    index: int,
    size: int | None,
    tuning: Tuning,
    file: str,
) -> FixedBatch:
    """Return batches of `size` on GPU `index`; if `size` is None, of the size that suits `tuning`."""

    def open_with(size: int) -> FixedBatch:
        return FixedBatch(
            runtime,
            open_on_cuda(runtime, graph, index=index, fixed_sizes={signature.batch: size}, file=file),
            input=signature.input,
            size=size,
            crop_size=signature.crop_size,
            widths=signature.widths,
            device=("cuda", index),
        )

    try:
        return open_fastest(open_with) if size is None and tuning == "throughput" else open_with(size or LATENCY_SIZE)
    except (OutOfDeviceMemory, EngineUnavailable):
        raise
    except EngineError as error:  # The first run failed.
        raise EngineUnavailable(str(error)) from error
