"""Which engine, device and precision run a model: those requested, or the fastest that the machine supports."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, get_args

from classifier.artifact import CONFIG
from classifier.engines import onnxruntime, openvino
from classifier.engines.group import open_on_all_gpus
from classifier.engines.onnxruntime import OnnxRuntimeEngine, parse_device
from classifier.engines.openvino import OpenVinoEngine
from classifier.engines.runtime import GPU_WHEEL, check_cuda, check_wheels, installed_wheels, load_runtime
from classifier.errors import DamagedArtifact, EngineUnavailable
from classifier.extras import install_extra
from classifier.hardware import cpu, cpu_of_onednn
from classifier.types import Precision

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from classifier.engines import Engine, Tuning
    from classifier.types import AllowedPrecision, CpuFeature, DeviceKind, ModelConfig

log = logging.getLogger(__name__)

AUTO = "auto"
ENGINES = (onnxruntime.NAME, openvino.NAME)

# The order in which `auto` tries, fastest first, as `nox -s bench -- precisions` measures it. OpenVINO's fp32 comes
# last: it is no faster than ONNX Runtime's, which every model allows.
AUTO_ORDER: tuple[tuple[str, DeviceKind, Precision], ...] = (
    (onnxruntime.NAME, "cuda", "fp16"),
    (onnxruntime.NAME, "cuda", "fp32"),
    (openvino.NAME, "cpu", "int8"),
    (openvino.NAME, "cpu", "bf16"),
    (onnxruntime.NAME, "cpu", "int8"),
    (onnxruntime.NAME, "cpu", "fp32"),
    (openvino.NAME, "cpu", "fp32"),
)

_FEATURES: dict[CpuFeature, str] = {"vnni": "VNNI", "bf16": "bf16"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The ways in which this machine can run a model, as requested.

    Attributes:
        ways: the ways that the model allows and the machine supports, fastest first; at least one.
        refused: the other requested ways → what this machine lacks for each, as `lack_of` says it.
    """

    ways: tuple[AllowedPrecision, ...]
    refused: Mapping[AllowedPrecision, str]


def open_engine(
    config: ModelConfig,
    read: Callable[[str], bytes],
    *,
    engine: str = AUTO,
    device: str = AUTO,
    precision: str = AUTO,
    threads: int | None = None,
    batch_size: int | None = None,
    tuning: Tuning = "latency",
    digest: str | None = None,
) -> Engine:
    """Return the engine that runs a model, opened on its device.

    With `auto`, it is the fastest that the model allows and the machine supports.

    Args:
        config: the model's config, which lists the allowed precisions.
        read: returns the verified contents of a file of the artifact.
        engine: `onnxruntime`, `openvino` or `auto`.
        device: `cpu`, `cuda`, `cuda:N` or `auto`.
        precision: one that the model allows, or `auto`.
        threads: number of CPU threads; None takes the CPUs that this process may use.
        batch_size: images per execution; None takes the engine's own.
        tuning: `latency` for the earliest answer, `throughput` for the most images per second, on all GPUs of one kind
            unless `device` names one.
        digest: the artifact's digest, which identifies compiled graphs in the cache.

    Raises:
        EngineUnavailable: the request can't be met on this machine.
        DamagedArtifact: the graph can't be opened, or does not fit `config`.
        OutOfDeviceMemory: the graph or one batch does not fit into the device's memory.
    """
    choice = choose(config, engine=engine, device=device, precision=precision)
    if on_cuda := [f"{describe_way(way)} {lack}" for way, lack in choice.refused.items() if way.device == "cuda"]:
        log.warning("Running on the CPU: %s", on_cuda[0])
    for way in choice.ways:
        try:
            opened = _open(way, read, device, threads=threads, batch_size=batch_size, tuning=tuning, digest=digest)
        except EngineUnavailable as error:
            if way is choice.ways[-1]:
                raise
            log.warning("Can't run %s: %s", describe_way(way), error)
            continue
        break
    _check_fits(opened, config, graph=way.graph)
    others = describe_refused({other: lack for other, lack in choice.refused.items() if other.device == "cpu"})
    if len(choice.ways) > 1 or others:
        reason = "the fastest that the model allows and this machine supports"
        log.info("Chose %s for '%s': %s", describe_way(way), config.name, "; ".join([reason, *others]))
    return opened


def _check_fits(opened: Engine, config: ModelConfig, *, graph: str) -> None:
    """Raise DamagedArtifact unless the graph is the one that `config` describes."""
    crop_size, classes = config.preprocessing.crop_size, len(config.labels)
    if (opened.crop_size, opened.classes) != (crop_size, classes):
        raise DamagedArtifact(
            f"{graph} takes images of {opened.crop_size} px and gives {opened.classes} classes, but {CONFIG} says "
            f"{crop_size} px and {classes}: they belong to different models; export it again"
        )
    if (opened.embedding_size or 0) != (config.embedding_size or 0):
        raise DamagedArtifact(
            f"{graph} gives embeddings of {opened.embedding_size or 0} numbers, but {CONFIG} says "
            f"{config.embedding_size or 0}: they belong to different models; export it again"
        )


