"""BentoML's parent process: it starts workers, and so stays small."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import ROOT

HEAVY = ("numpy", "PIL.Image", "onnxruntime", "openvino", "redis", "sqlalchemy", "torch", "pyarrow")


def test_importing_the_service_loads_nothing_that_only_workers_need() -> None:
    """`bentoml serve` keeps a process beside its workers; what decodes and infers would only take memory there."""
    script = f"import sys, service.service; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
