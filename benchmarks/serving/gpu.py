"""Images a second on a GPU, with images gathered into one execution and without."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.serving.clients import measure
from benchmarks.serving.servers import running, tandem
from classifier.engines.runtime import check_cuda, load_runtime
from classifier.errors import EngineUnavailable
from classifier.wording import table_lines

if TYPE_CHECKING:
    from pathlib import Path

    from registry import Artifact

CLIENTS = (1, 8, 64)
PRECISIONS = ("fp32", "fp16")
GATHERING: dict[str, dict[str, str]] = {"gathering": {}}
"""Ways to run the service, with what they add to its environment. `without` is missing: the service has no switch."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Images a second of one way, a value for each round."""

    precision: str
    way: str
    clients: int
    per_s: list[float]


def why_not() -> str | None:
    """Return why there is no GPU to measure; None if there is one."""
    try:
        check_cuda(load_runtime(), 0)
    except EngineUnavailable as error:
        return str(error)
    return None


def measure_rates(
    artifact: Artifact, images: list[Path], work: Path, *, threads: int, rounds: int, requests: int
) -> list[Rate]:
    """Return the rates of each precision that the model allows, in each way."""
    allowed = {each.precision for each in artifact.config.allowed if each.device == "cuda"}
    found = []
    for precision in (each for each in PRECISIONS if each in allowed):
        for way, environment in GATHERING.items():
            settings = {"TANDEM_DEVICE": "cuda", "TANDEM_PRECISION": precision, **environment}
            with running(tandem(artifact, threads=threads, **settings), work) as server:
                for clients in CLIENTS:
                    each = [
                        measure(server, images, clients=clients, requests=requests).per_s for _ in range(rounds + 1)
                    ]
                    found.append(Rate(precision=precision, way=way, clients=clients, per_s=each[1:]))
    return found


def print_rates(rates: list[Rate]) -> None:
    """Print a row for each way."""
    rows = [(each.precision, each.way, str(each.clients), f"{statistics.median(each.per_s):,.0f}") for each in rates]
    print("\nOn the GPU")
    print("\n".join(table_lines(("", "", "CLIENTS", "IMAGES/S"), rows)))
    for precision in set(PRECISIONS) - {each.precision for each in rates}:
        print(f"{precision} was not run: the model doesn't allow it on CUDA; 'tandem evaluate' measures it")
    if "without" not in GATHERING:
        print("without gathering was not run: the service has no switch for it")
