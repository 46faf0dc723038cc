"""The OpenAPI document and the running service agree: schemathesis finds nothing, with every check on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.conftest import ROOT

if TYPE_CHECKING:
    from tests.serving import Server

HERE = Path(__file__).parent


def test_schemathesis_finds_nothing(server: Server, tmp_path: Path) -> None:
    """Right requests are answered as described, wrong ones refused, on every path; undescribed methods get 405."""
    command = [
        Path(sys.executable).with_name("schemathesis"),
        *("--config-file", HERE / "schemathesis.toml", "run", f"{server.url}/docs.json"),
        *("--seed", "1", "--generation-deterministic", "--max-examples", "10", "--checks", "all"),
    ]
    hooks = {"SCHEMATHESIS_HOOKS": "tests.service.edge.schemathesis_hooks", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, env={**os.environ, **hooks}, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No issues found" in done.stdout
    assert "Traceback" not in server.log
