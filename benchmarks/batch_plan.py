"""Simulates the time and cost of a large bulk run: shards on machines that can be taken away.

Each shard is the work of one pod of an Indexed Job: it starts, lists the images, and commits chunk after chunk. Its
machine is taken away after a time that is exponential with the mean `--machine-hours`; the pod then starts again
elsewhere, and makes again what it had not committed. Pods run as machines are free, in the order of their numbers. What
a chunk takes is drawn from a normal distribution around the rate that was measured (`images_per_s` in a run's
`run.json`).

    python benchmarks/batch_plan.py --images 100000000 --machines 32 --images-per-s 900
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
from dataclasses import asdict, dataclass, replace
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """The run and the machines to simulate.

    Attributes:
        images_per_s: of one machine, as measured.
        spread: standard deviation of a chunk's time, as a share of it.
        start_s: from a pod's creation to its first image: image pull, model, self-test.
        list_per_s: images that a pod lists in a second; each pod lists all of them, once.
        machine_hours: mean time until a machine is taken away.
        price_per_hour: of one machine.
        price_per_million_reads: what the object store asks for a million GET requests.
    """

    images: int = 100_000_000
    machines: int = 32
    shards: int = 32
    chunk_size: int = 1000
    images_per_s: float = 900.0
    spread: float = 0.15
    start_s: float = 90.0
    list_per_s: float = 400_000.0
    machine_hours: float = 6.0
    price_per_hour: float = 0.60
    price_per_million_reads: float = 0.40


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result of a simulation.

    Attributes:
        idle_share: of the machines' time, in which there was no shard left for them.
        lost_share: of the machines' working time, spent on starts, on lists and on what was made twice.
    """

    shards: int
    chunk_size: int
    hours: float
    cost: float
    interruptions: int
    made_again: int
    lost_share: float
    idle_share: float


def simulate(scenario: Scenario, *, seed: int = 1) -> Outcome:
    """Simulate the scenario; equal seeds give equal results."""
    dice = random.Random(seed)
    free_at = [0.0] * scenario.machines
    busy_s = useful_s = 0.0
    interruptions = made_again = 0
    chunks = -(-scenario.images // scenario.chunk_size)
    for shard in range(scenario.shards):
        began = heapq.heappop(free_at)
        of_shard = len(range(shard, chunks, scenario.shards))
        spent_s, worked_s, stops, again = _run_shard(scenario, of_shard, dice)
        busy_s, useful_s = busy_s + spent_s, useful_s + worked_s
        interruptions, made_again = interruptions + stops, made_again + again
        heapq.heappush(free_at, began + spent_s)
    end = max(free_at)
    reads = (scenario.images + made_again) / 1e6 * scenario.price_per_million_reads
    return Outcome(
        shards=scenario.shards,
        chunk_size=scenario.chunk_size,
        hours=end / 3600,
        cost=end / 3600 * scenario.machines * scenario.price_per_hour + reads,
        interruptions=interruptions,
        made_again=made_again,
        lost_share=1 - useful_s / busy_s,
        idle_share=1 - busy_s / (end * scenario.machines),
    )


def _run_shard(scenario: Scenario, chunks: int, dice: random.Random) -> tuple[float, float, int, int]:
    """Return a shard's time in seconds, that of its committed chunks, its interruptions, and images made again."""
    chunk_s = scenario.chunk_size / scenario.images_per_s
    spent_s = worked_s = 0.0
    stops = again = done = 0
    is_planned = False
    while done < chunks:
        left_s = dice.expovariate(1 / (scenario.machine_hours * 3600))
        overhead_s = scenario.start_s + (0 if is_planned else scenario.images / scenario.list_per_s)
        if left_s <= overhead_s:
            spent_s, stops = spent_s + left_s, stops + 1
            continue
        spent_s, left_s, is_planned = spent_s + overhead_s, left_s - overhead_s, True
        while done < chunks:
            this_s = max(0.1 * chunk_s, dice.gauss(chunk_s, scenario.spread * chunk_s))
            if this_s > left_s:
                spent_s, stops = spent_s + left_s, stops + 1
                again += int(left_s * scenario.images_per_s)
                break
            spent_s, worked_s, left_s, done = spent_s + this_s, worked_s + this_s, left_s - this_s, done + 1
    return spent_s, worked_s, stops, again


def print_table(scenario: Scenario, outcomes: list[Outcome]) -> None:
    """Print the outcomes side by side, and what they stand on."""
    print(", ".join(f"{name} {value:,}" for name, value in asdict(scenario).items()))
    print(f"{'shards':>7} {'chunk':>7} {'hours':>7} {'cost':>9} {'taken away':>11} {'made again':>11}   lost   idle")
    for each in outcomes:
        print(
            f"{each.shards:>7,} {each.chunk_size:>7,} {each.hours:>7.2f} {each.cost:>9,.0f} {each.interruptions:>11,} "
            f"{each.made_again:>11,} {each.lost_share:>6.1%} {each.idle_share:>6.1%}"
        )


def main() -> None:
    """Simulate several numbers of shards and sizes of chunks, and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in asdict(Scenario()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument("--json", type=Path)
    arguments = vars(parser.parse_args())
    target = arguments.pop("json")
    scenario = Scenario(**arguments)
    shards = sorted({scenario.machines * factor for factor in (1, 2, 8, 32)} | {scenario.shards})
    outcomes = [simulate(replace(scenario, shards=count)) for count in shards]
    outcomes += [simulate(replace(scenario, chunk_size=size)) for size in (10_000, 100_000)]
    print_table(scenario, outcomes)
    if target:
        ideal_hours = scenario.images / scenario.images_per_s / scenario.machines / 3600
        planned = next(each for each in outcomes if each.shards == scenario.shards)
        overhead = planned.hours / ideal_hours
        bars = {"hours over ideal": {"value": overhead, "bar": 1.25, "holds": overhead <= 1.25}}
        target.write_text(json.dumps({"outcomes": [asdict(each) for each in outcomes], "bars": bars}, indent=2))


if __name__ == "__main__":
    main()
