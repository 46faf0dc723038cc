"""OpenVINO on the CPU."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from classifier.artifact import MODEL
from classifier.engines.compiling import ERRORS, gist, load_openvino, open_compiled
from classifier.engines.graphs import (
    EMBEDDINGS,
    OUTPUT,
    check_embeds,
    check_images,
    check_numbers,
    is_memory,
    no_room,
    not_a_classifier,
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
"""Images per execution unless told otherwise: more at once were no faster (resnet50, bf16 and int8)."""


class OpenVinoEngine:
    """A graph in OpenVINO on the CPU. Safe to call from several threads.

    Attributes:
        info: what runs.
        crop_size: the height and width that the graph takes.
        classes: how many scores it gives for each image.
        embedding_size: how many numbers an embedding has; None where it gives none.
        busy_size: how many images occupy all of OpenVINO's streams.
    """

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
        """Compile `graph`, or load what an earlier process compiled.

        Args:
            graph: an ONNX file: uint8 `[N, H, W, 3]` in, float32 `[N, classes]` out, named `probabilities`; or what
                reads it, while what an earlier process compiled is loaded.
            precision: of convolutions and matrix products. `int8` wants a quantised graph.
            threads: of the CPU; None takes as many as this process may keep busy.
            batch_size: images per execution, at most.
            tuning: `latency` gives each execution all threads, `throughput` runs several beside each other.
            file: the graph's name in its artifact, for messages.
            digest: of the artifact, by which what is compiled is kept for the next time; None takes the graph's own.

        Raises:
            EngineUnavailable: OpenVINO isn't installed, or doesn't run this graph at this precision.
            DamagedArtifact: the graph is no classifier of images.
            OutOfDeviceMemory: memory does not hold the graph.
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
        self.busy_size = self._streams * self._execution_size
        self._requests: SimpleQueue[Any] = SimpleQueue()
        for _ in range(self._streams):
            self._requests.put(compiled.create_infer_request())
        # Starts its threads when they are needed.
        self._pool = ThreadPoolExecutor(self._streams, thread_name_prefix=NAME)

    def run(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probabilities of uint8 images `[N, H, W, 3]` as float32 `[N, classes]`, for any N >= 0.

        Raises:
            ValueError: the images have another shape or type: an error of the caller.
            OutOfDeviceMemory: one batch does not fit.
            EngineError: OpenVINO failed.
        """
        (scores,) = self._run(images_nhwc, (OUTPUT,))
        return scores

    def embed(self, images_nhwc: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return what `run` does, to the bit, and the images' embeddings as float32 `[N, embedding_size]`.

        Raises:
            ValueError: the graph gives no embeddings, or as `run` has it.
            OutOfDeviceMemory: one batch does not fit.
            EngineError: OpenVINO failed.
        """
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
            # In place where they are contiguous and can be written, which OpenVINO wants, though it does not write.
            images = np.require(images_nhwc, requirements=("C", "W"))
            request.set_input_tensor(self._runtime.Tensor(images, shared_memory=True))
            request.infer()
            return [request.get_tensor(name).data.copy() for name in outputs]
        except ERRORS as error:
            if is_memory(error):
                raise no_room(f"a batch of {counted(len(images_nhwc), 'image')}", "cpu") from error
            raise EngineError(f"openvino failed ({gist(error)}); choose engine onnxruntime") from error
        finally:
            self._requests.put(request)


def _inspect(compiled: Any, *, file: str) -> tuple[int, dict[str, int]]:
    """Return the height and width that the graph takes, and how many numbers each output has for an image."""
    inputs = [(str(port.element_type.to_string()), _shape(port)) for port in compiled.inputs]
    outputs = {name: (port.element_type.to_string(), _shape(port)) for port in compiled.outputs for name in port.names}
    widths = {
        name: shape[1]
        for name, (type, shape) in outputs.items()
        if name in (OUTPUT, EMBEDDINGS) and type == "f32" and len(shape) == 2 and shape[1] is not None
    }
    match inputs:
        case [("u8", [None, int(height), int(width), 3])] if height == width and OUTPUT in widths:
            return height, widths
    raise not_a_classifier(file, inputs=inputs, outputs=outputs)


def _shape(port: Any) -> list[int | None]:
    return [None if length.is_dynamic else length.get_length() for length in port.partial_shape]
