"""The Ray runner on a real cluster of two nodes on this machine."""

from __future__ import annotations

import os
import shutil
import threading
import time
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import pytest

from batch.inputs.named import find_inputs
from batch.inputs.plan import listed_images
from batch.rows.formats import Columns
from batch.run.local import Work
from batch.run.ray_runner import Cluster, RayRunner, _EngineActor, _Files
from batch.run.runner import BatchJob, run_batch
from batch.run.stopping import Interrupts
from classifier.errors import EngineError
from registry import LocalRegistry
from tests.batch.conftest import read_parts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from classifier.model import Model
    from tests.batch.conftest import Run

_MARKS = [
    pytest.mark.ray,
    # Ray leaves sockets and processes to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning",
                               "ignore::pytest.PytestUnraisableExceptionWarning"),
]  # fmt: skip


def on_cluster(test: Any) -> Any:
    """Mark a test that needs Ray and a cluster of its own: `nox -s ray` runs it."""
    for mark in _MARKS:
        test = mark(test)
    return test


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Yield a cluster with a head that runs nothing, and two nodes with room for an engine each."""
    pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    from ray.cluster_utils import Cluster as LocalCluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster = LocalCluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


@pytest.fixture
def many(few: Path, tmp_path: Path) -> Path:
    for image in few.rglob("*.png"):
        for number in range(25):
            target = tmp_path / "many" / image.parent.name / f"{number}-{image.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(image, target)
    (tmp_path / "many" / "0" / "bad.png").touch()
    return tmp_path / "many"


def test_an_actor_makes_the_parts_of_the_local_runner(
    tmp_path: Path, run: Run, few: Path, model: Model, digits_home: Path
) -> None:
    """In this process, without Ray: what Ray calls by name is there, and describes itself as the engine it runs."""
    run(tmp_path / "out", few)
    artifact = LocalRegistry(digits_home / "registry").resolve("digits")
    contents = {file: artifact.read(file) for file in artifact.files}
    files = _Files(name=artifact.name, digest=artifact.digest, files=contents)
    actor = _EngineActor(files, {"device": "cpu"}, None, 1)
    assert (actor.describe().labels, actor.describe().engine) == (model.config.labels, model.engine.info)
    images = list(islice(listed_images(find_inputs([str(few)])), 9))
    work = Work(chunk=0, files=images, kept=[None] * 9)
    part = actor.make(work, Columns(), timeout_s=60, suspects=0)
    assert part.data == min(read_parts(tmp_path / "out").items())[1]


@on_cluster
def test_a_node_that_dies_changes_no_byte(
    tmp_path: Path, run: Run, many: Path, cluster: Any, embedder: Model, embedder_home: Path
) -> None:
    """Killing a node in the midst of a run on two leaves the parts of the local runner, and a retry works there too.

    With embeddings, so that all columns are there.
    """
    run(tmp_path / "local", many, chunk_size=20, model=embedder, embeddings=True)
    artifact = LocalRegistry(embedder_home / "registry").resolve("embedder")
    columns = Columns(embeddings=True)
    job = BatchJob(inputs=find_inputs([str(many)]), output=tmp_path / "out", columns=columns, chunk_size=20)

    def kill_a_node() -> None:
        parts = tmp_path / "out" / "parts"
        while not parts.exists() or len(list(parts.iterdir())) < 3:
            time.sleep(0.01)
        cluster.remove_node(_node_without_driver(cluster), allow_graceful=False)
        killed_at.append(len(list(parts.iterdir())))

    killed_at: list[int] = []
    killer = threading.Thread(target=kill_a_node)
    one_cpu = Cluster(address=cluster.address, cpus=1)
    with RayRunner(artifact, one_cpu, engine={"device": "cpu"}) as runner:
        killer.start()
        record = run_batch(job, runner, Interrupts())
        killer.join()
    assert killed_at[0] < 51  # while it ran
    assert (record.images, record.errors) == (1001, {"empty": 1})
    assert read_parts(tmp_path / "out") == read_parts(tmp_path / "local")

    shutil.copy(min(many.rglob("0-*.png")), many / "0" / "bad.png")
    cluster.add_node(num_cpus=1)
    with RayRunner(artifact, one_cpu, engine={"device": "cpu"}) as runner:
        assert run_batch(replace(job, retry_failed=True), runner, Interrupts()).failed == 0
    run(tmp_path / "healed", many, chunk_size=20, model=embedder, embeddings=True)
    assert read_parts(tmp_path / "out") == read_parts(tmp_path / "healed")


def _node_without_driver(cluster: Any) -> Any:
    """Return a node that may be removed: Ray refuses to remove the one that the driver talks to."""
    import ray

    driver = ray._private.worker.global_worker.node._raylet_socket_name
    return next(node for node in cluster.worker_nodes if node._raylet_socket_name != driver)


@on_cluster
def test_a_node_on_which_no_engine_can_be_opened_ends_the_run(
    tmp_path: Path, few: Path, cluster: Any, digits_home: Path
) -> None:
    """It would be tried for ever, and a cluster of such nodes would never end."""
    import ray

    artifact = LocalRegistry(digits_home / "registry").resolve("digits")
    job = BatchJob(inputs=find_inputs([str(few)]), output=tmp_path / "out", chunk_size=5)
    with RayRunner(artifact, Cluster(address=cluster.address, cpus=1), engine={"device": "cpu"}) as runner:
        runner._options = ({"device": "cuda"}, None, 1)  # what comes after this has no GPU
        for actor in runner._actors:
            ray.kill(actor)
        with pytest.raises(EngineError, match=r"^an engine can't be opened on a node of the Ray cluster \(.*cuda"):
            run_batch(job, runner, Interrupts())
