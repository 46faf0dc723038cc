"""Which engine, device and precision run a model: what was asked for, or the fastest that the machine really has."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

from classifier.artifact import CONFIG
from classifier.engines import onnxruntime, openvino
from classifier.engines.group import EngineGroup
from classifier.engines.onnxruntime import OnnxRuntimeEngine, parse_device
from classifier.engines.openvino import OpenVinoEngine
from classifier.engines.sessions import GPU_WHEEL, check_cuda, check_wheels, installed_wheels, load_runtime
from classifier.errors import DamagedArtifact, EngineError, EngineUnavailable
from classifier.extras import install_extra
from classifier.hardware import cpu, cpu_of_onednn, nvidia_driver

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from classifier.engines import Engine, Tuning
    from classifier.types import AllowedPrecision, CpuFeature, DeviceKind, ModelConfig, Precision

log = logging.getLogger(__name__)

AUTO = "auto"
ENGINES = (onnxruntime.NAME, openvino.NAME)

# What `auto` tries, the fastest first: `nox -s bench -- precisions` measures it. OpenVINO's fp32 is no faster than ONNX
# Runtime's, which every model allows.
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
    """How a model can be run on this machine.

    Attributes:
        ways: what the model allows, was asked for and this machine has, the fastest first; at least one.
        refused: the others that were asked for, with what this machine lacks for each.
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

    Args:
        config: of the model; it lists the precisions that are allowed.
        read: gives the contents of a file of the artifact, checked.
        engine: a name, or `auto`, here and below for the fastest that the model allows and the machine has.
        device: `cpu`, `cuda`, `cuda:N`, or `auto`.
        precision: one that the artifact allows, or `auto`.
        threads: of the CPU; None takes as many as this process may keep busy.
        batch_size: images per execution; None takes the engine's own.
        tuning: `latency` for the soonest answer, `throughput` for the most images in a second, on all GPUs that are
            alike where `device` does not name one.
        digest: of the artifact, by which compiled graphs are kept.

    Raises:
        EngineUnavailable: what was asked for can't be had.
        DamagedArtifact: the graph can't be opened, or is not the one that `config` describes.
        OutOfDeviceMemory: the device does not hold the graph, or one batch.
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
            log.warning("Not %s: %s", describe_way(way), error)
            continue
        break
    wanted = config.preprocessing.crop_size, len(config.labels)
    if (opened.crop_size, opened.classes) != wanted:
        raise DamagedArtifact(
            f"{way.graph} takes images of {opened.crop_size} px and gives {opened.classes} classes, {CONFIG} says "
            f"{wanted[0]} px and {wanted[1]}: they are not of one model; export it again"
        )
    if (opened.embedding_size or 0) != (config.embedding_size or 0):
        raise DamagedArtifact(
            f"{way.graph} gives embeddings of {opened.embedding_size or 0} numbers, {CONFIG} says "
            f"{config.embedding_size or 0}: they are not of one model; export it again"
        )
    others = describe_refused({other: lack for other, lack in choice.refused.items() if other.device == "cpu"})
    if len(choice.ways) > 1 or others:
        reason = "the fastest that it allows and this machine has"
        log.info("Chose %s for '%s': %s", describe_way(way), config.name, "; ".join([reason, *others]))
    return opened


def choose(config: ModelConfig, *, engine: str = AUTO, device: str = AUTO, precision: str = AUTO) -> Choice:
    """Return how the model can be run here in the ways that were asked for; nothing is opened.

    Raises:
        EngineUnavailable: the model does not allow it, or the machine lacks it; the sentence lists what can be had.
    """
    if engine not in (AUTO, *ENGINES):
        raise EngineUnavailable(f"there is no engine '{engine}'; choose {_list(AUTO, *ENGINES)}")
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
    here = _list(*(describe_way(way) for way in known if way not in lacks)) or "a machine that has what it wants"
    if not asked:
        options = (("precision", precision), ("engine", engine), ("device", device))
        wish = " with ".join(f"{what} '{name}'" for what, name in options if name != AUTO)
        raise EngineUnavailable(
            f"model '{config.name}' does not allow {wish or 'an engine of this release'}, as 'tandem models show' "
            f"says; choose {here}"
        )
    if any(way.engine == onnxruntime.NAME for way in asked):
        check_wheels()
    if kind == "cuda":
        check_cuda(load_runtime(), index)
        return Choice(ways=tuple(asked), refused={})
    if kind == AUTO and GPU_WHEEL not in installed_wheels():  # Who did not install it does not miss it.
        asked = [way for way in asked if way.device != "cuda"] or asked
    refused = {way: lacks[way] for way in asked if way in lacks}
    ways = tuple(way for way in asked if way not in lacks)
    if not ways:
        clauses = ", ".join(describe_refused(refused))
        raise EngineUnavailable(f"model '{config.name}' can't be run here as asked: {clauses}; choose {here}")
    return Choice(ways=ways, refused=refused)


def describe_way(way: AllowedPrecision) -> str:
    """Return a way of running a model as one reads it, `int8 with openvino on cpu`."""
    return f"{way.precision} with {way.engine} on {way.device}"


def describe_refused(refused: Mapping[AllowedPrecision, str]) -> list[str]:
    """Return what the machine lacks for some ways of running a model, as `Choice.refused` has it: each lack once."""
    by_lack: dict[str, list[str]] = {}
    for way, lack in refused.items():
        by_lack.setdefault(lack, []).append(describe_way(way))
    return [
        f"{ways[0]} {lack}" if len(ways) == 1 else f"{' and '.join(ways)} want{lack.removeprefix('wants')}"
        for lack, ways in by_lack.items()
    ]


def _key(way: AllowedPrecision) -> tuple[str, DeviceKind, Precision]:
    return way.engine, way.device, way.precision


def lack_of(way: AllowedPrecision) -> str | None:
    """Return what this machine lacks to run a model so, `wants …`; None where nothing is known to be missing."""
    if way.device == "cuda":
        if GPU_WHEEL not in installed_wheels():
            return f"wants {GPU_WHEEL}, which is not installed (pip uninstall onnxruntime, then {install_extra('gpu')})"
        try:
            check_cuda(load_runtime(), 0)
        except EngineUnavailable as error:
            return f"wants a GPU ({error})"
        return None
    if way.engine == openvino.NAME and find_spec(openvino.NAME) is None:
        return f"wants OpenVINO, which is not installed ({install_extra('openvino')})"
    # OpenVINO obeys `ONEDNN_MAX_CPU_ISA`, ONNX Runtime has kernels of its own.
    processor = cpu_of_onednn() if way.engine == openvino.NAME else cpu()
    if missing := [_FEATURES[feature] for feature in way.needs if feature not in processor.features]:
        return f"wants {' and '.join(missing)} instructions, which this CPU ({processor.instruction_set}) has not"
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
        )

    name = way.device if device == AUTO else device
    first = open_on(name, batch_size)
    if name != "cuda" or tuning == "latency":
        return first
    engines = [first]
    for index in _alike_gpus():
        try:
            engines.append(open_on(f"cuda:{index}", first.info.batch_size))
        except EngineError as error:
            log.warning("GPU %d is left out: %s", index, error)
    return EngineGroup(engines) if len(engines) > 1 else first


def _alike_gpus() -> list[int]:
    """Return the indices of the GPUs that are of the kind of the first: only those give the same bits."""
    driver = nvidia_driver()
    gpus = driver.gpus if driver else ()
    return [index for index, gpu in enumerate(gpus) if index > 0 and gpu == gpus[0]]


def _list(*names: str) -> str:
    return " or ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
