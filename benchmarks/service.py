"""The service beside plain FastAPI, LitServe and stock BentoML: `nox -s bench -- service [--json FILE]`.

All run the same ONNX graph with ONNX Runtime on the same number of threads, with one worker and their access logs on,
and answer the same forms over kept-alive connections. `benchmarks/peers/` has the peers as their documentation teaches
them. Before anything is measured, all must give the same answers.

What counts is the CPU time of a server's whole process tree per request: neighbours on the machine change it least. The
servers take turns in rounds, and a ratio is the median of those of each round. The clients are a process of their own
and are not counted. ONNX Runtime lets idle threads spin by default, which costs CPU time; this service turns that off.
`FastAPI` is left as it comes, `FastAPI, no spinning` has this service's setting: the rest of the difference is code.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import signal
import statistics
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.figures import Bar, at_most, finish
from benchmarks.models import make_mobilenet, make_model, open_work
from benchmarks.serving import gpu
from benchmarks.serving.agreement import check_agreement
from benchmarks.serving.alone import cpu_ms_alone
from benchmarks.serving.overload import overload
from benchmarks.serving.photographs import make_images
from benchmarks.serving.rounds import compare
from benchmarks.serving.servers import (
    BENTOML,
    EMPTY,
    FASTAPI,
    LITSERVE,
    TANDEM,
    all_running,
    empty,
    peers,
    running,
    tandem,
)
from benchmarks.serving.start import compare_starts, print_starts
from classifier.artifact import CONFIG, MODEL
from classifier.engines.runtime import load_runtime
from classifier.hardware import cpu, cpu_limit

if TYPE_CHECKING:
    from benchmarks.serving.photographs import ImageSet
    from registry import Artifact

CASES = ("tiny", "mobilenet", "cached", "start", "overload", "gpu")
PACKAGES = ("bentoml", "fastapi", "litserve", "numpy", "pillow", "starlette", "uvicorn")
TINY_CLIENTS, MOBILENET_CLIENTS = (1, 16), (1, 16)
PLAIN = (FASTAPI, LITSERVE, BENTOML)
"""The peers whose start is measured: their other settings change nothing in it."""
MAX_GROWTH_MB = 50


class Bench:
    """The cases, each of which prints a table and keeps its figures and bars."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.work = open_work(options.work)
        self.threads: int = options.threads or cpu_limit()
        self.rounds: int = options.rounds
        self.requests: int = options.requests
        self.minutes: float = options.minutes
        self.figures: dict[str, Any] = {}
        self.bars: dict[str, Bar] = {}

    def tiny(self) -> None:
        """The overhead: a network that takes no time, on images that take none."""
        images = self._images("tiny", width=32, height=32)
        for clients, found in self._beside_peers("tiny", self._digits(), images, TINY_CLIENTS).items():
            self.bars[f"tiny, {clients}: CPU against FastAPI"] = at_most(found.ratio(TANDEM, FASTAPI), 1)

    def mobilenet(self) -> None:
        """The usual work: a small network on photographs."""
        images = self._images("photographs", width=640, height=480)
        for clients, found in self._beside_peers("mobilenet", self._mobilenet(), images, MOBILENET_CLIENTS).items():
            self.bars[f"mobilenet, {clients}: CPU against FastAPI"] = at_most(found.ratio(TANDEM, FASTAPI), 0.75)
            self.bars[f"mobilenet, {clients}: CPU against BentoML"] = at_most(found.ratio(TANDEM, BENTOML), 0.4)
        alone = cpu_ms_alone(self._mobilenet(), self._files(images), threads=self.threads)
        print(f"\nDecoding and inference alone, without a server: {alone:.2f} CPU ms for each image")
        self.figures["mobilenet"]["alone_cpu_ms"] = alone

    def cached(self) -> None:
        """One image again and again, with this service's cache on."""
        artifact = self._digits()
        image = self._images("tiny", width=32, height=32).folder / "00000.jpg"
        contenders = [
            self._tandem(artifact, TANDEM_CACHE="64MiB"),
            peers(self._model(artifact), threads=self.threads)[0],
        ]
        with all_running(contenders, self.work) as servers:
            found = compare(
                *("A cached answer: one tiny image", servers, [image]),
                clients=16,
                requests=self.requests,
                rounds=self.rounds,
            )
        found.print()
        hits = sum(each.cached for each in found.rounds[TANDEM])
        print(f"  {hits:,} of {self.rounds * self.requests:,} answers came from the cache")
        self.figures["cached"] = {**asdict(found), "hits": hits}
        is_measured = hits == self.rounds * self.requests
        self.bars["cached: CPU against FastAPI"] = at_most(found.ratio(TANDEM, FASTAPI) if is_measured else None, 0.6)

    def start(self) -> None:
        """The start of a service with the tiny model, beside one without any."""
        artifact = self._digits()
        others = peers(self._model(artifact), threads=self.threads)
        contenders = [empty(), self._tandem(artifact), *(each for each in others if each.name in PLAIN)]
        found = compare_starts(contenders, self.work, self.rounds)
        print_starts(found)
        self.figures["start"] = {name: asdict(each) for name, each in found.items()}
        for what, title in {"cpu_s": "start: CPU to ready", "idle_mb": "idle memory"}.items():
            values = [getattr(found[name], what) for name in (TANDEM, EMPTY)]
            ratio = statistics.median(one / other for one, other in zip(*values, strict=True))
            self.bars[f"{title} against an empty BentoML"] = at_most(ratio, 1.1)

    def overload(self) -> None:
        """Far too many requests."""
        images = self._images("photographs", width=640, height=480)
        with running(self._tandem(self._mobilenet()), self.work) as server:
            found = overload(server, self._files(images), minutes=self.minutes, requests=self.requests)
        found.print()
        self.figures["overload"] = asdict(found)
        self.bars["overload: answers but 200, 429, 503"] = at_most(found.others, 0)
        self.bars["overload: p99 of the accepted, × the queue's bound"] = at_most(found.p99_s / found.bound_s, 2)
        self.bars[f"overload: MB more after {self.minutes:g} min"] = at_most(found.growth_mb, MAX_GROWTH_MB)

    def gpu(self) -> None:
        """Images a second on a GPU."""
        if (reason := gpu.why_not()) is not None:
            print(f"\nOn the GPU: not run; {reason}")
            self.figures["gpu"] = {"ran": False, "why": reason}
            return
        images = self._files(self._images("photographs", width=640, height=480))
        rates = gpu.measure_rates(
            *(self._mobilenet(), images, self.work), threads=self.threads, rounds=self.rounds, requests=self.requests
        )
        gpu.print_rates(rates)
        self.figures["gpu"] = {"ran": True, "rates": [asdict(each) for each in rates]}

    def _beside_peers(
        self, case: str, artifact: Artifact, images: ImageSet, at_once: tuple[int, ...]
    ) -> dict[int, Any]:
        files = self._files(images)
        contenders = [self._tandem(artifact), *peers(self._model(artifact), threads=self.threads)]
        with all_running(contenders, self.work) as servers:
            distances = check_agreement(servers, files)
            print(f"\n{case}: same labels on all; scores within {max(distances.values()):.1e} of this service's")
            found = {}
            for clients in at_once:
                found[clients] = compare(
                    *(f"{case}, {images.name}", servers, files),
                    clients=clients,
                    requests=self.requests,
                    rounds=self.rounds,
                )
                found[clients].print()
        self.figures[case] = {"distances": distances, "at_once": {n: asdict(each) for n, each in found.items()}}
        return found

    def _tandem(self, artifact: Artifact, **environment: str) -> Any:
        return tandem(artifact, threads=self.threads, **environment)

    def _digits(self) -> Artifact:
        return make_model("digits", Path("digits"), work=self.work)

    def _mobilenet(self) -> Artifact:
        return make_mobilenet(self.work)

    def _model(self, artifact: Artifact) -> Path:
        """Return a folder with the artifact's graph and configuration, for the peers."""
        folder = self.work / "models" / artifact.name
        folder.mkdir(parents=True, exist_ok=True)
        for name in (MODEL, CONFIG):
            (folder / name).write_bytes(artifact.read(name))
        return folder

    def _images(self, name: str, *, width: int, height: int) -> ImageSet:
        found = make_images(self.work / "images" / name, count=self.requests, width=width, height=height)
        details = {key: value for key, value in asdict(found).items() if key != "folder"}
        self.figures.setdefault("images", {})[name] = details
        return found

    def _files(self, images: ImageSet) -> list[Path]:
        return sorted(images.folder.iterdir())[: images.count]


