"""Graphs compiled by OpenVINO: the cache gives the same bits, and never another graph's."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from classifier.artifact import MODEL, MODEL_INT8
from classifier.engines import cache, compiling
from classifier.engines.openvino import OpenVinoEngine
from classifier.errors import DamagedArtifact
from classifier.hardware import Cpu
from tests.classifier.conftest import run_python

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

pytest.importorskip("openvino")

KEY = re.compile(rb"2\0openvino\0.*(?=.{8}.{32}$)", re.DOTALL)
"""The key at the end of an entry."""


def test_nothing_is_reported_to_anyone(tmp_path: Path) -> None:
    """OpenVINO's converter, which reports each import, is not imported with it, but others can import it."""
    done = run_python(
        "import sys\n"
        "from classifier.engines.compiling import load_openvino\n"
        "load_openvino()\n"
        "print([name for name in sys.modules if 'telemetry' in name or 'urllib.request' in name])\n"
        "import importlib.util\n"
        "print(importlib.util.find_spec('openvino.tools.ovc') is not None)\n",
        HOME=str(tmp_path),
    )
    assert done.stdout.splitlines() == ["[]", "True"], done.stderr
    assert list(tmp_path.iterdir()) == []


def test_probe() -> None:
    compiling.probe()


def test_a_second_engine_loads_what_the_first_compiled(
    digits_files: Mapping[str, bytes], images: NDArray[np.uint8], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cached graph gives the same bits with any threads and tuning, and nothing is compiled again."""
    scores = OpenVinoEngine(digits_files[MODEL_INT8], precision="int8", threads=2).run(images)
    monkeypatch.setattr(compiling, "_compile", lambda *args, **options: pytest.fail("it was compiled again"))
    for threads in (1, 2):
        for tuning in ("latency", "throughput"):
            again = OpenVinoEngine(digits_files[MODEL_INT8], precision="int8", threads=threads, tuning=tuning)  # type: ignore[arg-type]
            assert again.run(images).tobytes() == scores.tobytes()


def test_an_artifacts_graph_is_kept_by_its_digest(
    digits_files: Mapping[str, bytes], images: NDArray[np.uint8], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The artifact's digest and the file's name identify a compiled graph, so a large graph is not hashed again."""
    scores = OpenVinoEngine(lambda: digits_files[MODEL], file=MODEL, digest="sha256:1").run(images)
    OpenVinoEngine(digits_files[MODEL_INT8], precision="int8", file=MODEL_INT8, digest="sha256:1")
    monkeypatch.setattr(compiling, "_compile", lambda *args, **options: pytest.fail("it was compiled again"))
    again = OpenVinoEngine(lambda: digits_files[MODEL], file=MODEL, digest="sha256:1")
    assert again.run(images).tobytes() == scores.tobytes()


def test_a_damaged_graph_is_found_though_it_was_compiled_before(digits_files: Mapping[str, bytes], home: Path) -> None:
    """The graph in the registry is checked each time, even if the compiled one is used."""

    def read() -> bytes:
        raise DamagedArtifact("model.onnx is damaged")

    OpenVinoEngine(digits_files[MODEL], file=MODEL, digest="sha256:1")
    with pytest.raises(DamagedArtifact, match="is damaged"):
        OpenVinoEngine(read, file=MODEL, digest="sha256:1")


def test_another_graph_precision_version_or_cpu_is_another_entry(
    digits_files: Mapping[str, bytes], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key contains everything that compiled code depends on."""

    def entries() -> int:
        return len(list((home / "cache" / "compiled").iterdir()))

    OpenVinoEngine(digits_files[MODEL])
    OpenVinoEngine(digits_files[MODEL])
    assert entries() == 1
    OpenVinoEngine(digits_files[MODEL_INT8], precision="int8")
    assert entries() == 2
    monkeypatch.setattr(compiling, "cpu_of_onednn", lambda: Cpu(instruction_set="sse5", features=frozenset()))
    OpenVinoEngine(digits_files[MODEL])
    assert entries() == 3
    monkeypatch.setattr(compiling.load_openvino(), "__version__", "2099.1")
    assert OpenVinoEngine(digits_files[MODEL]).info.version == "2099.1"
    assert entries() == 4


@pytest.mark.parametrize("entry", [b"", b"not a compiled model", bytes(10_000)])
def test_an_entry_that_does_not_load_is_healed(
    digits_files: Mapping[str, bytes], images: NDArray[np.uint8], home: Path, entry: bytes
) -> None:
    """An entry that has the right digest but is not a model is replaced by a compiled one."""
    scores = OpenVinoEngine(digits_files[MODEL]).run(images)
    (path,) = (home / "cache" / "compiled").iterdir()
    key = KEY.search(path.read_bytes())
    assert key is not None
    place = cache.Entry(path=path, key=key[0])
    cache.write_entry(place, entry)
    assert OpenVinoEngine(digits_files[MODEL]).run(images).tobytes() == scores.tobytes()
    assert len(cache.read_entry(place) or b"") > len(digits_files[MODEL]) / 2


def test_another_models_compiled_graph_is_not_run(
    digits_files: Mapping[str, bytes], images: NDArray[np.uint8], home: Path
) -> None:
    """A compiled graph that was planted under this model's name is compiled again."""
    scores = OpenVinoEngine(digits_files[MODEL], file=MODEL, digest="sha256:1").run(images)
    (own,) = (home / "cache" / "compiled").iterdir()
    OpenVinoEngine(digits_files[MODEL_INT8], precision="int8", file=MODEL, digest="sha256:2")
    (other,) = set((home / "cache" / "compiled").iterdir()) - {own}
    planted = other.read_bytes()
    own.write_bytes(planted)
    again = OpenVinoEngine(digits_files[MODEL], file=MODEL, digest="sha256:1")
    assert again.run(images).tobytes() == scores.tobytes()
    assert own.read_bytes() != planted


def test_a_model_that_can_not_be_exported_runs_all_the_same(
    digits_files: Mapping[str, bytes], images: NDArray[np.uint8], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that can't be kept in the cache is compiled each time."""

    def fail(self: object) -> None:
        raise RuntimeError("Exception from src/core/src/pass/serialize.cpp:1:\nunsupported")

    monkeypatch.setattr(compiling.load_openvino().CompiledModel, "export_model", fail)
    assert OpenVinoEngine(digits_files[MODEL]).run(images).shape == (20, 10)
    assert not (home / "cache").exists()


RELEASED = """
import signal, sys, threading
from pathlib import Path
from classifier.engines.openvino import OpenVinoEngine
engines = [OpenVinoEngine(Path(sys.argv[1]).read_bytes()) for _ in range(2)]
if sys.argv[2] == "in order":
    while engines:
        del engines[0]
else:
    releasing = threading.Thread(target=engines.clear)
    releasing.start()
    releasing.join()
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("how", ["in order", "by a thread"])
def test_ctrl_c_after_engines_are_gone(digits_files: Mapping[str, bytes], tmp_path: Path, how: str) -> None:
    """Ctrl-C raises KeyboardInterrupt; the signal stack is not unmapped with the engines, which would crash."""
    (tmp_path / MODEL).write_bytes(digits_files[MODEL])
    done = run_python(RELEASED, str(tmp_path / MODEL), how, TANDEM_HOME=str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr
