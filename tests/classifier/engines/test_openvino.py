"""OpenVINO as an engine: it runs at the requested precision, or says why not."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from classifier.artifact import CONFIG, MODEL, MODEL_INT8
from classifier.engines import graphs
from classifier.engines.onnxruntime import OnnxRuntimeEngine
from classifier.engines.openvino import OpenVinoEngine
from classifier.errors import DamagedArtifact, EngineError, EngineUnavailable, OutOfDeviceMemory
from classifier.hardware import cpu
from tests.classifier.conftest import run_python

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

pytest.importorskip("openvino")


def test_each_precision_gives_scores_of_its_own(digits_files: Mapping[str, bytes], images: NDArray[np.uint8]) -> None:
    """Precisions give different scores: none silently runs as another."""
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
    """OpenVINO takes a precision as a hint, so the compiled graph is checked."""
    with pytest.raises(EngineUnavailable, match=rf"would run {file} in .*{ran}.* instead of {precision} on the CPU; "):
        OpenVinoEngine(digits_files[file], precision=precision, file=file)  # type: ignore[arg-type]


def test_fp16_is_not_of_this_engine(digits_files: Mapping[str, bytes]) -> None:
    with pytest.raises(EngineUnavailable, match="'openvino' does not run fp16; choose "):
        OpenVinoEngine(digits_files[MODEL], precision="fp16")


def test_openvino_is_not_installed(digits_files: Mapping[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(EngineUnavailable, match=r"can't be loaded \(.*\); pip install -e '\.\[openvino\]'"):
        OpenVinoEngine(digits_files[MODEL])


@pytest.mark.parametrize("damaged", [b"hello", b"\0" * 100, b"<html></html>", b"/etc/passwd"])
def test_bytes_that_are_no_graph(damaged: bytes, home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Bytes that are not ONNX give an error of one line; OpenVINO prints nothing and opens no path."""
    with pytest.raises(
        DamagedArtifact, match=r"^model\.onnx can't be opened, because it is not an ONNX file"
    ) as caught:
        OpenVinoEngine(damaged)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_no_bytes(home: Path) -> None:
    with pytest.raises(EngineUnavailable, match=r"'openvino' can't open model\.onnx"):
        OpenVinoEngine(b"")


def test_a_graph_that_is_cut(digits_files: Mapping[str, bytes], home: Path) -> None:
    """A graph cut anywhere runs or is an error of ours; no other exception gets out."""
    graph = digits_files[MODEL]
    for end in (*range(1, 200, 7), *range(200, len(graph), len(graph) // 40)):
        with contextlib.suppress(EngineUnavailable, DamagedArtifact):
            OpenVinoEngine(graph[:end], threads=1)


def test_a_graph_of_another_kind(home: Path) -> None:
    """A valid graph that is not an image classifier is refused as such."""
    with pytest.raises(DamagedArtifact, match=r"one uint8 \[N, H, H, 3\] and gives float32 'probabilities'"):
        OpenVinoEngine(graphs.PROBE)


@pytest.mark.parametrize(
    ("message", "kind"),
    [("std::bad_alloc", OutOfDeviceMemory), ("Check 'x' failed at y.cpp:3:\nsomething broke\n\n", EngineError)],
)
def test_failures_while_running(
    digits_files: Mapping[str, bytes], images: NDArray[np.uint8], message: str, kind: type[EngineError]
) -> None:
    """OpenVINO's exceptions become errors of one line, and the engine keeps running."""

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
    """With fewer instructions the scores agree within the tolerance, and the instruction set is recorded.

    int8 is right without VNNI because the export took weights of 7 bits; else `needs` would name VNNI.
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
