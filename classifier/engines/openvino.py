"""OpenVINO on the CPU."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier.artifact import MODEL
from classifier.engines.compiling import ERRORS, gist, load_openvino, open_compiled
from classifier.engines.failures import is_out_of_memory, out_of_memory
from classifier.engines.graphs import (
    EMBEDDINGS,
    OUTPUT,
    check_embeds,
    check_images,
    check_numbers,
    not_a_classifier,
    output_widths,
)
from classifier.errors import EngineError
from classifier.hardware import cpu_of_onednn
from classifier.types import EngineInfo, Precision
from classifier.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from classifier.engines import Tuning
    from classifier.engines.graphs import Outputs

NAME = "openvino"
EXECUTION_SIZE = 8
"""Default batch size. Larger batches were no faster (resnet50, bf16 and int8)."""


class OpenVinoEngine:
    """A graph in OpenVINO on the CPU. An `Engine`, with its attributes."""

    def __init__(
        self,
        graph: bytes | Callable[[], bytes],
        *,
        precision: Precision = "fp32",
        threads: int | None = None,
        batch_size: int | None = None,
        tuning: Tuning = "latency",
        file: str = MODEL,
        digest: str | None = None,
    ) -> None:
        """Compile `graph`, or load the compiled graph from the cache.

        Args:
            graph: an ONNX file: uint8 `[N, H, W, 3]` in, float32 `[N, classes]` out, named `probabilities`; or a
                function that reads it, which is called while the cache is read.
            precision: the arithmetic of convolutions and matrix products; `int8` needs a quantised graph.
            threads: number of CPU threads; None takes the CPUs that this process may use.
            batch_size: images per execution, at most.
            tuning: `latency` gives each execution all threads, `throughput` runs several executions side by side.
            file: the graph's name in its artifact, for messages.
            digest: the artifact's digest, which identifies the graph in the cache; None takes the graph's own.

        Raises:
            EngineUnavailable: OpenVINO is not installed, or does not run this graph at this precision.
            DamagedArtifact: the graph is not an image classifier.
            OutOfDeviceMemory: the graph does not fit into memory.
        """
        check_numbers(threads=threads, batch_size=batch_size)
        self._runtime = load_openvino()
        compiled, self._held = open_compiled(
            graph if callable(graph) else lambda: graph,
            precision=precision,
            threads=threads,
            tuning=tuning,
            file=file,
            digest=digest,
        )
        self.crop_size, self._widths = _inspect(compiled, file=file)
        self.classes, self.embedding_size = self._widths[OUTPUT], self._widths.get(EMBEDDINGS)
        self.info = EngineInfo(
            name=NAME,
            version=self._runtime.__version__.partition("-")[0],
            device="cpu",
            precision=precision,
            instruction_set=cpu_of_onednn().instruction_set,
        )
        self._execution_size = batch_size or EXECUTION_SIZE
        self._streams: int = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        self.busy_size, self.concurrency = self._streams * self._execution_size, 1
        self._requests: SimpleQueue[Any] = SimpleQueue()
        for _ in range(self._streams):
            self._requests.put(compiled.create_infer_request())
        # Starts its threads on first use.
        self._pool = ThreadPoolExecutor(self._streams, thread_name_prefix=NAME)

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
        total = len(images_nhwc)
        if total == 0:
            return [np.empty((0, self._widths[name]), dtype=np.float32) for name in outputs]
        size = min(self._execution_size, -(-total // self._streams))
        parts = [images_nhwc[start : start + size] for start in range(0, total, size)]
        run_part = map if self._streams == 1 else self._pool.map
        rows = run_part(partial(self._execute, outputs=outputs), parts)
        return [np.concatenate(of_parts) for of_parts in zip(*rows, strict=True)]

    def _execute(self, images_nhwc: NDArray[np.uint8], *, outputs: Outputs) -> list[NDArray[np.float32]]:
        request = self._requests.get()
        try:
            # Copies only if needed: OpenVINO requires contiguous, writable memory, though it never writes to it.
            images = np.require(images_nhwc, requirements=("C", "W"))
            request.set_input_tensor(self._runtime.Tensor(images, shared_memory=True))
            request.infer()
            return [request.get_tensor(name).data.copy() for name in outputs]
        except ERRORS as error:
            if is_out_of_memory(error, "cpu"):
                raise out_of_memory(f"a batch of {counted(len(images_nhwc), 'image')}", "cpu") from error
            raise EngineError(f"openvino failed ({gist(error)}); choose engine onnxruntime") from error
        finally:
            self._requests.put(request)


def _inspect(compiled: Any, *, file: str) -> tuple[int, dict[str, int]]:
    """Return the crop size that the graph takes, and the columns of each output."""
    inputs = [(str(port.element_type.to_string()), _shape(port)) for port in compiled.inputs]
    outputs = {name: (port.element_type.to_string(), _shape(port)) for port in compiled.outputs for name in port.names}
    widths = output_widths(outputs, float32="f32")
    match inputs:
        case [("u8", [None, int(height), int(width), 3])] if height == width and OUTPUT in widths:
            return height, widths
    raise not_a_classifier(file, inputs=inputs, outputs=outputs)


def _shape(port: Any) -> list[int | None]:
    return [None if length.is_dynamic else length.get_length() for length in port.partial_shape]
