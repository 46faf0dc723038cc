"""Sizes of the images and costs of a start: `nox -s images [-- --cuda] [--packages] [--json FILE]`. Needs Docker.

A size is that of the layers above the base, uncompressed. A batch container classifies ten images in turn with the
command on this machine and with a container that does nothing; medians are compared. A service is ready when
`/readyz` answers 200. $TANDEM_BASE_IMAGE names another base than the Dockerfiles' pin.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.figures import at_most, finish

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.figures import Bar

ROOT = Path(__file__).resolve().parents[1]
MB = 1_000_000
BUDGETS_MB = {
    "batch-cpu": 300,
    "service-cpu": 250,
    "batch-openvino": 300 + 185,
    "service-openvino": 250 + 185,
    "batch-cuda": 2600,
}
READY_S = 4.7
"""The slowest start of a tutorial's image with torch, on a machine with two CPUs."""
IMAGES = 10
PACKAGES = 12
"""Packages that `--packages` lists of each image."""
HARDENED = ("--rm", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")


def docker(*arguments: str | Path, show: bool = False) -> str:
    """Return the output of `docker …`, or show it; it has to succeed."""
    environment = {**os.environ, "DOCKER_BUILDKIT": "1"}
    command = ["docker", *map(str, arguments)]
    done = subprocess.run(command, env=environment, stdout=None if show else subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{shlex.join(command)} ended with {done.returncode}")
    return done.stdout or ""


def base_image() -> str:
    """Return the name of the base."""
    pinned = re.search(r"\$\{TANDEM_BASE_IMAGE:-(\S+)\}", (ROOT / "Dockerfile.batch").read_text())
    assert pinned is not None, "test_base.py checks it"
    return os.environ.get("TANDEM_BASE_IMAGE") or pinned[1]


def build(variant: str) -> str:
    """Build the image `KIND-ENGINE`, and return its name."""
    kind, engine = variant.split("-")
    image = f"tandem-{kind}:{engine}"
    options = ("--build-arg", "TANDEM_BASE_IMAGE", "--build-arg", f"ENGINE={engine}", "--tag", image)
    docker("build", "--quiet", "--file", ROOT / f"Dockerfile.{kind}", *options, ROOT, show=True)
    return image


def layers_bytes(image: str) -> int:
    """Return the bytes of all layers of `image`."""
    return sum(map(int, docker("history", "--human=false", "--format", "{{.Size}}", image).split()))


def list_packages(image: str) -> dict[str, float]:
    """Return the size in MB of the largest folders of `image`'s packages."""
    script = "cd /opt/tandem/lib/python3.11/site-packages && du -sk * | sort -rn"
    lines = docker("run", "--rm", "--network", "none", "--entrypoint", "sh", image, "-c", script).splitlines()
    sizes = (line.split("\t") for line in lines[:PACKAGES])
    return {name: round(int(kilobytes) * 1024 / MB, 1) for kilobytes, name in sizes}


def seconds(*command: str | Path, home: Path) -> float:
    """Return how long the command took; it has to succeed."""
    started = time.perf_counter()
    done = subprocess.run(
        command, env={**os.environ, "TANDEM_HOME": str(home)}, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        sys.exit(f"{shlex.join(map(str, command))} ended with {done.returncode}:\n{done.stderr}")
    return time.perf_counter() - started


def batch_starts(image: str, home: Path, work: Path, rounds: int) -> dict[str, list[float]]:
    """Return the times of an empty container, and of ten images by the bare command and in a container."""
    images = work / "images"
    images.mkdir()
    for source in sorted((home / "datasets" / "digits" / "test").rglob("*.png"))[:IMAGES]:
        shutil.copy(source, images / f"{source.parent.name}-{source.name}")
    times: dict[str, list[float]] = {"empty container": [], "bare command": [], "container": []}
    tandem = Path(sys.executable).with_name("tandem")
    run = ("docker", "run", *HARDENED, "--network", "none", "--user", f"{os.getuid()}:{os.getgid()}")
    for number in range(rounds):
        bare, contained = work / f"bare-{number}", work / f"contained-{number}"
        contained.mkdir()
        mounts = (f"{home}:/tandem:ro", f"{images}:/in:ro", f"{contained}:/out")
        volumes = [option for mount in mounts for option in ("--volume", mount)]
        times["empty container"].append(seconds(*run, "--entrypoint", "/bin/true", image, home=home))
        times["bare command"].append(seconds(tandem, "batch", images, "--model", "digits", "--output", bare, home=home))
        times["container"].append(
            seconds(*run, *volumes, image, "batch", "/in", "--model", "digits", "--output", "/out", home=home)
        )
    return times


def service_starts(image: str, home: Path, rounds: int) -> list[float]:
    """Return the times until `/readyz` answers, with a mounted model."""
    name = f"tandem-images-{os.getpid()}"
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        docker(
            *("run", *HARDENED, "--detach", "--name", name, "--volume", f"{home}:/tandem:ro"),
            *("--env", "TANDEM_MODEL=digits", "--publish", "127.0.0.1::3000", image),
        )
        try:
            url = f"http://{docker('port', name, '3000').split()[-1]}/readyz"
            while not _answers(url):
                if time.perf_counter() - started > 60:
                    sys.exit(f"the service in {image} is not ready after 60 s:\n{docker('logs', name)}")
                time.sleep(0.02)
            times.append(time.perf_counter() - started)
        finally:
            docker("rm", "--force", name)
    return times


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuda", action="store_true", help="also build the images with CUDA, of 3 GB each")
    parser.add_argument("--packages", action="store_true", help="also list the largest packages of each image")
    parser.add_argument("--rounds", type=int, default=5, help="starts of each kind")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)

    home = Path(os.environ["TANDEM_TEST_HOME"])
    base = base_image()
    engines = ("cpu", "openvino", "cuda") if options.cuda else ("cpu", "openvino")
    bars: dict[str, Bar] = {}
    sizes, packages, images = {}, {}, {}
    for variant in (f"{kind}-{engine}" for engine in engines for kind in ("batch", "service")):
        images[variant] = image = build(variant)
        sizes[variant] = round((layers_bytes(image) - layers_bytes(base)) / MB, 1)
        if variant in BUDGETS_MB:
            bars[f"{variant}, MB"] = at_most(sizes[variant], BUDGETS_MB[variant])
        if options.packages:
            packages[variant] = list_packages(image)

    with tempfile.TemporaryDirectory() as work:
        starts = batch_starts(images["batch-cpu"], home, Path(work), options.rounds)
    starts["service"] = service_starts(images["service-cpu"], home, options.rounds)
    medians = {name: statistics.median(times) for name, times in starts.items()}
    fair = 1.1 * (medians["bare command"] + medians["empty container"])
    bars[f"batch container of {IMAGES} images, s"] = at_most(medians["container"], round(fair, 2))
    bars["service ready, s"] = at_most(medians["service"], READY_S)

    for variant, largest in packages.items():
        print(f"{variant}: {', '.join(f'{name} {megabytes:g}' for name, megabytes in largest.items())}")
    figures = {
        "command": shlex.join(["nox", "-s", "images", "--", *(sys.argv[1:] if arguments is None else arguments)]),
        "machine": f"{os.cpu_count()} CPUs",
        "base": base,
        "megabytes": sizes,
        "seconds": {name: [round(each, 3) for each in times] for name, times in starts.items()},
    }
    finish(bars, {**figures, **({"packages": packages} if packages else {})}, options.json)


if __name__ == "__main__":
    main()
