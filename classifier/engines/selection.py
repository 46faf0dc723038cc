"""Which engine, device and precision run a model: what was asked for, or the fastest that the machine really has."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from classifier.artifact import CONFIG
from classifier.engines.onnxruntime import NAME, OnnxRuntimeEngine
from classifier.engines.sessions import GPU_WHEEL, installed_wheels
from classifier.errors import DamagedArtifact, EngineUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from classifier.engines import Engine
    from classifier.types import AllowedPrecision, ModelConfig

log = logging.getLogger(__name__)

AUTO = "auto"
ENGINES = (NAME,)
DEVICES = (AUTO, "cpu", "cuda")


def open_engine(
    config: ModelConfig,
    read: Callable[[str], bytes],
    *,
    engine: str = AUTO,
    device: str = AUTO,
    precision: str = AUTO,
    threads: int | None = None,
    batch_size: int | None = None,
) -> Engine:
    """Return the engine that runs a model, opened on its device.

    Args:
        config: of the model; it lists the precisions that are allowed.
        read: gives the contents of a file of the artifact, checked.
        engine: a name, or `auto`.
        device: `cpu`, `cuda`, `cuda:N`, or `auto`: CUDA where it really loads, else the CPU.
        precision: one that the artifact allows, or `auto`.
        threads: of the CPU; None takes as many as this process may keep busy.
        batch_size: images per execution; None takes the engine's own.

    Raises:
        EngineUnavailable: what was asked for can't be had.
        DamagedArtifact: the graph can't be opened, or is not the one that `config` describes.
    """
    choice = choose(config, engine=engine, precision=precision)
    graph = read(choice.graph)

    def open_on(device: str) -> OnnxRuntimeEngine:
        return OnnxRuntimeEngine(
            graph, device=device, precision=choice.precision, threads=threads, batch_size=batch_size
        )

    opened = _open_on_fastest(open_on) if device == AUTO else open_on(device)
    wanted = config.preprocessing.crop_size, len(config.labels)
    if (opened.crop_size, opened.classes) != wanted:
        raise DamagedArtifact(
            f"{choice.graph} takes images of {opened.crop_size} px and gives {opened.classes} classes, {CONFIG} says "
            f"{wanted[0]} px and {wanted[1]}: they are not of one model; export it again"
        )
    return opened


def choose(config: ModelConfig, *, engine: str, precision: str) -> AllowedPrecision:
    """Return the first way of running the model that the artifact allows and that was asked for.

    Raises:
        EngineUnavailable: there is none; the sentence lists what there is.
    """
    if engine not in (AUTO, *ENGINES):
        raise EngineUnavailable(f"there is no engine '{engine}'; choose {_list(AUTO, *ENGINES)}")
    for allowed in config.allowed:
        if engine in (AUTO, allowed.engine) and precision in (AUTO, allowed.precision) and allowed.engine in ENGINES:
            return allowed
    asked = [f"{what} '{name}'" for what, name in (("engine", engine), ("precision", precision)) if name != AUTO]
    ways = _list(*dict.fromkeys(f"{allowed.precision} with {allowed.engine}" for allowed in config.allowed))
    raise EngineUnavailable(
        f"model '{config.name}' does not allow {' with '.join(asked) or 'an engine of this release'}; choose {ways}"
    )


def _open_on_fastest(open_on: Callable[[str], OnnxRuntimeEngine]) -> OnnxRuntimeEngine:
    if GPU_WHEEL not in installed_wheels():
        return open_on("cpu")
    try:
        return open_on("cuda")
    except EngineUnavailable as error:
        log.warning("Running on the CPU: %s", error)
        return open_on("cpu")


def _list(*names: str) -> str:
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
