"""Which engine, device and precision run a model: the fastest that is allowed and there, or what was asked for."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest

from classifier.artifact import CONFIG, MODEL, MODEL_FP16, MODEL_INT8
from classifier.engines import selection, sessions
from classifier.engines.selection import Choice, choose, describe_way, open_engine
from classifier.errors import EngineUnavailable, OutOfDeviceMemory
from classifier.hardware import Cpu, Gpu, NvidiaDriver
from classifier.types import AllowedPrecision, EngineInfo, ModelConfig, from_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from classifier.engines import Engine
    from classifier.types import CpuFeature

FP16_CUDA = AllowedPrecision(precision="fp16", engine="onnxruntime", device="cuda", graph=MODEL_FP16)
FP32_CUDA = AllowedPrecision(precision="fp32", engine="onnxruntime", device="cuda", graph=MODEL)
INT8 = AllowedPrecision(precision="int8", engine="openvino", device="cpu", graph=MODEL_INT8, needs=("vnni",))
BF16 = AllowedPrecision(precision="bf16", engine="openvino", device="cpu", graph=MODEL, needs=("bf16",))
ORT_INT8 = AllowedPrecision(precision="int8", engine="onnxruntime", device="cpu", graph=MODEL_INT8, needs=("vnni",))
FP32 = AllowedPrecision(precision="fp32", engine="onnxruntime", device="cpu", graph=MODEL)
ALL = (FP32, FP32_CUDA, FP16_CUDA, BF16, ORT_INT8, INT8)


@pytest.fixture
def config(digits_files: Mapping[str, bytes]) -> ModelConfig:
    """Return the config of the digits, allowed in every way, in an order that is not `auto`'s."""
    return replace(from_json(digits_files[CONFIG], ModelConfig), allowed=ALL)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that makes this machine another one, as far as choosing goes."""

    def make(
        *features: CpuFeature,
        instruction_set: str = "avx2",
        openvino: bool = True,
        onednn: Cpu | None = None,
        gpu: str | None = "",
    ) -> None:
        """`gpu` is None for one that works, "" where the GPU wheel isn't installed, else what is wrong with it."""
        processor = Cpu(instruction_set=instruction_set, features=frozenset(features))
        monkeypatch.setattr(selection, "cpu", lambda: processor)
        monkeypatch.setattr(selection, "cpu_of_onednn", lambda: onednn or processor)
        monkeypatch.setattr(selection, "find_spec", lambda name: name if openvino else None)
        monkeypatch.setattr(selection, "installed_wheels", lambda: ["onnxruntime" if gpu == "" else "onnxruntime-gpu"])

        def check_cuda(runtime: object, index: int) -> None:
            if gpu is not None:
                raise EngineUnavailable(f"device 'cuda:{index}' can't be had: {gpu}; buy one")

        monkeypatch.setattr(selection, "check_cuda", check_cuda)

    return make


@pytest.mark.parametrize(
    ("features", "options", "ways"),
    [
        (("bf16", "vnni"), {}, (INT8, BF16, ORT_INT8, FP32)),
        (("bf16", "vnni"), {"gpu": None}, (FP16_CUDA, FP32_CUDA, INT8, BF16, ORT_INT8, FP32)),
        (("vnni",), {}, (INT8, ORT_INT8, FP32)),
        (("bf16",), {}, (BF16, FP32)),
        ((), {}, (FP32,)),
        (("bf16", "vnni"), {"openvino": False}, (ORT_INT8, FP32)),
    ],
    ids=str,
)
def test_auto_takes_the_fastest_that_the_machine_has(
    config: ModelConfig,
    machine: Callable[..., None],
    features: set[str],
    options: dict[str, object],
    ways: tuple[AllowedPrecision, ...],
) -> None:
    """The order is the benchmark's, whatever the config's; what the CPU lacks, and what isn't installed, is out."""
    machine(*features, **options)
    assert choose(config).ways == ways


