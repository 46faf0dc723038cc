"""Several GPUs as one engine: only equal ones, rows in order, full ones left out."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest

from classifier.artifact import MODEL
from classifier.engines import group, selection
from classifier.engines.nvidia import Gpu, NvidiaDriver
from classifier.engines.selection import open_engine
from classifier.errors import OutOfDeviceMemory
from classifier.types import EngineInfo

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from classifier.engines import Engine
    from classifier.types import ModelConfig


class GpuEngine:
    """A fake engine on a GPU, whose scores contain the index of its device."""

    full: ClassVar[set[str]] = set()

    def __init__(self, graph: bytes, *, device: str, batch_size: int | None, tuning: str, **options: object) -> None:
        if device in self.full:
            raise OutOfDeviceMemory(f"{MODEL} does not fit into the free memory of {device}; free some")
        self.index = int(device.partition(":")[2] or 0)
        size = batch_size or (4 if tuning == "throughput" else 8)
        self.busy_size, self.concurrency = 2 * size, 2
        self.info = EngineInfo(
            name="onnxruntime", version="1", device=f"cuda:{self.index}", precision="fp32", instruction_set="sm_90",
            batch_size=size,
        )  # fmt: skip
        self.crop_size, self.classes, self.embedding_size = 8, 10, None

    def run(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the first pixel of each image, and the index of the GPU."""
        time.sleep(0.1)  # long enough for the others to take their parts, on a busy machine, too
        scores = np.full((len(images_nhwc), 2), self.index, dtype=np.float32)
        scores[:, 0] = images_nhwc[:, 0, 0, 0]
        return scores


H200, T4 = Gpu(name="NVIDIA H200", compute_capability="sm_90"), Gpu(name="Tesla T4", compute_capability="sm_75")


@pytest.fixture
def gpus(config: ModelConfig, machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Engine]:
    """Return a function that opens the digits on a machine with some GPUs."""

    def open_on(*gpus: Gpu, full: tuple[str, ...] = (), **options: Any) -> Engine:
        machine(gpu=None)
        monkeypatch.setattr(group, "nvidia_driver", lambda: NvidiaDriver(cuda_version=(13, 0), gpus=gpus))
        monkeypatch.setattr(selection, "OnnxRuntimeEngine", GpuEngine)
        monkeypatch.setattr(GpuEngine, "full", set(full))
        return open_engine(config, lambda file: b"", **options)

    return open_on


def test_a_bulk_run_takes_all_gpus_that_are_alike(gpus: Callable[..., Engine]) -> None:
    """Each GPU gets batches of one size, rows stay in order, and another kind of GPU is left out."""
    engine = gpus(H200, H200, T4, H200, tuning="throughput")
    assert (engine.info.device, engine.info.batch_size, engine.busy_size) == ("cuda:0,1,3", 4, 24)
    assert engine.concurrency == 6
    images = np.zeros((30, 8, 8, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(30)
    for count in (30, 24, 12, 9):  # also of fewer than keep all busy, as at the end of a part
        scores = engine.run(images[:count])
        assert scores[:, 0].tolist() == list(range(count))
        assert set(scores[:, 1]) == {0, 1, 3}
    assert len(engine.run(images[:0])) == 0


@pytest.mark.parametrize(
    ("options", "device"),
    [({"tuning": "throughput", "device": "cuda:1"}, "cuda:1"), ({"tuning": "latency"}, "cuda:0"), ({}, "cuda:0")],
    ids=str,
)
def test_one_gpu_where_one_is_named_or_answers_are_wanted_soon(
    gpus: Callable[..., Engine], options: dict[str, str], device: str
) -> None:
    assert gpus(H200, H200, **options).info.device == device


def test_a_gpu_that_is_full_is_left_out(gpus: Callable[..., Engine], caplog: pytest.LogCaptureFixture) -> None:
    """A GPU filled by another program is left out, but the first GPU must have memory."""
    engine = gpus(H200, H200, full=("cuda:1",), tuning="throughput")
    assert engine.info.device == "cuda:0"
    assert "GPU 1 is left out: model.onnx does not fit into the free memory of cuda:1; free some" in caplog.messages
    with pytest.raises(OutOfDeviceMemory):
        gpus(H200, H200, full=("cuda",), tuning="throughput")
