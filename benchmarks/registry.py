"""Push and pull beside `skopeo copy`, in one run on one machine: `nox -s bench -- registry [--json FILE]`.

Wall times are those of whole commands, `tandem models push` and `skopeo copy`, in turn, over a real registry on
loopback. Each repetition has a model of its own, so that nothing of an earlier one is there; medians are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from registry import LocalRegistry
from registry.pushing import push
from tests.registry.servers import run_proxy, run_registry

MB = 1_000_000
MODEL_BYTES = 100 * MB
LARGE_BYTES = 2_000 * MB
SMALL_BYTES = 2 * MB
PROCESSES = 16
TANDEM = str(Path(sys.executable).with_name("tandem"))


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One figure with the limit that it has to keep."""

    value: float
    bar: float
    holds: bool


def run(*command: str, home: Path) -> float:
    """Return how many seconds the command took; it has to succeed."""
    started = time.perf_counter()
    process = subprocess.Popen(
        command, env={**os.environ, "TANDEM_HOME": str(home)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    if process.wait() != 0:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return time.perf_counter() - started


def peak_of(*command: str, home: Path) -> int:
    """Return the most memory, in bytes, that the command's process had; it has to succeed.

    Read from /proc while it runs: what `wait4` gives counts this process's own memory, from which it was forked.
    """
    process = subprocess.Popen(
        command, env={**os.environ, "TANDEM_HOME": str(home)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    peak = 0
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        if "VmHWM" in status:
            peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
        time.sleep(0.01)
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    return peak


def make_model(home: Path, size: int) -> Path:
    """Return `home` after a new model of `size` bytes was added to its registry, by another process for its memory."""
    script = (
        "import os, sys; from pathlib import Path; from registry import LocalRegistry;"
        "from tests.registry.artifacts import make_files; size = int(sys.argv[2]); piece = os.urandom(1_000_000);"
        "LocalRegistry(Path(sys.argv[1]) / 'registry').add('digits', make_files(piece * (size // 1_000_000)))"
    )
    subprocess.run([sys.executable, "-c", script, str(home), str(size)], check=True)
    return home


def compare_with_skopeo(host: str, folder: Path, repetitions: int) -> dict[str, dict[str, list[float]]]:
    """Return the seconds of each repetition, by direction and command."""
    times: dict[str, dict[str, list[float]]] = {name: {"tandem": [], "skopeo": []} for name in ("push", "pull")}
    for number in range(repetitions):
        home = make_model(folder / f"home{number}", MODEL_BYTES)
        layout, there = f"oci:{home}/registry:digits:1", {who: f"{host}/{who}/{number}:1" for who in times["push"]}
        copied = folder / f"copied{number}"
        commands = {
            ("push", "tandem"): [TANDEM, "models", "push", "digits:1", there["tandem"]],
            ("push", "skopeo"): [
                "skopeo",
                "copy",
                "-q",
                "--dest-tls-verify=false",
                layout,
                f"docker://{there['skopeo']}",
            ],
            ("pull", "tandem"): [TANDEM, "models", "pull", there["tandem"]],
            ("pull", "skopeo"): [
                *("skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{there['skopeo']}"),
                f"oci:{copied}/skopeo:digits:1",
            ],
        }
        for direction in ("push", "pull"):
            # Who goes first takes turns: the second finds a warmer disk.
            for who in ("tandem", "skopeo") if number % 2 else ("skopeo", "tandem"):
                at = home if direction == "push" else copied / "tandem"
                copied.mkdir(exist_ok=True)
                times[direction][who].append(run(*commands[direction, who], home=at))
        subprocess.run(["rm", "-rf", str(home), str(copied)], check=True)
    return times


def measure_memory(host: str, folder: Path) -> dict[str, int]:
    """Return by how many bytes the peak of a large push and of a large pull is above that of a small one."""
    peaks: dict[str, list[int]] = {"push": [], "pull": []}
    for size in (SMALL_BYTES, LARGE_BYTES):
        home, copied = make_model(folder / f"sized{size}", size), folder / f"copied{size}"
        remote = f"{host}/memory/{size}:1"
        peaks["push"].append(peak_of(TANDEM, "models", "push", "digits:1", remote, home=home))
        peaks["pull"].append(peak_of(TANDEM, "models", "pull", remote, home=copied))
        subprocess.run(["rm", "-rf", str(home), str(copied)], check=True)
    return {direction: large - small for direction, (small, large) in peaks.items()}


def count_transfers(host: str, folder: Path) -> tuple[int, int]:
    """Return how often the largest blob is fetched by 16 processes at once, and how many blobs a second push sends."""
    home = make_model(folder / "counted", MODEL_BYTES)
    registry = LocalRegistry(home / "registry")
    with run_proxy(host) as proxy:
        target = f"{proxy.host}/counted/digits"
        push("digits:1", target, registry)
        again = len(push("digits:1", target, registry).sent)
        environment = {**os.environ, "TANDEM_HOME": str(folder / "shared")}
        proxy.requests.clear()
        command, quiet = [TANDEM, "models", "pull", f"{target}:1"], subprocess.DEVNULL
        pulls = [subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet) for _ in range(PROCESSES)]
        if any(process.wait() for process in pulls):
            sys.exit("a pull failed")
        largest = max(registry.resolve("digits:1").files.values(), key=lambda file: file.size).digest
        return sum(request.path.endswith(largest) for request in proxy.requests), again


def describe_run() -> dict[str, object]:
    """Return the command, and what it ran on and against."""

    def said(*command: str) -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    model = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    return {
        "command": shlex.join(["nox", "-s", "bench", "--", "registry", *sys.argv[1:]]),
        "machine": f"{os.cpu_count()} CPUs, {model.partition(':')[2].strip()}",
        "against": [said("skopeo", "--version"), said("docker-registry", "--version")],
    }


def main() -> None:
    """Run everything, print a table, and exit with 1 if a bar isn't kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--repetitions", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, run_registry(Path(name) / "remote") as host:
        folder = Path(name)
        times = compare_with_skopeo(host, folder, options.repetitions)
        fetched, sent_again = count_transfers(host, folder)
        memory = measure_memory(host, folder)
    bars = {}
    print(f"{MODEL_BYTES // MB} MB, median of {options.repetitions} (least … most), seconds")
    for direction, by in times.items():
        for who, seconds in by.items():
            median = statistics.median(seconds)
            print(f"  {direction}  {who:7}  {median:.2f}  ({min(seconds):.2f} … {max(seconds):.2f})")
        ratio = statistics.median(by["tandem"]) / statistics.median(by["skopeo"])
        bars[f"{direction}: tandem / skopeo copy"] = Bar(value=round(ratio, 2), bar=1.3, holds=ratio <= 1.3)
    for direction, more in memory.items():
        value = round(more / (1 << 20), 1)
        bars[f"{direction}: MiB of memory for 2 GB over 2 MB"] = Bar(value=value, bar=64, holds=value <= 64)
    bars["blobs that a second push sends"] = Bar(value=sent_again, bar=0, holds=sent_again == 0)
    bars[f"downloads by {PROCESSES} processes at once"] = Bar(value=fetched, bar=1, holds=fetched == 1)
    for figure, bar in bars.items():
        print(f"{figure:45}  {bar.value:>6}  bar {bar.bar:>4}  {'holds' if bar.holds else 'MISSED'}")
    if options.json is not None:
        figures = {**describe_run(), "seconds": times, "bars": {figure: asdict(bar) for figure, bar in bars.items()}}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    sys.exit(0 if all(bar.holds for bar in bars.values()) else 1)


if __name__ == "__main__":
    main()
