"""The lock files of `requirements/`, compared with pyproject.toml."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

BATCH, SERVICE = ("batch", "s3", "signing"), ("service", "signing", "cache", "log", "tracing")
LOCKS = {
    "batch-cpu": ("cpu", *BATCH),
    "batch-openvino": ("cpu", "openvino", *BATCH),
    "batch-cuda": ("gpu", *BATCH),
    "service-cpu": ("cpu", *SERVICE),
    "service-openvino": ("cpu", "openvino", *SERVICE),
    "service-cuda": ("gpu", *SERVICE),
}
WITH_TORCH = {"training-cpu": ("cpu", "train"), "notebook-cpu": ("cpu", "train", "batch")}
ALL = {**LOCKS, **WITH_TORCH, "seed": ()}
UNLOCKED = {"uv", "torch", "torchvision"}
"""The first only builds a Bento; the others have several builds, of which deploy/training/Dockerfile installs one."""
PIN = re.compile(
    r"^(?P<name>[a-z0-9._-]+)==(?P<version>\S+) \\\n(?P<hashes>(?: +--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.M
)


def pins(lock: str) -> dict[str, str]:
    """Return name → version of each package that `lock` pins with hashes."""
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    return {pin["name"]: pin["version"] for pin in PIN.finditer(text)}


@pytest.mark.parametrize("lock", ALL)
def test_lock_satisfies_pyproject(lock: str) -> None:
    """A new or raised dependency of pyproject.toml is also in the lock files; `nox -s locks` updates them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = [
        *project["dependencies"],
        *(line for extra in ALL[lock] for line in project["optional-dependencies"][extra]),
    ]
    pinned = pins(lock)
    for requirement in map(Requirement, required):
        if requirement.name in UNLOCKED:
            continue
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), f"{requirement} in {lock}"


@pytest.mark.parametrize("lock", [*ALL, "build", "uv"])
def test_lock_holds_names_versions_and_hashes_alone(lock: str) -> None:
    """Every line has a hash, and none names an index, so a mirror gives the same images."""
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    header, rest = text.split("\n", 2)[:2], PIN.sub("", text)
    assert rest.splitlines() == header


@pytest.mark.parametrize("kind", ["batch", "service"])
def test_images_of_one_kind_differ_in_the_engine_alone(kind: str) -> None:
    """So what was tested in one is what the others run."""
    cpu = pins(f"{kind}-cpu")
    for other in ("openvino", "cuda"):
        changed = cpu.items() ^ pins(f"{kind}-{other}").items()
        assert all(name.startswith(("onnxruntime", "openvino", "nvidia-")) for name, _ in changed), changed


@pytest.mark.parametrize("lock", LOCKS)
def test_images_carry_one_engine_and_no_torch(lock: str) -> None:
    """Two onnxruntimes in one image lose CUDA, and an image that answers needs no torch."""
    engines = {"onnxruntime", "onnxruntime-gpu"} & pins(lock).keys()
    assert engines == {"onnxruntime-gpu" if "gpu" in LOCKS[lock] else "onnxruntime"}
    assert not {"torch", "torchvision", "onnx", "scikit-learn"} & pins(lock).keys()


def test_the_notebook_keeps_what_trains() -> None:
    """The notebook's image is made on top of training's: a package of another version would be in it twice."""
    assert pins("training-cpu").items() <= pins("notebook-cpu").items()
