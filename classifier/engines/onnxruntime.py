"""ONNX Runtime on the CPU and on CUDA."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from classifier.artifact import MODEL
from classifier.engines.hardware import cpu_instruction_set
from classifier.engines.sessions import load_runtime, open_on_cpu, open_on_cuda, run_session, runtime_errors
from classifier.errors import DamagedArtifact, EngineError, EngineUnavailable, OutOfDeviceMemory
from classifier.types import EngineInfo, Precision

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAME = "onnxruntime"
OUTPUT = "probabilities"
BATCH_SIZE = 32
"""Images per execution unless told otherwise: it bounds the memory of one. On CUDA each has just this size."""


class OnnxRuntimeEngine:
    """A graph in ONNX Runtime on one device. Safe to call from several threads.

    Attributes:
        info: what runs.
        crop_size: the height and width that the graph takes.
        classes: how many scores it gives for each image.
    """

    def __init__(
        self,
        graph: bytes,
        *,
        device: str = "cpu",
        precision: Precision = "fp32",
        threads: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        """Open `graph` on `device`.

        Args:
            graph: an ONNX file: uint8 `[N, H, W, 3]` in, float32 `[N, classes]` out, named `probabilities`.
            device: `cpu`, `cuda` or `cuda:1`.
            precision: the arithmetic of the graph, as it is recorded.
            threads: of the CPU; None takes as many as this process may keep busy.
            batch_size: images per execution; on CUDA a smaller number is padded to it, so that the kernels, and with
                them the bits of the scores, are always the same.

        Raises:
            EngineUnavailable: the device can't be had.
            DamagedArtifact: the bytes are no such graph.
            OutOfDeviceMemory: the device does not hold the graph.
        """
        if (threads is not None and threads < 1) or (batch_size is not None and batch_size < 1):
            raise ValueError(f"an engine wants threads and batch_size of 1 or more, got {threads} and {batch_size}")
        runtime = load_runtime()
        kind, index = parse_device(device)
        self._batch_size = batch_size or BATCH_SIZE
        # CUDA, too, begins on the CPU: it tells a damaged graph from a device that can't be had, and the name of the
        # batch dimension must be known before a session is opened that fixes it.
        self._session = open_on_cpu(runtime, graph, threads=threads, optimise=kind == "cpu")
        self._input, batch_dimension, self.crop_size, self.classes = _inspect(self._session)
        if kind == "cpu":
            instruction_set = cpu_instruction_set()
        else:
            self._session, gpu = open_on_cuda(
                runtime, graph, index=index, fixed_sizes={batch_dimension: self._batch_size}
            )
            instruction_set = gpu.compute_capability
        self.info = EngineInfo(
            name=NAME,
            version=runtime.__version__,
            device="cpu" if kind == "cpu" else f"cuda:{index}",
            precision=precision,
            instruction_set=instruction_set,
            batch_size=None if kind == "cpu" else self._batch_size,
        )
        if kind == "cuda":
            self._warm_up()

    def run(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probabilities of uint8 images `[N, H, W, 3]` as float32 `[N, classes]`, for any N >= 0.

        Raises:
            ValueError: the images have another shape or type: an error of the caller.
            OutOfDeviceMemory: one batch does not fit.
            EngineError: the device failed.
        """
        size = self.crop_size
        if images_nhwc.dtype != np.uint8 or images_nhwc.shape[1:] != (size, size, 3):
            raise ValueError(
                f"the graph takes uint8 [N, {size}, {size}, 3], got {images_nhwc.dtype} {list(images_nhwc.shape)}"
            )
        scores = np.empty((len(images_nhwc), self.classes), dtype=np.float32)
        for start in range(0, len(images_nhwc), self._batch_size):
            batch = images_nhwc[start : start + self._batch_size]
            scores[start : start + len(batch)] = self._run_batch(batch)[: len(batch)]
        return scores

    def _warm_up(self) -> None:
        """Run once: only a first run loads cuDNN and takes the memory that every other will need."""
        try:
            self.run(np.zeros((1, self.crop_size, self.crop_size, 3), dtype=np.uint8))
        except OutOfDeviceMemory:
            raise
        except EngineError as error:
            raise EngineUnavailable(str(error)) from error

    def _run_batch(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        if self.info.batch_size is not None and len(batch) < self.info.batch_size:
            padding = np.zeros((self.info.batch_size - len(batch), *batch.shape[1:]), dtype=np.uint8)
            batch = np.concatenate([batch, padding])
        inputs = {self._input: np.ascontiguousarray(batch)}
        (scores,) = run_session(self._session, [OUTPUT], inputs, device=self.info.device)
        assert isinstance(scores, np.ndarray)
        return scores


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


def _inspect(session: Any) -> tuple[str, str, int, int]:
    """Return the name of the graph's input and of its batch dimension, its height and width, and the classes."""
    try:
        inputs = [(value.name, value.type, value.shape) for value in session.get_inputs()]
        outputs = {value.name: (value.type, value.shape) for value in session.get_outputs()}
    except runtime_errors() as error:  # a name that is not UTF-8
        raise DamagedArtifact(f"{MODEL} names its inputs and outputs unreadably ({error}); export it again") from error
    match inputs, outputs.get(OUTPUT):
        case (
            [(str(name), "tensor(uint8)", [str(batch), int(height), int(width), 3])],
            ("tensor(float)", [_, int(classes)]),
        ) if height == width:
            return name, batch, height, classes
    raise DamagedArtifact(
        f"{MODEL} takes {inputs} and gives {outputs}, where one uint8 [N, H, H, 3] and float32 '{OUTPUT}' [N, classes] "
        "are wanted; export it with 'tandem export'"
    )
