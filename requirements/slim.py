"""Remove from a virtual environment what an image never runs: `python slim.py ENVIRONMENT`.

Runs in the build stage, on the base's Python, before the bytecode is compiled. A rule that removes nothing although its
package is installed ends the build: the package has changed, and the rule must follow.
"""

from __future__ import annotations

import shutil
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Rule:
    """Files of one package that no image needs.

    Attributes:
        package: the folder in site-packages that the rule is about; the rule is skipped if it is not there.
        reason: why nothing misses the files.
        patterns: globs below site-packages; each must match.
        kept: patterns of names; what matches them stays.
    """

    package: str
    reason: str
    patterns: tuple[str, ...]
    kept: tuple[str, ...] = ()


RULES = (
    Rule(
        "onnxruntime",
        "the Python module holds the whole runtime; the library of the same code serves C programs",
        ("onnxruntime/capi/libonnxruntime.so*",),
    ),
    Rule(
        "onnxruntime",
        "tools that make and convert models",
        tuple(f"onnxruntime/{name}" for name in ("backend", "datasets", "quantization", "tools", "transformers")),
    ),
    Rule(
        "nvidia/cu13",
        "replaces the BLAS of other programs, and what is left of the headers",
        ("nvidia/cu13/lib/libnvblas.so*", "nvidia/*/include"),
    ),
    Rule(
        "openvino",
        "devices other than the CPU, readers of formats other than ONNX and OpenVINO's own, the interface for C",
        ("openvino/libs/*",),
        kept=(
            "libopenvino.so*",
            "libopenvino_*_cpu_plugin.so",
            "libopenvino_onnx_frontend.so*",
            "libopenvino_ir_frontend.so*",
            "libtbb*",
            "libhwloc*",
        ),
    ),
    Rule(
        "openvino", "for CMake, and Python's side of those readers", ("openvino/cmake", "openvino/frontend/*/py_*.so")
    ),
    Rule(
        "pyarrow",
        "Arrow Flight, a network protocol",
        ("pyarrow/libarrow_flight.so*", "pyarrow/libarrow_python_flight.so*", "pyarrow/_flight.*"),
    ),
    Rule(
        "pyarrow",
        "Arrow's own drivers of object stores and HDFS: fsspec opens all files",
        ("pyarrow/libarrow_s3.so*", "pyarrow/_s3fs.*", "pyarrow/_gcsfs.*", "pyarrow/_azurefs.*", "pyarrow/_hdfs.*"),
    ),
    Rule(
        "pyarrow",
        "encrypted Parquet, which needs a key service",
        ("pyarrow/libarrow_python_parquet_encryption.so*", "pyarrow/*_parquet_encryption.*"),
    ),
    Rule(
        "pyarrow",
        "ORC files and plans of queries: inputs and parts are Parquet",
        ("pyarrow/*_orc.*", "pyarrow/_substrait.*"),
    ),
    Rule(
        "pyarrow",
        "copies of a library: a wheel has no links, and extension modules load libarrow_python.so.NUMBER",
        ("pyarrow/libarrow_python.so", "pyarrow/libarrow_python.so.*.*.*"),
    ),
    Rule(
        "pyarrow",
        "for other extension modules",
        ("pyarrow/include", "pyarrow/includes", "pyarrow/src", "pyarrow/_pyarrow_cpp_tests.*"),
    ),
    Rule(
        "numpy",
        "for other extension modules",
        ("numpy/f2py", "numpy/_core/include", "numpy/_core/lib", "numpy/random/lib", "numpy/random/*.pxd"),
    ),
    Rule("numpy", "test modules", ("numpy/_core/_simd.*", "numpy/_core/_*_tests.*")),
    Rule(
        "botocore",
        "services of AWS other than S3, and those that credentials come from",
        ("botocore/data/*/",),
        kept=("s3", "sts", "sso", "sso-oidc", "signin"),
    ),
    Rule(
        "sqlalchemy",
        "databases other than SQLite and PostgreSQL, and tools for tests",
        ("sqlalchemy/testing", *(f"sqlalchemy/dialects/{name}" for name in ("mssql", "mysql", "oracle"))),
    ),
    Rule("securesystemslib", "test vectors", ("securesystemslib/_vendor/ed25519/test_data",)),
    Rule("pygments", "colours for source text, of which messages have none", ("pygments/lexers/[a-z]*.py",)),
)

# In every package.
TESTS = ("test", "tests")
SOURCES = (".a", ".c", ".cc", ".cpp", ".cu", ".cuh", ".h", ".hpp", ".pxd", ".pxi", ".pyi", ".pyx")
"""For compilers and type checkers."""

SYMBOL_TABLE = 2
"""The type of an ELF section with symbols for debuggers; those for the loader have another."""

COMMANDS = ("python", "tandem", "bentoml")
"""Prefixes of the names in `bin` that stay."""


def main(environment: Path) -> None:
    """Remove, and print how much."""
    (site,) = environment.glob("lib/python3.*/site-packages")
    before = size(environment)
    missed = [
        f"{pattern} ({rule.reason})"
        for rule in RULES
        if (site / rule.package).is_dir()
        for pattern in rule.patterns
        if not [remove(path) for path in list(site.glob(pattern)) if not any(map(path.match, rule.kept))]
    ]
    for path in everywhere(environment, site):
        remove(path)
    for library in site.rglob("*.so*"):
        if not library.is_symlink():
            strip(library)
    if missed:
        sys.exit(f"slim.py: these patterns match nothing any more, change or remove them: {'; '.join(missed)}")
    print(f"slim.py: {before / 1e6:.0f} MB, now {size(environment) / 1e6:.0f} MB")


def everywhere(environment: Path, site: Path) -> Iterator[Path]:
    """Yield what to remove in any package."""
    # A list: folders disappear while their removal goes on.
    for path in list(site.rglob("*")):
        if (path.name in TESTS and path.is_dir()) or (path.suffix in SOURCES and path.is_file()):
            yield path
    for path in (environment / "bin").iterdir():
        if not path.name.startswith(COMMANDS):
            yield path


def remove(path: Path) -> Path:
    """Remove a file or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    return path


def strip(library: Path) -> None:
    """Cut off the end of a 64-bit ELF file that is never loaded: symbols for debuggers, and the table of sections.

    Segments keep their places, so it is safe after `patchelf` as well, unlike the command `strip`. A file without such
    symbols stays as it is.
    """
    with library.open("r+b") as file:
        head = file.read(64)
        if head[:6] != b"\x7fELF\x02\x01":  # 64 bits, little-endian
            return
        segments, sections = struct.unpack_from("<QQ", head, 32)
        _, segment_count, section_size, section_count = struct.unpack_from("<HHHH", head, 54)
        file.seek(sections)
        table = file.read(section_size * section_count)
        if SYMBOL_TABLE not in (
            struct.unpack_from("<I", table, at + 4)[0] for at in range(0, len(table), section_size)
        ):
            return
        file.seek(segments)
        headers = struct.iter_unpack("<IIQQQQQQ", file.read(56 * segment_count))
        end = max(file.tell(), *(offset + length for _, _, offset, _, _, length, _, _ in headers))
        file.seek(40)
        file.write(bytes(8))  # where the table of sections is
        file.seek(60)
        file.write(bytes(4))  # its length, and which entry names the others
        file.truncate(end)


def size(folder: Path) -> int:
    """Return the bytes of all files below `folder`."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
