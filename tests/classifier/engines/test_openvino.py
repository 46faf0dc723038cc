"""OpenVINO: runs at the precision that was asked for, or says why not; loads what was compiled before."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from classifier.artifact import CONFIG, MODEL, MODEL_INT8
from classifier.engines import cache, compiling, graphs
from classifier.engines.onnxruntime import OnnxRuntimeEngine
from classifier.engines.openvino import OpenVinoEngine
from classifier.errors import DamagedArtifact, EngineError, EngineUnavailable, OutOfDeviceMemory
from classifier.hardware import Cpu, cpu
from tests.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

pytest.importorskip("openvino")


@pytest.fixture(scope="session")
def images() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty TANDEM_HOME."""
    monkeypatch.setenv("TANDEM_HOME", str(tmp_path))
    return tmp_path


# Strict


def test_each_precision_gives_scores_of_its_own(digits_files: Mapping[str, bytes], images: NDArray[np.uint8]) -> None:
    """No precision is another one in disguise: they differ, by as much as their arithmetic does."""
    if "bf16" not in cpu().features:
        pytest.skip("the CPU has no bf16 instructions")
    exact = OnnxRuntimeEngine(digits_files[MODEL]).run(images)
    distances = {}
    for precision, file in (("fp32", MODEL), ("bf16", MODEL), ("int8", MODEL_INT8)):
        scores = OpenVinoEngine(digits_files[file], precision=precision).run(images)  # type: ignore[arg-type]
        distances[precision] = float(np.abs(scores - exact).max())
    assert distances["fp32"] < 1e-5 < min(distances["bf16"], distances["int8"])
    assert max(distances.values()) < 0.5


@pytest.mark.parametrize(
    ("precision", "file", "ran"), [("int8", MODEL, "f32"), ("bf16", MODEL_INT8, "u8"), ("fp32", MODEL_INT8, "u8")]
)
def test_what_would_run_in_another_precision_is_refused(
    digits_files: Mapping[str, bytes], precision: str, file: str, ran: str
) -> None:
    """OpenVINO takes a precision for a hint; here what it would really execute is looked at."""
    with pytest.raises(EngineUnavailable, match=rf"would run {file} in .*{ran}.* instead of {precision} on the CPU; "):
        OpenVinoEngine(digits_files[file], precision=precision, file=file)  # type: ignore[arg-type]


def test_fp16_is_not_of_this_engine(digits_files: Mapping[str, bytes]) -> None:
    with pytest.raises(EngineUnavailable, match="'openvino' does not run fp16; choose "):
        OpenVinoEngine(digits_files[MODEL], precision="fp16")


