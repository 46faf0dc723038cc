"""Install commands in messages name Tandem's own extras, and these exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from classifier.extras import install_extra, installed_version

if TYPE_CHECKING:
    import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ["classifier", "registry", "training", "export", "service", "batch", "commands"]
SOURCES = [ROOT / "tandem.py", *(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))]


def test_the_remedy_is_a_command_that_can_be_pasted() -> None:
    assert install_extra("cpu") == "pip install -e '.[cpu]' in the clone of Tandem"
    assert install_extra("cpu", "gpu") == "pip install -e '.[cpu]' or '.[gpu]' in the clone of Tandem"


def test_an_image_advises_another_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be installed in a container, which has no clone and no pip."""
    uninstalled = install_extra("gpu", instead_of="onnxruntime")
    assert uninstalled == "pip uninstall onnxruntime, then pip install -e '.[gpu]' in the clone of Tandem"
    monkeypatch.setenv("TANDEM_IMAGE", "batch")
    assert "pip" not in install_extra("gpu", instead_of="onnxruntime")
    assert install_extra("cpu", "gpu") == (
        "use an image with the extra 'cpu' or 'gpu': docs/deploy/images.md in the clone of Tandem says how to build it"
    )


def test_both_images_say_that_they_are_images() -> None:
    """What `install_extra` reads is set in the image of the bulk run, and in the service's."""
    assert "TANDEM_IMAGE=batch" in (ROOT / "Dockerfile.batch").read_text()
    bento = (ROOT / "bentofile.yaml").read_text().split()
    assert bento[bento.index("TANDEM_IMAGE") + 1 :][:2] == ["value:", "service"]


def test_nobody_is_sent_to_an_index_for_tandem() -> None:
    """The package `tandem` on the public index is another project's."""
    assert not [str(path) for path in SOURCES if re.search(r"install '?\"?tandem\b", path.read_text())]


def test_every_extra_that_is_named_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {
        extra
        for path in SOURCES
        for call in re.findall(r"install_extra\(([^)]*)\)", path.read_text())
        for extra in re.findall(r"['\"](\w+)['\"]", call.partition("instead_of")[0])
    }
    assert {"cpu", "gpu"} <= named <= set(extras)


def test_a_package_that_is_not_installed_has_no_version() -> None:
    assert installed_version("numpy") == np.__version__
    assert installed_version("no-such-package-of-tandem") is None
