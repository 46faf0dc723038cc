"""The Ray runner: engines on the nodes of a Ray cluster make the same parts, byte for byte, as the local runner.

The driver makes the plan and commits, so a crash undoes no more than on one machine. Each engine is an actor; on a GPU
device each has its own GPU. An actor gets the model's files through Ray's object store. It must have the driver's
libraries and the first engine's hardware, or it is refused, because its bytes could differ. If an actor dies with its
node, another actor takes its chunk, and a new actor starts as soon as there is room.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from batch.rows.formats import FORMATS
from batch.run.fingerprint import versions
from batch.run.local import LocalRunner, Work
from classifier.errors import EngineError
from classifier.extras import install_extra
from classifier.model import Model
from classifier.selftest import self_test
from classifier.types import EngineInfo  # noqa: TC001 # of a dataclass that is pickled

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping

    from batch.inputs.named import Input
    from batch.rows.formats import Columns
    from batch.rows.part import Part
    from classifier.progress import Advance
    from registry import Artifact

log = logging.getLogger(__name__)

MAX_TRIES = 4
"""Actors that may die over one chunk. After that, the nodes are not to blame."""

_TOLD_EVERY_S = 30
"""Seconds between two log lines that say that the run still waits for the cluster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """How a run uses a cluster.

    Attributes:
        address: as `ray.init` takes it; None for RAY_ADDRESS, or a cluster on this machine.
        engines: number of actors; None for as many as there is room for.
        cpus: CPUs of an actor, and its threads unless the engine's or the decode threads are given.
        gpus: GPUs of an actor, 0 or 1; None for 1 if the cluster has any.
    """

    address: str | None = None
    engines: int | None = None
    cpus: int = 2
    gpus: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Described:
    """An actor's description of itself."""

    labels: tuple[str, ...]
    engine: EngineInfo
    batch_size: int
    threads: int
    versions: dict[str, dict[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Files:
    """The files of an artifact, passed through the object store."""

    name: str
    digest: str
    files: Mapping[str, bytes]

    def read(self, file: str) -> bytes:
        """Return the contents of a file."""
        return self.files[file]


class _EngineActor:
    """A model that is open in a process of the cluster."""

    def __init__(self, files: _Files, engine: dict[str, Any], batch_size: int | None, threads: int | None) -> None:
        model = Model.open(files, **engine, batch_size=batch_size)
        self_test(model)
        self._runner = LocalRunner(model, batch_size=batch_size, threads=threads)
        self._inputs: dict[Input, Input] = {}

    def describe(self) -> _Described:
        """Return what this actor runs."""
        runner = self._runner
        return _Described(
            labels=runner.labels,
            engine=runner.engine,
            batch_size=runner.batch_size,
            threads=runner.threads,
            versions=_all_versions(),
        )

    def make(self, work: Work, columns: Columns, timeout_s: float, suspects: int) -> Part:
        """Return the part of a chunk."""
        # A lost disk is told from a lost image by the device number, which differs from machine to machine.
        for each in {file.input for file in work.files} - self._inputs.keys():
            self._inputs[each] = each.on_this_machine()
        work = replace(work, files=[replace(file, input=self._inputs[file.input]) for file in work.files])
        [(_, part)] = self._runner.parts([work], columns, timeout_s=timeout_s, suspects=suspects)
        return part


def _all_versions() -> dict[str, dict[str, str]]:
    return {format: versions(format) for format in FORMATS}


class RayRunner:
    """Runs a model on the engines of a Ray cluster, which it joins for the length of its `with` block."""

    def __init__(
        self,
        artifact: Artifact,
        cluster: Cluster,
        *,
        engine: dict[str, Any],
        batch_size: int | None = None,
        threads: int | None = None,
    ) -> None:
        self.model = artifact.identity
        self.has_embeddings = bool(artifact.config.embedding_size)
        self._artifact = artifact
        self._cluster = cluster
        # By default an engine would use all CPUs of its node.
        engine = {**engine, "threads": engine.get("threads") or cluster.cpus}
        self._options = (engine, batch_size, threads or cluster.cpus)
        self._actors: list[Any] = []

    def __enter__(self) -> RayRunner:
        """Join the cluster, and wait for the first engine.

        Raises:
            EngineError: the cluster can't be reached, or has no room for an engine; or the engine can't be opened.
        """
        try:
            import ray  # noqa: PLC0415 # takes seconds, and the local runner doesn't need it
        except ModuleNotFoundError as error:
            raise EngineError(f"'--runner ray' needs Ray, which is not installed: {install_extra('ray')}") from error

        self._ray = ray
        cluster, artifact = self._cluster, self._artifact
        try:
            ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.WARNING)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise EngineError(
                f"the Ray cluster '{cluster.address or 'auto'}' can't be joined ({error}); "
                "'ray status' says what there is"
            ) from error
        files = {name: artifact.read(name) for name in artifact.files}
        self._files = ray.put(_Files(name=artifact.name, digest=artifact.digest, files=files))
        resources: dict[str, float] = ray.cluster_resources()
        self._gpus = int(resources.get("GPU", 0) >= 1) if cluster.gpus is None else cluster.gpus
        self._engines = cluster.engines or self._room(resources)
        self._start_actors()
        first = self._describe(self._actors[0])
        self.labels, self.engine = first.labels, first.engine
        self.batch_size, self.threads = first.batch_size, first.threads
        log.info("%s runs on %d engines of a Ray cluster: %s", self.model, self._engines, str(first.engine))
        return self

    def __exit__(self, *exception: object) -> None:
        self._ray.shutdown()

    def _room(self, resources: Mapping[str, float]) -> int:
        cpus, gpus = resources.get("CPU", 0), resources.get("GPU", 0)
        room = int(min(cpus // self._cluster.cpus, gpus // self._gpus if self._gpus else cpus))
        if room < 1:
            raise EngineError(
                f"the Ray cluster has no room for an engine, which takes {self._cluster.cpus} CPUs and {self._gpus} "
                f"GPUs; it has {cpus:g} and {gpus:g}"
            )
        return room

    def _start_actors(self) -> None:
        """Start actors until there are enough; Ray keeps those without room waiting."""
        actor = self._ray.remote(num_cpus=self._cluster.cpus, num_gpus=self._gpus)(_EngineActor)
        while len(self._actors) < self._engines:
            self._actors.append(actor.remote(self._files, *self._options))

    def _describe(self, actor: Any) -> _Described:
        reference = actor.describe.remote()
        # No time limit: the cluster may have to start a machine first.
        while not self._ray.wait([reference], timeout=_TOLD_EVERY_S)[0]:
            log.info("still waiting for the first engine on the Ray cluster; 'ray status' says why")
        try:
            described: _Described = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            raise EngineError(f"no engine can be opened on the Ray cluster ({_cause(error)})") from error
        return described

    def _check(self, described: _Described) -> None:
        """Check that an engine makes the same bytes as the first one."""
        if described.engine != self.engine or described.versions != _all_versions():
            raise EngineError(
                f"a node of the Ray cluster runs {described.engine} with {described.versions['parquet']}, "
                f"another one {self.engine} with {versions('parquet')}, so rows would depend on the "
                "node that made them; use nodes of one kind and one image"
            )

    def parts(
        self, works: Iterable[Work], columns: Columns, *, timeout_s: float, suspects: int, advance: Advance
    ) -> Generator[tuple[Work, Part]]:
        """Yield each chunk with its part, in the order in which they are done.

        Raises:
            EngineError: a chunk killed several engines, or the engines are not alike.
        """
        queue = _Queue(works)
        checks = {actor.describe.remote(): actor for actor in self._actors}
        making: dict[Any, tuple[Any, Work]] = {}
        idle: list[Any] = []
        while True:
            while idle and (work := queue.take()) is not None:
                # At the second try, an image that crashes its process becomes a row.
                tries = len(work.files) if queue.tries(work) > 1 else suspects
                actor = idle.pop()
                making[actor.make.remote(work, columns, timeout_s, tries)] = (actor, work)
            if idle and not making:
                return
            [reference], _ = self._ray.wait([*making, *checks], num_returns=1)
            done = making.pop(reference, None)
            actor = done[0] if done else checks.pop(reference)
            try:
                result = self._ray.get(reference)
            except self._ray.exceptions.RayActorError as error:
                if error.actor_init_failed:  # another one would fail, too
                    raise EngineError(
                        f"an engine can't be opened on a node of the Ray cluster ({_cause(error)}); "
                        "use nodes of one kind and one image"
                    ) from error
                log.warning("an engine of the cluster was lost (%s)", _cause(error))
                if done:
                    queue.put_back(done[1], error)
                self._replace(actor, checks)
                continue
            except self._ray.exceptions.RayTaskError as error:
                # The actor's own exception, such as an input that disappeared.
                raise error.cause from None
            idle.append(actor)
            if done:
                advance(len(done[1].todo))
                yield done[1], result
            else:
                self._check(result)

    def _replace(self, actor: Any, checks: dict[Any, Any]) -> None:
        self._actors.remove(actor)
        before = len(self._actors)
        self._start_actors()
        checks |= {new.describe.remote(): new for new in self._actors[before:]}


class _Queue:
    """The chunks to make. Chunks of actors that died come first."""

    def __init__(self, works: Iterable[Work]) -> None:
        self._works: Iterator[Work] = iter(works)
        self._again: deque[Work] = deque()
        self._tries: dict[int, int] = {}

    def take(self) -> Work | None:
        """Return the next chunk; None if there is none."""
        work = self._again.popleft() if self._again else next(self._works, None)
        if work is not None:
            self._tries[work.chunk] = self._tries.get(work.chunk, 0) + 1
        return work

    def tries(self, work: Work) -> int:
        """Return how often a chunk was taken."""
        return self._tries[work.chunk]

    def put_back(self, work: Work, error: Exception) -> None:
        """Take back a chunk whose actor died."""
        if self._tries[work.chunk] >= MAX_TRIES:
            raise EngineError(
                f"chunk {work.chunk} killed {MAX_TRIES} engines of the Ray cluster ({_cause(error)}); "
                "the nodes' logs say why, and the same command resumes the run"
            ) from error
        self._again.append(work)


def _cause(error: Exception) -> str:
    return " ".join(str(error).strip().rpartition("\n")[2].split())[:200] or type(error).__name__