def test_what_is_refused_has_a_reason(config: ModelConfig, machine: Callable[..., None]) -> None:
    """Who wonders why the fastest isn't taken is told; GPUs are not mentioned to who has not installed their build."""
    machine(instruction_set="avx512", openvino=False)
    assert choose(config).refused == {
        INT8: "wants OpenVINO, which is not installed (pip install -e '.[openvino]' in the clone of Tandem)",
        BF16: "wants OpenVINO, which is not installed (pip install -e '.[openvino]' in the clone of Tandem)",
        ORT_INT8: "wants VNNI instructions, which this CPU (avx512) has not",
    }


def test_each_engine_is_judged_by_the_instructions_that_it_uses(
    config: ModelConfig, machine: Callable[..., None]
) -> None:
    """What `ONEDNN_MAX_CPU_ISA` hides, it hides from OpenVINO alone: ONNX Runtime has kernels of its own."""
    held = Cpu(instruction_set="avx2_on_avx512_bf16", features=frozenset())
    machine("vnni", "bf16", instruction_set="avx512_bf16", onednn=held)
    choice = choose(config)
    assert choice.ways == (ORT_INT8, FP32)
    assert choice.refused[BF16] == "wants bf16 instructions, which this CPU (avx2_on_avx512_bf16) has not"


@pytest.mark.parametrize(
    ("asked", "ways"),
    [
        ({"engine": "onnxruntime"}, (ORT_INT8, FP32)),
        ({"engine": "openvino"}, (INT8, BF16)),
        ({"precision": "int8"}, (INT8, ORT_INT8)),
        ({"precision": "bf16"}, (BF16,)),
        ({"precision": "fp32"}, (FP32,)),
        ({"device": "cpu", "precision": "fp32"}, (FP32,)),
        ({"device": "cuda"}, (FP16_CUDA, FP32_CUDA)),
        ({"device": "cuda:1", "precision": "fp32"}, (FP32_CUDA,)),
    ],
    ids=str,
)
def test_what_is_asked_for_is_what_is_tried(
    config: ModelConfig, machine: Callable[..., None], asked: dict[str, str], ways: tuple[AllowedPrecision, ...]
) -> None:
    """Nothing stands in for what was asked for: neither another engine, nor device, nor precision."""
    machine("vnni", "bf16", gpu=None if asked.get("device", "").startswith("cuda") else "")
    assert choose(config, **asked).ways == ways


HERE = "fp32 with onnxruntime on cpu"
AS_SHOWN = "as 'tandem models show' says"
CAN_T = "model 'digits' can't be run here as asked: "
BOTH_NOT_INSTALLED = "want OpenVINO, which is not installed (pip install -e '.[openvino]' in the clone of Tandem)"


@pytest.mark.parametrize(
    ("asked", "options", "sentence"),
    [
        ({"engine": "tensorrt"}, {}, "there is no engine 'tensorrt'; choose auto, onnxruntime or openvino"),
        (
            {"precision": "int4"},
            {},
            f"model 'digits' does not allow precision 'int4', {AS_SHOWN}; choose {HERE}",
        ),
        (
            {"precision": "bf16", "engine": "onnxruntime"},
            {},
            f"model 'digits' does not allow precision 'bf16' with engine 'onnxruntime', {AS_SHOWN}; choose {HERE}",
        ),
        (
            {"engine": "openvino", "device": "cuda"},
            {},
            f"model 'digits' does not allow engine 'openvino' with device 'cuda', {AS_SHOWN}; choose {HERE}",
        ),
        (
            {"engine": "openvino"},
            {"openvino": False},
            (f"{CAN_T}int8 with openvino on cpu and bf16 with openvino on cpu {BOTH_NOT_INSTALLED}; choose {HERE}"),
        ),
        (
            {"precision": "bf16"},
            {},
            f"{CAN_T}bf16 with openvino on cpu wants bf16 instructions, which this CPU (avx2) has not; choose {HERE}",
        ),
        (
            {"precision": "fp16"},
            {},
            (
                f"{CAN_T}fp16 with onnxruntime on cuda wants onnxruntime-gpu, which is not installed "
                f"(pip uninstall onnxruntime, then pip install -e '.[gpu]' in the clone of Tandem); choose {HERE}"
            ),
        ),
        (
            {"precision": "fp16"},
            {"gpu": "no NVIDIA driver was found"},
            (
                f"{CAN_T}fp16 with onnxruntime on cuda wants a GPU "
                f"(device 'cuda:0' can't be had: no NVIDIA driver was found; buy one); choose {HERE}"
            ),
        ),
        ({"device": "cuda:1"}, {"gpu": "only one"}, "device 'cuda:1' can't be had: only one; buy one"),
        ({"device": "tpu"}, {}, "engine 'onnxruntime' has no device 'tpu'; choose auto, cpu, cuda or cuda:N"),
    ],
    ids=str,
)
def test_what_can_t_be_had(
    config: ModelConfig,
    machine: Callable[..., None],
    asked: dict[str, str],
    options: dict[str, object],
    sentence: str,
) -> None:
    """It is refused before the graph is read, in one sentence with what can be had here."""
    machine(**options)
    with pytest.raises(EngineUnavailable) as caught:
        open_engine(config, lambda file: pytest.fail(f"{file} was read"), **asked)  # type: ignore[arg-type]
    assert str(caught.value) == sentence


