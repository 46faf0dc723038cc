"""The notebook in `examples/`, run by a real kernel."""

from __future__ import annotations

import io
import re
import tempfile
from base64 import b64decode
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image
from traitlets.config import Config

from registry import LocalRegistry, find_model
from tests.conftest import ROOT
from tests.registry.servers import needs_registry

if TYPE_CHECKING:
    from nbformat import NotebookNode

NOTEBOOK = ROOT / "examples" / "notebook.ipynb"
pytestmark = pytest.mark.timeout(900)  # it trains, exports and starts kernels, which a busy machine takes long for

FIGURES = ["curves", "confusion", "mistakes", "calibration"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Executed:
    """The notebook after a run.

    Attributes:
        cells: the code cells that were run, by their id.
    """

    cells: dict[str, NotebookNode]

    @property
    def home(self) -> Path:
        """The run's TANDEM_HOME."""
        [home] = re.findall(r"^TANDEM_HOME: (.+)$", self.printed("settings"), flags=re.MULTILINE)
        return Path(home)

    def printed(self, cell: str) -> str:
        """Return what a cell wrote to stdout."""
        return "".join(each.text for each in self.cells[cell].outputs if each.get("name") == "stdout")

    def pictures(self, cell: str) -> list[Image.Image]:
        """Return the pictures below a cell."""
        data = [each.data["image/png"] for each in self.cells[cell].outputs if "image/png" in each.get("data", {})]
        return [Image.open(io.BytesIO(b64decode(each))) for each in data]


def execute(folder: Path, *, until: str | None = None, skipped: tuple[str, ...] = (), **environment: str) -> Executed:
    """Run the notebook in `folder`, to its end or `until` a cell, without the cells in `skipped`.

    Raises:
        CellExecutionError: a cell failed.
    """
    pytest.importorskip("torch")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    ids = [cell.id for cell in notebook.cells]
    last = len(ids) if until is None else ids.index(until)
    notebook.cells = [cell for cell in notebook.cells[: last + 1] if cell.id not in skipped]
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="nb-") as jupyter:
        for name in ("TANDEM_HOME", "PUSH_TO", "MPLBACKEND"):
            patch.delenv(name, raising=False)
        for name, value in environment.items():
            patch.setenv(name, value)
        # The user's own kernels and settings stay out.
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
            patch.setenv(name, f"{jupyter}/{name}")
        # Not TCP: tests that run at the same time take free ports, too. A socket's path must be short.
        sockets = Config({"KernelManager": {"transport": "ipc", "ip": f"{jupyter}/kernel"}})
        where = {"metadata": {"path": str(folder)}}
        NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where, config=sockets).execute()
    return Executed(cells={cell.id: cell for cell in notebook.cells if cell.cell_type == "code"})


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Executed:
    """Return the notebook after a run from top to bottom."""
    folder = tmp_path_factory.mktemp("notebook")
    return execute(folder, TANDEM_HOME=str(folder / "home"))


def test_the_committed_notebook_has_no_outputs_and_no_execution_counts():
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.id for cell in cells if cell.outputs or cell.execution_count is not None] == []


def test_the_first_cell_says_what_to_install():
    first = nbformat.read(NOTEBOOK, as_version=4).cells[0]
    assert first.cell_type == "markdown"
    assert "pip install -e '.[cpu,train,batch]'" in first.source


def test_each_cell_runs_in_turn(executed: Executed):
    assert [cell.execution_count for cell in executed.cells.values()] == [*range(1, len(executed.cells) + 1)]


def test_the_model_is_in_the_registry(executed: Executed):
    artifact = LocalRegistry(executed.home / "registry").resolve("digits:notebook")
    assert executed.printed("push") == f"digits:notebook is {artifact.digest}\n"
    assert executed.printed("open").startswith(f"digits@{artifact.digest} on ")


def test_each_figure_is_a_picture(executed: Executed):
    assert [cell for cell in executed.cells if executed.pictures(cell)] == FIGURES
    for cell in FIGURES:
        [picture] = executed.pictures(cell)
        assert min(picture.size) > 300
        assert picture.convert("L").getextrema() == (0, 255)  # black lines or letters on white


def test_the_printed_accuracy_is_over_90_percent(executed: Executed):
    [accuracy] = re.findall(r"^accuracy on 359 test images: ([\d.]+)%$", executed.printed("bulk"), flags=re.MULTILINE)
    assert float(accuracy) > 90


def test_the_opened_model_gives_the_worst_image_the_answer_of_the_bulk_run(executed: Executed):
    printed = executed.printed("open").splitlines()
    assert printed[1].removeprefix("bulk run:   ") == printed[2].removeprefix("open_model: ")


def test_nothing_is_left_in_the_folder_of_the_notebook(executed: Executed):
    assert [each.name for each in executed.home.parent.iterdir()] == ["home"]


def test_without_tandem_home_the_registry_is_temporary(tmp_path: Path):
    home = execute(tmp_path, until="settings").home
    assert home.is_relative_to(Path(tempfile.gettempdir()).resolve())
    assert not home.parent.exists()


@needs_registry
def test_the_model_goes_to_the_remote_registry_in_push_to(tandem_home: Path, tmp_path: Path, remote_host: str):
    here = LocalRegistry(tandem_home / "registry").tag("digits:1", "notebook")
    target = f"{remote_host}/notebook/digits"
    trained_already = ("train", "curves", "export")
    executed = execute(tmp_path, until="bulk", skipped=trained_already, TANDEM_HOME=str(tandem_home), PUSH_TO=target)
    assert executed.printed("push") == f"{target}:1 is {here.digest}\n"
    assert find_model(f"{target}:1", LocalRegistry(tmp_path / "elsewhere")).digest == here.digest
    assert f"{target}@{here.digest}" in executed.printed("bulk")
