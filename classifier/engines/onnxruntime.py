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
from classifier.engines.graphs import EMBEDDINGS, OUTPUT, check_embeds, check_images, check_numbers, not_a_classifier
from classifier.engines.sessions import check_cuda, load_runtime, open_on_cpu, open_on_cuda, run_session, runtime_errors
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
"""Images per execution on the CPU unless told otherwise: more at once take memory, and are no faster."""
SOON_SIZE = 8
"""On CUDA, for the soonest answer: a GPU takes about as long for one image, and a few may come at once."""


class OnnxRuntimeEngine:
    """A graph in ONNX Runtime on one device. Safe to call from several threads.

    Attributes:
        info: what runs.
        crop_size: the height and width that the graph takes.
        classes: how many scores it gives for each image.
        embedding_size: how many numbers an embedding has; None where it gives none.
        busy_size: how many images are under way at once.
    """

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
    ) -> None:
        """Open `graph` on `device`.

        Args:
            graph: an ONNX file: uint8 `[N, H, W, 3]` in, float32 `[N, classes]` out, named `probabilities`.
            device: `cpu`, `cuda` or `cuda:1`.
            precision: the arithmetic of the graph, as it is recorded.
            threads: of the CPU; None takes as many as this process may keep busy.
            batch_size: images per execution; on CUDA a smaller number is padded to it, so that the kernels, and with
                them the bits of the scores, are always the same.
            tuning: on CUDA, where no `batch_size` is given, what chooses one: `latency` a small one, `throughput` the
                fastest, found by trying.
            file: the graph's name in its artifact, for messages.

        Raises:
            EngineUnavailable: the device can't be had.
            DamagedArtifact: the bytes are no such graph.
            OutOfDeviceMemory: the device does not hold the graph.
        """
        check_numbers(threads=threads, batch_size=batch_size)
        runtime = load_runtime()
        kind, index = parse_device(device)
        # CUDA, too, begins on the CPU: it tells a damaged graph from a device that can't be had, and the name of the
        # batch dimension must be known before a session is opened that fixes it.
        session = open_on_cpu(runtime, graph, threads=threads, optimise=kind == "cpu", file=file)
        signature = _inspect(session, file=file)
        self.crop_size = signature.crop_size
        self.classes, self.embedding_size = signature.widths[OUTPUT], signature.widths.get(EMBEDDINGS)
        self._widths = signature.widths
        self._map: Callable[..., Iterable[list[NDArray[np.float32]]]]
        self._execute: Callable[[NDArray[np.uint8], Outputs], list[NDArray[np.float32]]]
        if kind == "cpu":
            instruction_set, fixed_size = cpu().instruction_set, None
            self._execution_size = self.busy_size = batch_size or EXECUTION_SIZE
            self._map = map
            self._execute = partial(_run_on_cpu, session, signature.input)
        else:
            instruction_set = check_cuda(runtime, index).kind
            fixed = _open_on_cuda(runtime, graph, signature, index=index, size=batch_size, tuning=tuning, file=file)
            self._execution_size = fixed_size = fixed.size
            self.busy_size = UNDER_WAY * fixed.size
            # Starts its threads when they are needed.
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
        """Return the probabilities of uint8 images `[N, H, W, 3]` as float32 `[N, classes]`, for any N >= 0.

        Raises:
            ValueError: the images have another shape or type: an error of the caller.
            OutOfDeviceMemory: one batch does not fit.
            EngineError: the device failed.
        """
        (scores,) = self._run(images_nhwc, (OUTPUT,))
        return scores

    def embed(self, images_nhwc: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return what `run` does, to the bit, and the images' embeddings as float32 `[N, embedding_size]`.

        Raises:
            ValueError: the graph gives no embeddings, or as `run` has it.
            OutOfDeviceMemory: one batch does not fit.
            EngineError: the device failed.
        """
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
    """Return the kind of a device and its index: `cpu` is ("cpu", 0), `cuda:1` is ("cuda", 1).

    Raises:
        EngineUnavailable: there is no such kind.
    """
    kind, colon, index = device.partition(":")
    if kind == "cuda" and (index.isdecimal() or not colon):
        return kind, int(index or 0)
    if device == "cpu":
        return kind, 0
    raise EngineUnavailable(f"engine 'onnxruntime' has no device '{device}'; choose auto, cpu, cuda or cuda:N")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Signature:
    """What a graph takes and gives.

    Attributes:
        input: the name of its input.
        batch: the name of the input's first dimension.
        widths: how many numbers each output has for an image: the probabilities, and the embeddings if there are any.
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
        raise DamagedArtifact(f"{file} names its inputs and outputs unreadably ({error}); export it again") from error
    widths = {
        name: shape[1]
        for name, (type, shape) in outputs.items()
        if name in (OUTPUT, EMBEDDINGS) and type == "tensor(float)" and len(shape) == 2 and isinstance(shape[1], int)
    }
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
    """Return batches of `size` on GPU `index`; of the size that suits `tuning` where it is None."""

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
        return open_fastest(open_with) if size is None and tuning == "throughput" else open_with(size or SOON_SIZE)
    except (OutOfDeviceMemory, EngineUnavailable):
        raise
    except EngineError as error:  # Its first run failed, so it can't be had.
        raise EngineUnavailable(str(error)) from error