def test_two_builds_of_onnxruntime_are_not_chosen_between(
    config: ModelConfig, machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which of the two runs, nobody knows: `auto` refuses too, in the one sentence that says how to get rid of one."""
    machine("vnni")
    monkeypatch.setattr(sessions, "installed_wheels", lambda: ["onnxruntime", "onnxruntime-gpu"])
    with pytest.raises(EngineUnavailable, match=r"^engine 'onnxruntime' can't be trusted: .* are both installed"):
        choose(config)
    assert choose(config, engine="openvino", precision="int8").ways == (INT8,)


def test_a_model_that_nothing_here_runs(config: ModelConfig, machine: Callable[..., None]) -> None:
    machine()
    with pytest.raises(EngineUnavailable, match="; choose a machine that has what it wants"):
        choose(replace(config, allowed=(BF16,)))


def test_an_engine_of_a_later_release_is_passed_over(config: ModelConfig, machine: Callable[..., None]) -> None:
    """`auto` takes what this release can run, and lists nothing else."""
    machine()
    later = AllowedPrecision(precision="fp32", engine="tensorrt", device="cpu", graph="model.plan")
    assert choose(replace(config, allowed=(later, FP32))) == Choice(ways=(FP32,), refused={})
    with pytest.raises(EngineUnavailable, match="does not allow an engine of this release"):
        choose(replace(config, allowed=(later,)))


# Opening


def test_the_choice_and_its_reason_are_one_line(
    config: ModelConfig,
    machine: Callable[..., None],
    digits_files: Mapping[str, bytes],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What runs is said with the reason why nothing faster does."""
    machine("vnni", instruction_set="avx512_vnni", openvino=False)
    caplog.set_level(logging.INFO)
    info = open_engine(config, digits_files.__getitem__).info
    assert (info.name, info.precision) == ("onnxruntime", "int8")
    assert caplog.messages == [
        (
            "Chose int8 with onnxruntime on cpu for 'digits': the fastest that it allows and this machine has; "
            f"int8 with openvino on cpu and bf16 with openvino on cpu {BOTH_NOT_INSTALLED}"
        )
    ]


def test_where_there_is_no_choice_nothing_is_said(
    config: ModelConfig,
    machine: Callable[..., None],
    digits_files: Mapping[str, bytes],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Who installed the CPU build is not told about GPUs."""
    machine()
    caplog.set_level(logging.INFO)
    only = replace(config, allowed=(FP32, FP32_CUDA))
    assert open_engine(only, digits_files.__getitem__).info.device == "cpu"
    assert caplog.messages == []


def test_auto_says_why_a_gpu_build_runs_on_the_cpu(
    config: ModelConfig,
    machine: Callable[..., None],
    digits_files: Mapping[str, bytes],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where the GPU build is installed and CUDA does not load, `auto` runs on the CPU and logs the reason, once."""
    machine(gpu="no NVIDIA driver was found", openvino=False)
    assert open_engine(config, digits_files.__getitem__).info.device == "cpu"
    (record,) = (record for record in caplog.records if record.levelno == logging.WARNING)
    assert record.getMessage().startswith(
        "Running on the CPU: fp16 with onnxruntime on cuda wants a GPU (device 'cuda:0' can't be had: no NVIDIA driver"
    )


def test_what_does_not_open_is_passed_over(
    config: ModelConfig,
    machine: Callable[..., None],
    digits_files: Mapping[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What looked as if it could be had, and can't, gives way to the next under `auto`; asked for, it is an error."""

    def broken(*args: object, **options: object) -> None:
        raise EngineUnavailable("engine 'openvino' can't be loaded (libtbb.so.12); install it")

    machine("vnni", "bf16")
    monkeypatch.setattr(selection, "OpenVinoEngine", broken)
    assert open_engine(config, digits_files.__getitem__).info.name == "onnxruntime"
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == [
        f"Not {describe_way(way)}: engine 'openvino' can't be loaded (libtbb.so.12); install it" for way in (INT8, BF16)
    ]
    with pytest.raises(EngineUnavailable, match="libtbb"):
        open_engine(config, digits_files.__getitem__, engine="openvino")


# Several GPUs


class GpuEngine:
    """Stands for an engine on a GPU, of which these tests have none: it answers with the index of its device."""

    full: ClassVar[set[str]] = set()

    def __init__(self, graph: bytes, *, device: str, batch_size: int | None, tuning: str, **options: object) -> None:
        if device in self.full:
            raise OutOfDeviceMemory(f"{MODEL} does not fit into the free memory of {device}; free some")
        self.index = int(device.partition(":")[2] or 0)
        size = batch_size or (4 if tuning == "throughput" else 8)
        self.busy_size = 2 * size
        self.info = EngineInfo(
            name="onnxruntime", version="1", device=f"cuda:{self.index}", precision="fp32", instruction_set="sm_90",
            batch_size=size,
        )  # fmt: skip
        self.crop_size, self.classes, self.embedding_size = 8, 10, None

    def run(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the first pixel of each image, and which GPU looked at it."""
        time.sleep(0.01)  # long enough for the others to take their parts
        scores = np.full((len(images_nhwc), 2), self.index, dtype=np.float32)
        scores[:, 0] = images_nhwc[:, 0, 0, 0]
        return scores


H200, T4 = Gpu(name="NVIDIA H200", compute_capability="sm_90"), Gpu(name="Tesla T4", compute_capability="sm_75")


@pytest.fixture
def gpus(config: ModelConfig, machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Engine]:
    """Return a function that opens the digits on a machine with some GPUs."""

    def open_on(*gpus: Gpu, full: tuple[str, ...] = (), **options: Any) -> Engine:
        machine(gpu=None)
        monkeypatch.setattr(selection, "nvidia_driver", lambda: NvidiaDriver(cuda_version=(13, 0), gpus=gpus))
        monkeypatch.setattr(selection, "OnnxRuntimeEngine", GpuEngine)
        monkeypatch.setattr(GpuEngine, "full", set(full))
        return open_engine(config, lambda file: b"", **options)

    return open_on


def test_a_bulk_run_takes_all_gpus_that_are_alike(gpus: Callable[..., Engine]) -> None:
    """Each gets batches of the one size that was found, the rows stay in order, and another kind of GPU is left out."""
    engine = gpus(H200, H200, T4, H200, tuning="throughput")
    assert (engine.info.device, engine.info.batch_size, engine.busy_size) == ("cuda:0,1,3", 4, 24)
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
    """Another program's GPU stops no run; that the first has no memory is an error."""
    engine = gpus(H200, H200, full=("cuda:1",), tuning="throughput")
    assert engine.info.device == "cuda:0"
    assert "GPU 1 is left out: model.onnx does not fit into the free memory of cuda:1; free some" in caplog.messages
    with pytest.raises(OutOfDeviceMemory):
        gpus(H200, H200, full=("cuda",), tuning="throughput")
