"""Selection of engine, device and precision: those requested, or the fastest that the machine supports."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from classifier.engines import runtime, selection
from classifier.engines.selection import Choice, choose, describe_way, open_engine
from classifier.errors import DamagedArtifact, EngineUnavailable
from classifier.hardware import Cpu
from classifier.types import AllowedPrecision, ModelConfig, from_json, to_json
from tests.classifier.engines.conftest import BF16, FP16_CUDA, FP32, FP32_CUDA, INT8, ORT_INT8

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


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
    """The order is the benchmark's, not the config's; ways that the machine lacks something for are left out."""
    machine(*features, **options)
    assert choose(config).ways == ways


def test_what_is_refused_has_a_reason(config: ModelConfig, machine: Callable[..., None]) -> None:
    """Each refused way has its reason; without the GPU build, GPUs are not mentioned."""
    machine(instruction_set="avx512", openvino=False)
    assert choose(config).refused == {
        INT8: "needs OpenVINO, which is not installed (pip install -e '.[openvino]' in the clone of Tandem)",
        BF16: "needs OpenVINO, which is not installed (pip install -e '.[openvino]' in the clone of Tandem)",
        ORT_INT8: "needs VNNI instructions, which this CPU (avx512) lacks",
    }


def test_each_engine_is_judged_by_the_instructions_that_it_uses(
    config: ModelConfig, machine: Callable[..., None]
) -> None:
    """`ONEDNN_MAX_CPU_ISA` hides instructions from OpenVINO only: ONNX Runtime has its own kernels."""
    held = Cpu(instruction_set="avx2_on_avx512_bf16", features=frozenset())
    machine("vnni", "bf16", instruction_set="avx512_bf16", onednn=held)
    choice = choose(config)
    assert choice.ways == (ORT_INT8, FP32)
    assert choice.refused[BF16] == "needs bf16 instructions, which this CPU (avx2_on_avx512_bf16) lacks"


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
    """No other engine, device or precision replaces the requested one."""
    machine("vnni", "bf16", gpu=None if asked.get("device", "").startswith("cuda") else "")
    assert choose(config, **asked).ways == ways


HERE = "fp32 with onnxruntime on cpu"
AS_SHOWN = "as 'tandem models show' says"
CAN_T = "model 'digits' can't run here as requested: "
BOTH_NOT_INSTALLED = "need OpenVINO, which is not installed (pip install -e '.[openvino]' in the clone of Tandem)"


@pytest.mark.parametrize(
    ("asked", "options", "sentence"),
    [
        ({"engine": "tensorrt"}, {}, "there is no engine 'tensorrt'; choose auto, onnxruntime or openvino"),
        (
            {"precision": "int4"},
            {},
            "there is no precision 'int4'; choose auto, fp32, bf16, fp16 or int8",
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
            f"{CAN_T}bf16 with openvino on cpu needs bf16 instructions, which this CPU (avx2) lacks; choose {HERE}",
        ),
        (
            {"precision": "fp16"},
            {},
            (
                f"{CAN_T}fp16 with onnxruntime on cuda needs onnxruntime-gpu, which is not installed "
                f"(pip uninstall onnxruntime, then pip install -e '.[gpu]' in the clone of Tandem); choose {HERE}"
            ),
        ),
        (
            {"precision": "fp16"},
            {"gpu": "no NVIDIA driver was found"},
            (
                f"{CAN_T}fp16 with onnxruntime on cuda needs a GPU "
                f"(device 'cuda:0' is not available: no NVIDIA driver was found; buy one); choose {HERE}"
            ),
        ),
        ({"device": "cuda:1"}, {"gpu": "only one"}, "device 'cuda:1' is not available: only one; buy one"),
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
    """It is refused before the graph is read, in one sentence that lists what can run here."""
    machine(**options)
    with pytest.raises(EngineUnavailable) as caught:
        open_engine(config, lambda file: pytest.fail(f"{file} was read"), **asked)  # type: ignore[arg-type]
    assert str(caught.value) == sentence


def test_two_builds_of_onnxruntime_are_not_chosen_between(
    config: ModelConfig, machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is unknown which of the two would run, so `auto` refuses, too, and says how to remove one."""
    machine("vnni")
    monkeypatch.setattr(runtime, "installed_wheels", lambda: ["onnxruntime", "onnxruntime-gpu"])
    with pytest.raises(EngineUnavailable, match=r"^engine 'onnxruntime' can't be trusted: .* are both installed"):
        choose(config)
    assert choose(config, engine="openvino", precision="int8").ways == (INT8,)


def test_a_model_that_nothing_here_runs(config: ModelConfig, machine: Callable[..., None]) -> None:
    machine()
    with pytest.raises(EngineUnavailable, match="; choose a machine that can run it"):
        choose(replace(config, allowed=(BF16,)))


def test_an_engine_of_a_later_release_is_passed_over(config: ModelConfig, machine: Callable[..., None]) -> None:
    """`auto` ignores ways that only a later release can run."""
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
    """The log says what runs, and why nothing faster does."""
    machine("vnni", instruction_set="avx512_vnni", openvino=False)
    caplog.set_level(logging.INFO)
    info = open_engine(config, digits_files.__getitem__).info
    assert (info.name, info.precision) == ("onnxruntime", "int8")
    assert caplog.messages == [
        (
            "Chose int8 with onnxruntime on cpu for 'digits': "
            "the fastest that the model allows and this machine supports; "
            f"int8 with openvino on cpu and bf16 with openvino on cpu {BOTH_NOT_INSTALLED}"
        )
    ]


def test_where_there_is_no_choice_nothing_is_said(
    config: ModelConfig,
    machine: Callable[..., None],
    digits_files: Mapping[str, bytes],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Users of the CPU build are not told about GPUs."""
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
    """If the GPU build is installed and CUDA does not load, `auto` runs on the CPU and logs the reason once."""
    machine(gpu="no NVIDIA driver was found", openvino=False)
    assert open_engine(config, digits_files.__getitem__).info.device == "cpu"
    (record,) = (record for record in caplog.records if record.levelno == logging.WARNING)
    assert record.getMessage().startswith(
        "Running on the CPU: fp16 with onnxruntime on cuda needs a GPU "
        "(device 'cuda:0' is not available: no NVIDIA driver"
    )


def test_what_does_not_open_is_passed_over(
    config: ModelConfig,
    machine: Callable[..., None],
    digits_files: Mapping[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Under `auto`, a way that fails to open gives way to the next one; if requested, it is an error."""

    def broken(*args: object, **options: object) -> None:
        raise EngineUnavailable("engine 'openvino' can't be loaded (libtbb.so.12); install it")

    machine("vnni", "bf16")
    monkeypatch.setattr(selection, "OpenVinoEngine", broken)
    assert open_engine(config, digits_files.__getitem__).info.name == "onnxruntime"
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == [
        f"Can't run {describe_way(way)}: engine 'openvino' can't be loaded (libtbb.so.12); install it"
        for way in (INT8, BF16)
    ]
    with pytest.raises(EngineUnavailable, match="libtbb"):
        open_engine(config, digits_files.__getitem__, engine="openvino")


def test_graph_and_config_of_two_models(config: ModelConfig, graph: bytes) -> None:
    """A graph whose classes don't match the config's labels is a DamagedArtifact, not a wrong label."""
    other = from_json(to_json(config).replace(b'"labels": [', b'"labels": [\n    "eleventh",'), ModelConfig)
    with pytest.raises(DamagedArtifact, match=r"gives 10 classes, but config.json says 8 px and 11"):
        open_engine(other, lambda file: graph, precision="fp32")
