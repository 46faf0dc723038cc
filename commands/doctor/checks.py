"""The checks of `tandem doctor`. Each gives one or more findings and raises nothing."""

from __future__ import annotations

import os
import platform
import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from classifier.engines import compiling
from classifier.engines.nvidia import nvidia_driver
from classifier.engines.runtime import CUDA, GPU_WHEEL, installed_wheels, load_runtime
from classifier.engines.selection import choose, describe_refused, describe_way
from classifier.engines.sessions import probe
from classifier.errors import EngineError, EngineUnavailable, TandemError
from classifier.extras import install_extra, installed_version
from classifier.files import nearest_folder
from classifier.hardware import cpu, cpu_limit, cpu_of_onednn
from classifier.wording import counted
from registry.local import LocalRegistry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOW_DISK_BYTES = 5_000_000_000

# package → what it is for, and the extra that installs it
OPTIONAL = {
    "bentoml": ("'bentoml serve'", "service"),
    "openvino": ("the fastest bf16 and int8 on x86 CPUs", "openvino"),
    "pyarrow": ("'tandem batch' and 'tandem parity'", "batch"),
    "torch": ("'tandem train' and 'tandem export'", "train"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of one check.

    Attributes:
        status: `warn` if something may go wrong, `fail` if something installed can't work.
        remedy: how to fix it; given if and only if the status is not `ok`.
    """

    subject: str
    status: Literal["ok", "warn", "fail"]
    fact: str
    remedy: str | None = None

    def __post_init__(self) -> None:
        if (self.remedy is None) != (self.status == "ok"):
            raise ValueError(f"a finding needs a remedy unless its status is ok, got {self}")


def examine() -> Iterator[Finding]:
    """Yield all findings about this machine and this installation."""
    yield from check_packages()
    yield check_cpu()
    yield check_driver()
    yield from check_engine()
    yield from check_openvino()
    yield check_registry(LocalRegistry.default())
    yield from check_models(LocalRegistry.default())
    yield check_disk(LocalRegistry.default().root.parent)
    yield check_environment()


def check_packages() -> Iterator[Finding]:
    """Yield the versions of installed packages, without importing them: torch alone would take seconds."""
    yield Finding(subject="python", status="ok", fact=f"{platform.python_version()} on {platform.platform()}")
    for package in ("tandem", "numpy", "pillow"):
        yield Finding(
            subject=package, status="ok", fact=installed_version(package) or "runs from its source, not installed"
        )
    for package, (purpose, extra) in OPTIONAL.items():
        absent = f"not installed; for {purpose}: {install_extra(extra)}"
        yield Finding(subject=package, status="ok", fact=installed_version(package) or absent)


def check_cpu() -> Finding:
    """Return the CPU, its instructions for bf16 and int8, and how many CPUs this process may use."""
    cpus, processor = cpu_limit(), cpu()
    has = {
        "VNNI": "vnni" in processor.features,
        "bf16": "bf16" in processor.features,
        "AMX": processor.instruction_set == "amx",
    }
    features = ", ".join(f"{name} {'yes' if there else 'no'}" for name, there in has.items())
    speed = f"{processor.instruction_set} ({features})"
    fact = f"{speed}, {cpus} of {counted(os.cpu_count() or 1, 'CPU')}: engines use {counted(cpus, 'thread')} by default"
    held = cpu_of_onednn().instruction_set
    if held == processor.instruction_set:
        return Finding(subject="cpu", status="ok", fact=fact)
    return Finding(
        subject="cpu",
        status="warn",
        fact=f"{fact}; ONEDNN_MAX_CPU_ISA holds OpenVINO to {held}",
        remedy="unset ONEDNN_MAX_CPU_ISA, unless this is a test",
    )


def check_driver() -> Finding:
    """Return the NVIDIA driver, and whether an installed onnxruntime uses it."""
    driver = nvidia_driver()
    wanted = GPU_WHEEL in installed_wheels()
    if driver is None and not wanted:
        return Finding(subject="nvidia driver", status="ok", fact="none, and onnxruntime for the CPU needs none")
    if driver is None:
        return Finding(
            subject="nvidia driver",
            status="fail",
            fact=f"none, and {GPU_WHEEL} is installed",
            remedy="install a driver, start the container with --gpus all, or for the CPU: "
            f"{install_extra('cpu', instead_of=GPU_WHEEL)}",
        )
    gpus = ", ".join(f"{gpu.name} ({gpu.compute_capability})" for gpu in driver.gpus) or "no GPU visible"
    fact = f"runs CUDA up to {driver.cuda}; {gpus}"
    if driver.gpus and not wanted:
        return Finding(
            subject="nvidia driver",
            status="warn",
            fact=f"{fact}; not used, because {GPU_WHEEL} is not installed",
            remedy=install_extra("gpu", instead_of="onnxruntime"),
        )
    return Finding(subject="nvidia driver", status="ok", fact=fact)


def check_engine() -> Iterator[Finding]:
    """Yield the version of onnxruntime, and whether each device that it is built for really runs a graph."""
    try:
        runtime = load_runtime()
    except EngineUnavailable as error:
        yield _failed("onnxruntime", error)
        return
    built_for = f"CUDA {runtime.cuda_version} and the CPU" if runtime.cuda_version else "the CPU alone"
    yield Finding(subject="onnxruntime", status="ok", fact=f"{runtime.__version__}, built for {built_for}")
    yield check_device("cpu")
    if CUDA in runtime.get_available_providers():
        yield check_device("cuda:0")


def check_device(device: str) -> Finding:
    """Return whether onnxruntime runs a graph on `device`, every node of it."""
    try:
        probe(device)
    except EngineError as error:
        return _failed(f"onnxruntime on {device}", error)
    return Finding(subject=f"onnxruntime on {device}", status="ok", fact="runs a whole graph")


def check_openvino() -> Iterator[Finding]:
    """Yield whether OpenVINO, if installed, really runs a graph."""
    if installed_version("openvino") is None:
        return
    subject = "openvino on cpu"
    try:
        compiling.probe()
    except EngineError as error:
        yield _failed(subject, error)
        return
    yield Finding(subject=subject, status="ok", fact="runs a graph")


def check_registry(registry: LocalRegistry) -> Finding:
    """Return the number of models in the registry, and whether it can be written."""
    subject = "registry"
    try:
        models = registry.models()
    except TandemError as error:
        return _failed(subject, error)
    access = (
        "writable" if os.access(nearest_folder(registry.root), os.W_OK) else "read-only: models can be used, not added"
    )
    fact = f"{registry.root}, models: {len(models)}, {access}"
    if models:
        return Finding(subject=subject, status="ok", fact=fact)
    return Finding(
        subject=subject,
        status="warn",
        fact=fact,
        remedy="'tandem train digits --run runs/digits', then 'tandem export runs/digits --name digits' make one",
    )


def check_models(registry: LocalRegistry) -> Iterator[Finding]:
    """Yield how `auto` runs each model, in the version that its bare name means."""
    try:
        names = dict.fromkeys(artifact.name for artifact in registry.models())
    except TandemError:  # `check_registry` reports it
        return
    for name in names:
        subject = f"auto for {name}"
        try:
            artifact = registry.resolve(name)
            choice = choose(artifact.config)
        except TandemError as error:
            yield _failed(subject, error)
            continue
        lacks = describe_refused(choice.refused)
        yield Finding(
            subject=subject,
            status="ok",
            fact="; ".join([f"{artifact.reference} runs in {describe_way(choice.ways[0])}", *lacks]),
        )


def check_disk(home: Path) -> Finding:
    """Return the free space on the disk that holds Tandem's files."""
    free = shutil.disk_usage(nearest_folder(home)).free
    fact = f"{free / 1e9:.1f} GB free at {home}"
    if free >= LOW_DISK_BYTES:
        return Finding(subject="disk", status="ok", fact=fact)
    return Finding(
        subject="disk",
        status="warn",
        fact=fact,
        remedy="free some, or set TANDEM_HOME to a folder on a larger disk; 'tandem models rm' removes old versions",
    )


def check_environment() -> Finding:
    """Return the environment variables that set options, because they are easily forgotten."""
    variables = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("TANDEM_")]
    return Finding(subject="environment", status="ok", fact=", ".join(variables) or "no TANDEM_… variable is set")


def _failed(subject: str, error: TandemError) -> Finding:
    # The sentence of an error ends with its remedy, after the last colon or semicolon.
    match = re.fullmatch(r"(?P<fact>.*)[:;] (?P<remedy>.*)", str(error))
    fact, remedy = match.group("fact", "remedy") if match else (str(error), "run 'tandem --verbose doctor' for more")
    return Finding(subject=subject, status="fail", fact=fact, remedy=remedy)