def describe_run() -> dict[str, Any]:
    """Return the command, and what it ran on and with."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            sys.exit(f"{name} is not installed: nox -s bench -- service brings it")
    versions["onnxruntime"] = load_runtime().__version__  # of either wheel, the CPU's or the GPU's
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")
    return {
        "command": shlex.join(["nox", "-s", "bench", "--", "service", *sys.argv[1:]]),
        "machine": f"{cpu_limit()} CPUs, {model}, {cpu().instruction_set}",
        "busy": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": versions,
    }


def main() -> None:
    """Run the cases, print tables, and exit with 1 if a bar isn't kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", default=",".join(CASES), help="some of the default, with commas (%(default)s)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=400, help="in each round, all with images of their own")
    parser.add_argument("--minutes", type=float, default=1, help="of overload; 10 for the bar on memory")
    parser.add_argument("--threads", type=int, help="of ONNX Runtime; one for each CPU unless told")
    parser.add_argument("--quick", action="store_true", help="2 rounds of 60 requests: does it run?")
    parser.add_argument("--work", type=Path, default=Path(".bench"), help="where models, images and logs are kept")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    if unknown := set(options.case.split(",")) - set(CASES):
        parser.error(f"--case {','.join(sorted(unknown))}: choose from {', '.join(CASES)}")
    if options.quick:
        options.rounds, options.requests, options.minutes = 2, 60, 0.25
    run = describe_run()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit("stopped"))  # by way of the blocks that stop the servers
    bench = Bench(options)
    print(f"{run['machine']}, {bench.threads} threads; {', '.join(f'{k} {v}' for k, v in run['versions'].items())}")
    for case in (each for each in CASES if each in options.case.split(",")):
        getattr(bench, case)()
    finish(bench.bars, {**run, **bench.figures}, options.json)


if __name__ == "__main__":
    main()
