"""What the batch images hold, and what they don't."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.system.docker import HARDENED, USED, build_batch_image, docker
from tests.system.test_requirements import pins

if TYPE_CHECKING:
    from pathlib import Path

# Building an image counts towards a test's time.
pytestmark = [pytest.mark.timeout(1500), pytest.mark.containers]


@pytest.fixture(scope="module", params=["cpu", "openvino"])
def variant(request: pytest.FixtureRequest) -> str:
    """Return the engine of an image."""
    engine: str = request.param
    return engine


@pytest.fixture(scope="module")
def image(variant: str) -> str:
    """Return the batch image for the engine."""
    return build_batch_image(f"tandem-batch:test-{variant}", "--build-arg", f"ENGINE={variant}")


def shell(image: str, script: str) -> list[str]:
    """Return the lines that a script prints, run as a user that the image doesn't know, on a read-only root."""
    return docker(
        "run", *HARDENED, *USED, "--network", "none", "--entrypoint", "sh", image, "-ec", script
    ).stdout.splitlines()


def test_nothing_can_be_installed(image: str) -> None:
    """No pip, of Tandem's Python or the base's, not even the copy in ensurepip."""
    modules = "import importlib.util as u; print([m for m in ('pip', 'ensurepip', 'setuptools') if u.find_spec(m)])"
    for python in ("/opt/tandem/bin/python", "$(readlink -f /opt/tandem/bin/python)"):
        assert shell(image, f'{python} -c "{modules}"') == ["[]"]
    assert not shell(image, "ls /usr/bin /usr/local/bin /opt/tandem/bin | grep ^pip || true")


def test_holds_no_headers_and_no_tests(image: str) -> None:
    """They are of use to a compiler or a developer, and an image has neither."""
    assert not shell(image, "find /opt -name '*.h' -o -name '*.pyi' -o -name '*.a' -o -name tests")


def test_its_bytecode_is_there(image: str) -> None:
    """On a read-only root each start would compile all modules anew."""
    script = "find /opt/tandem/lib -name '*.py' | wc -l; find /opt/tandem/lib -name '*.pyc' | wc -l"
    sources, compiled = shell(image, script)
    assert sources == compiled


def test_the_sbom_lists_every_package(variant: str, image: str) -> None:
    """Those of the lock and Tandem itself, each with its licence."""
    components = json.loads("\n".join(shell(image, "cat /usr/share/tandem/sbom.cdx.json")))["components"]
    found = {each["name"].lower().replace("_", "-"): each["version"] for each in components}
    assert found.pop("tandem")
    assert found == pins(f"batch-{variant}")


def test_every_engine_of_the_image_works(variant: str, image: str, digits_home: Path) -> None:
    """`doctor` runs a graph on each; the model's golden set passes."""
    done = docker(
        "run", *HARDENED, *USED, "--volume", f"{digits_home}:/tandem:ro", image, "doctor", "--json", check=False
    )
    checks = {each["subject"]: each["status"] for each in json.loads(done.stdout)}
    assert checks["onnxruntime on cpu"] == "ok"
    assert variant == "cpu" or checks["openvino on cpu"] == "ok"
    docker("run", *HARDENED, *USED, "--volume", f"{digits_home}:/tandem:ro", image, "selftest", "digits")