def test_openvino_is_not_installed(digits_files: Mapping[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(EngineUnavailable, match=r"can't be loaded \(.*\); pip install -e '\.\[openvino\]'"):
        OpenVinoEngine(digits_files[MODEL])


@pytest.mark.parametrize("damaged", [b"", b"hello", b"\0" * 100, b"<html></html>", b"/etc/passwd"])
def test_bytes_that_are_no_graph(damaged: bytes, home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """What is no ONNX ends in one sentence, OpenVINO prints nothing of its own, and no path is opened."""
    with pytest.raises(EngineUnavailable, match=r"'openvino' can't open model\.onnx") as caught:
        OpenVinoEngine(damaged)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_graph_that_is_cut(digits_files: Mapping[str, bytes], home: Path) -> None:
    """A graph that ends anywhere is an error of ours, or one that runs: no other exception gets out."""
    graph = digits_files[MODEL]
    for end in (*range(1, 200, 7), *range(200, len(graph), len(graph) // 40)):
        with contextlib.suppress(EngineUnavailable, DamagedArtifact):
            OpenVinoEngine(graph[:end], threads=1)


def test_a_graph_of_another_kind(home: Path) -> None:
    """A graph that is valid ONNX, and no classifier of images, is told so."""
    with pytest.raises(DamagedArtifact, match=r"where one uint8 \[N, H, H, 3\] and float32 'probabilities'"):
        OpenVinoEngine(graphs.PROBE)


@pytest.mark.parametrize(
    ("message", "kind"),
    [("std::bad_alloc", OutOfDeviceMemory), ("Check 'x' failed at y.cpp:3:\nsomething broke\n\n", EngineError)],
)
def test_failures_while_running(
    digits_files: Mapping[str, bytes], images: NDArray[np.uint8], message: str, kind: type[EngineError]
) -> None:
    """What OpenVINO raises is one sentence of ours, and the engine runs on."""

    class Request:
        def set_input_tensor(self, tensor: object) -> None:
            raise RuntimeError(message)

    engine = OpenVinoEngine(digits_files[MODEL])
    request = engine._requests.get()
    engine._requests.put(Request())
    with pytest.raises(kind) as caught:
        engine.run(images[:1])
    assert "\n" not in str(caught.value)
    assert kind is OutOfDeviceMemory or "openvino failed (something broke); choose" in str(caught.value)
    assert isinstance(engine._requests.get(), Request)
    engine._requests.put(request)
    assert engine.run(images[:1]).shape == (1, 10)


def test_nothing_is_reported_to_anyone(tmp_path: Path) -> None:
    """OpenVINO's converter, imported with it, would report each import; here it stays away, and is there for others."""
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


# Compiled once


def test_a_second_engine_loads_what_the_first_compiled(
    digits_files: Mapping[str, bytes], images: NDArray[np.uint8], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the cache, on any number of threads and for either road, come the same bits; nothing is compiled again."""
    scores = OpenVinoEngine(digits_files[MODEL_INT8], precision="int8", threads=2).run(images)
    monkeypatch.setattr(compiling, "_compile", lambda *args, **options: pytest.fail("it was compiled again"))
    for threads in (1, 2):
        for tuning in ("latency", "throughput"):
            again = OpenVinoEngine(digits_files[MODEL_INT8], precision="int8", threads=threads, tuning=tuning)  # type: ignore[arg-type]
            assert again.run(images).tobytes() == scores.tobytes()


def test_an_artifacts_graph_is_kept_by_its_digest(
    digits_files: Mapping[str, bytes], images: NDArray[np.uint8], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digest of the artifact names what was compiled, so no large graph is digested again; its file does, too."""
    scores = OpenVinoEngine(lambda: digits_files[MODEL], file=MODEL, digest="sha256:1").run(images)
    OpenVinoEngine(digits_files[MODEL_INT8], precision="int8", file=MODEL_INT8, digest="sha256:1")
    monkeypatch.setattr(compiling, "_compile", lambda *args, **options: pytest.fail("it was compiled again"))
    again = OpenVinoEngine(lambda: digits_files[MODEL], file=MODEL, digest="sha256:1")
    assert again.run(images).tobytes() == scores.tobytes()


def test_a_damaged_graph_is_found_though_it_was_compiled_before(digits_files: Mapping[str, bytes], home: Path) -> None:
    """What is in the registry is checked each time, whether it is needed or not."""

    def read() -> bytes:
        raise DamagedArtifact("model.onnx is damaged")

    OpenVinoEngine(digits_files[MODEL], file=MODEL, digest="sha256:1")
    with pytest.raises(DamagedArtifact, match="is damaged"):
        OpenVinoEngine(read, file=MODEL, digest="sha256:1")


def test_another_graph_precision_version_or_cpu_is_another_entry(
    digits_files: Mapping[str, bytes], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key holds all on which compiled code depends."""

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
    """An entry that is whole by its digest, and no model, is compiled anew and replaced."""
    scores = OpenVinoEngine(digits_files[MODEL]).run(images)
    (path,) = (home / "cache" / "compiled").iterdir()
    cache.write_entry(path, entry)
    assert OpenVinoEngine(digits_files[MODEL]).run(images).tobytes() == scores.tobytes()
    assert len(cache.read_entry(path) or b"") > len(digits_files[MODEL]) / 2


def test_a_model_that_can_not_be_exported_runs_all_the_same(
    digits_files: Mapping[str, bytes], images: NDArray[np.uint8], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache is a convenience: without it, a model is compiled each time."""

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
    """It is a KeyboardInterrupt, not a segmentation fault in a signal stack that OpenVINO took along."""
    (tmp_path / MODEL).write_bytes(digits_files[MODEL])
    done = run_python(RELEASED, str(tmp_path / MODEL), how, TANDEM_HOME=str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr


# On another CPU: `ONEDNN_MAX_CPU_ISA` is read once in a process, so each has one of its own.

SCORES_OF = """
import json, sys
from pathlib import Path
import numpy as np
from classifier.engines.openvino import OpenVinoEngine
images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
engine = OpenVinoEngine(Path(sys.argv[1]).read_bytes(), precision=sys.argv[2])
json.dump([engine.info.instruction_set, engine.run(images).tolist()], sys.stdout)
"""


@pytest.mark.parametrize(("precision", "file"), [("fp32", MODEL), ("int8", MODEL_INT8)])
@pytest.mark.parametrize("held_to", ["AVX2", "AVX512_CORE"])
def test_a_cpu_with_fewer_instructions(
    digits_files: Mapping[str, bytes],
    images: NDArray[np.uint8],
    tmp_path: Path,
    precision: str,
    file: str,
    held_to: str,
) -> None:
    """The same scores within the tolerance, though not by the same instructions: which ran is recorded.

    That int8 is right without VNNI is what the export made sure of, by weights of 7 bits, or `needs` would say so.
    """
    if "avx512" not in cpu().instruction_set and cpu().instruction_set != "amx":
        pytest.skip("the CPU has no AVX-512 that could be hidden")
    (tmp_path / file).write_bytes(digits_files[file])
    done = run_python(SCORES_OF, str(tmp_path / file), precision, ONEDNN_MAX_CPU_ISA=held_to)
    instruction_set, scores = json.loads(done.stdout)
    here = OpenVinoEngine(digits_files[file], precision=precision)  # type: ignore[arg-type]
    name = {"AVX2": "avx2", "AVX512_CORE": "avx512"}[held_to]
    assert instruction_set == f"{name}_on_{cpu().instruction_set}"
    assert instruction_set != here.info.instruction_set
    needs = {each["precision"]: each["needs"] for each in json.loads(digits_files[CONFIG])["allowed"]}
    if "vnni" in needs[precision]:
        pytest.skip("this int8 is not right without VNNI, and says so")
    np.testing.assert_allclose(np.array(scores), here.run(images), rtol=0, atol=0.03)


def run_python(code: str, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