def choose(config: ModelConfig, *, engine: str = AUTO, device: str = AUTO, precision: str = AUTO) -> Choice:
    """Return the requested ways in which this machine can run the model. Opens nothing.

    Raises:
        EngineUnavailable: the model does not allow the request, or the machine lacks something for it; the message
            lists what is possible here.
    """
    if engine not in (AUTO, *ENGINES):
        raise EngineUnavailable(f"there is no engine '{engine}'; choose {_either(AUTO, *ENGINES)}")
    if precision not in (AUTO, *get_args(Precision)):
        raise EngineUnavailable(f"there is no precision '{precision}'; choose {_either(AUTO, *get_args(Precision))}")
    kind, index = (AUTO, 0) if device == AUTO else parse_device(device)
    known = sorted(
        (way for way in config.allowed if _key(way) in AUTO_ORDER), key=lambda way: AUTO_ORDER.index(_key(way))
    )
    lacks = {way: lack for way in known if (lack := lack_of(way)) is not None}
    asked = [
        way
        for way in known
        if engine in (AUTO, way.engine) and kind in (AUTO, way.device) and precision in (AUTO, way.precision)
    ]
    here = _either(*(describe_way(way) for way in known if way not in lacks)) or "a machine that can run it"
    if not asked:
        options = (("precision", precision), ("engine", engine), ("device", device))
        request = " with ".join(f"{option} '{name}'" for option, name in options if name != AUTO)
        raise EngineUnavailable(
            f"model '{config.name}' does not allow {request or 'an engine of this release'}, as 'tandem models show' "
            f"says; choose {here}"
        )
    if any(way.engine == onnxruntime.NAME for way in asked):
        check_wheels()
    if kind == "cuda":
        check_cuda(load_runtime(), index)
        return Choice(ways=tuple(asked), refused={})
    if kind == AUTO and GPU_WHEEL not in installed_wheels():  # Users without that wheel don't expect a GPU.
        asked = [way for way in asked if way.device != "cuda"] or asked
    refused = {way: lacks[way] for way in asked if way in lacks}
    ways = tuple(way for way in asked if way not in lacks)
    if not ways:
        clauses = ", ".join(describe_refused(refused))
        raise EngineUnavailable(f"model '{config.name}' can't run here as requested: {clauses}; choose {here}")
    return Choice(ways=ways, refused=refused)


def describe_way(way: AllowedPrecision) -> str:
    """Return a way of running a model in words: `int8 with openvino on cpu`."""
    return f"{way.precision} with {way.engine} on {way.device}"


def describe_refused(refused: Mapping[AllowedPrecision, str]) -> list[str]:
    """Return a clause for each distinct lack in `Choice.refused`: the ways that share it, and the lack."""
    by_lack: dict[str, list[str]] = {}
    for way, lack in refused.items():
        by_lack.setdefault(lack, []).append(describe_way(way))
    return [
        f"{ways[0]} {lack}" if len(ways) == 1 else f"{' and '.join(ways)} need{lack.removeprefix('needs')}"
        for lack, ways in by_lack.items()
    ]


def _key(way: AllowedPrecision) -> tuple[str, DeviceKind, Precision]:
    return way.engine, way.device, way.precision


def lack_of(way: AllowedPrecision) -> str | None:
    """Return what this machine lacks for a way of running a model, as `needs …`; None if nothing is missing."""
    if way.device == "cuda":
        if GPU_WHEEL not in installed_wheels():
            remedy = install_extra("gpu", instead_of="onnxruntime")
            return f"needs {GPU_WHEEL}, which is not installed ({remedy})"
        try:
            check_cuda(load_runtime(), 0)
        except EngineUnavailable as error:
            return f"needs a GPU ({error})"
        return None
    if way.engine == openvino.NAME and find_spec(openvino.NAME) is None:
        return f"needs OpenVINO, which is not installed ({install_extra('openvino')})"
    # OpenVINO obeys `ONEDNN_MAX_CPU_ISA`; ONNX Runtime does not use oneDNN.
    processor = cpu_of_onednn() if way.engine == openvino.NAME else cpu()
    if missing := [_FEATURES[feature] for feature in way.needs if feature not in processor.features]:
        return f"needs {' and '.join(missing)} instructions, which this CPU ({processor.instruction_set}) lacks"
    return None


def _open(
    way: AllowedPrecision,
    read: Callable[[str], bytes],
    device: str,
    *,
    threads: int | None,
    batch_size: int | None,
    tuning: Tuning,
    digest: str | None,
) -> Engine:
    if way.engine == openvino.NAME:
        return OpenVinoEngine(
            partial(read, way.graph),
            precision=way.precision,
            threads=threads,
            batch_size=batch_size,
            tuning=tuning,
            file=way.graph,
            digest=digest,
        )

    graph = read(way.graph)

    def open_on(name: str, batch_size: int | None) -> OnnxRuntimeEngine:
        return OnnxRuntimeEngine(
            graph,
            device=name,
            precision=way.precision,
            threads=threads,
            batch_size=batch_size,
            tuning=tuning,
            file=way.graph,
            alone=way.runs_alone,
        )

    name = way.device if device == AUTO else device
    if name == "cuda" and tuning == "throughput":
        return open_on_all_gpus(open_on, batch_size)
    return open_on(name, batch_size)


def _either(*names: str) -> str:
    return " or ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
