"""Run folders: everything kept of a training run, written so that it can be resumed after a kill at any moment."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from msgspec import UNSET, UnsetType

from classifier.errors import DataError
from classifier.types import from_json, to_json
from training.config import TrainingConfig  # noqa: TC001 # msgspec reads the annotation when it decodes
from training.data.folders import open_folders
from training.data.scanning import composed
from training.files import (
    BEST,
    CHECKPOINT,
    LABELS,
    METRICS,
    NOT_A_TORCH_FILE,
    RECORD,
    SKIPPED,
    VALIDATION,
    check_is_free,
    replace_file,
)
from training.metrics import EpochMetrics, best_epoch
from training.weights import load_own

if TYPE_CHECKING:
    from collections import OrderedDict
    from collections.abc import Collection, Iterable

    from torch import nn

    from training.data.folders import ImageFolders

SCHEMA_VERSION = 1
"""Of `run.json`; readers refuse any other."""

_VERSIONED = ("tandem", "torch", "torchvision", "numpy", "pillow")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A run's state after an epoch; together with the config, it determines all later epochs.

    It holds no random state, because each epoch seeds its generators from the run's seed and its own number.

    Attributes:
        history: the metrics of each epoch.
        network: state dict.
        optimizer: state dict.
        scaler: state dict of the gradient scaler for fp16; empty for other precisions.
    """

    history: tuple[EpochMetrics, ...]
    network: OrderedDict[str, Any]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    schema_version: int
    config: TrainingConfig
    versions: dict[str, str]
    moved_to: str | UnsetType = UNSET


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A training run and its folder.

    Attributes:
        path: the folder.
        config: everything that the result depends on, except `versions`.
        versions: of the libraries, Python and the platform when the run began.
        moved_to: the data set's folder now; None if it is still `config.data`.
    """

    path: Path
    config: TrainingConfig
    versions: dict[str, str]
    moved_to: Path | None = None

    @property
    def data(self) -> Path:
        """The data set's folder, absolute."""
        return self.moved_to or Path(self.config.data)

    @classmethod
    def create(
        cls, path: Path, config: TrainingConfig, folders: ImageFolders, *, skipped: Collection[str] | None = None
    ) -> Run:
        """Create and return a run in `path`.

        Args:
            path: the folder.
            config: the run's.
            folders: the images that it uses.
            skipped: `skipped_files` of the run.

        Raises:
            OutputError: the folder already holds files, or can't be written.
        """
        check_is_free(path)
        run = cls(path=path, config=config, versions=installed_versions())
        run._write_lines(VALIDATION, map(folders.name_of, folders.val))
        if skipped is not None:
            run._write_lines(SKIPPED, sorted(skipped))
        run._write(LABELS, to_json(config.labels))
        run.write_record()  # last, because this file makes the folder a run
        return run

    def write_record(self) -> None:
        """Replace `run.json`.

        Raises:
            OutputError: it can't be written.
        """
        moved_to = UNSET if self.moved_to is None else str(self.moved_to)
        record = _Record(schema_version=SCHEMA_VERSION, config=self.config, versions=self.versions, moved_to=moved_to)
        self._write(RECORD, to_json(record))

    @classmethod
    def open(cls, path: Path) -> Run:
        """Return the run in `path`.

        Raises:
            DataError: there is no run, or it can't be read.
        """
        try:
            record = from_json((path / RECORD).read_bytes(), _Record)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise DataError(f"{path} holds no training run: 'tandem train DATA --run {path}' creates one") from error
        except OSError as error:
            raise DataError(f"the run {path} can't be read ({error.strerror}): check its permissions") from error
        except ValueError as error:
            raise DataError(f"{path / RECORD} is damaged ({error}): train again with another --run") from error
        if record.schema_version != SCHEMA_VERSION:
            raise DataError(
                f"{path / RECORD} has schema version {record.schema_version}, this Tandem reads {SCHEMA_VERSION}: "
                "use the version of Tandem that wrote it"
            )
        moved_to = None if isinstance(record.moved_to, UnsetType) else Path(record.moved_to)
        return cls(path=path, config=record.config, versions=record.versions, moved_to=moved_to)

    def open_folders(self, data: Path | None = None) -> ImageFolders:
        """Return the images of the run, which must be those that it was started with.

        Args:
            data: the data set's folder; None for `self.data`.

        Raises:
            DataError: they can't be read, or have changed.
        """
        data = data or self.data
        folders = open_folders(data, val_fraction=self.config.val_fraction, seed=self.config.seed)
        if folders.digest() != self.config.data_digest:
            raise DataError(
                f"the images in {data} are not those that {self.path} was started with: restore them, or start a new "
                "run"
            )
        return folders.without(self.skipped_files() or ())

    def moved(self, data: Path) -> Run:
        """Return the run with its images in another folder, `data`.

        Raises:
            DataError: `data` does not hold the images that the run was started with.
        """
        self.open_folders(data)
        return self.at(data)

    def at(self, data: Path) -> Run:
        """Return the run with `data` as the folder of its images, unchecked."""
        now = data.resolve()
        return replace(self, moved_to=None if str(now) == self.config.data else now)

    def skipped_files(self) -> frozenset[str] | None:
        """Return the unreadable images that were left out, relative to `data`; None without --skip-unreadable.

        Raises:
            DataError: the list can't be read.
        """
        return frozenset(self._read_lines(SKIPPED)) if (self.path / SKIPPED).exists() else None

    def load_network(self) -> nn.Module:
        """Return the network of the best epoch, in eval mode and fp32 on the CPU; it maps normalised images to logits.

        Raises:
            DataError: no epoch is complete, or the weights can't be read.
        """
        if not (self.path / BEST).exists():
            raise DataError(
                f"{self.path} has no complete epoch yet: continue with 'tandem train … --run {self.path} --resume'"
            )
        network = self.config.build_network()
        load_own(network, self._load(BEST))
        return network.eval()

    def validation_files(self) -> list[tuple[Path, int]]:
        """Return the validation images, sorted, each with the index of its label.

        Raises:
            DataError: the list can't be read.
        """
        lines = self._read_lines(VALIDATION)
        indices = {composed(label): index for index, label in enumerate(self.config.labels)}
        labels = (Path(line).relative_to(self.config.val_folder).parts[0] for line in lines)
        return sorted((self.data / line, indices[composed(label)]) for line, label in zip(lines, labels, strict=True))

    def read_metrics(self) -> list[EpochMetrics]:
        """Return the metrics of each complete epoch.

        Raises:
            DataError: they can't be read.
        """
        try:
            return [from_json(line, EpochMetrics) for line in (self.path / METRICS).read_bytes().splitlines()]
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self.path / METRICS} can't be read ({error}): "
                f"'tandem train … --run {self.path} --resume' writes it again"
            ) from error

    def load_checkpoint(self) -> Checkpoint | None:
        """Return the state after the last complete epoch; None if there is no complete epoch.

        Raises:
            DataError: the checkpoint can't be read.
        """
        if not (self.path / CHECKPOINT).exists():
            return None
        state = self._load(CHECKPOINT)
        history = tuple(EpochMetrics(**metrics) for metrics in state.pop("history"))
        return Checkpoint(history=history, **state)

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint, then the files derived from it.

        Raises:
            OutputError: the disk is full or can't be written; the last checkpoint stays.
        """
        state = {name: getattr(checkpoint, name) for name in ("network", "optimizer", "scaler")}
        state["history"] = [asdict(metrics) for metrics in checkpoint.history]
        with replace_file(self.path / CHECKPOINT) as file:
            torch.save(state, file)
        self.write_derived(checkpoint)

    def write_derived(self, checkpoint: Checkpoint) -> None:
        """Write the metrics and, if the last epoch is the best, the best weights.

        `resume_run` repeats this, because a kill may have come between the checkpoint and these files.
        """
        self._write(METRICS, b"".join(json.dumps(asdict(metrics)).encode() + b"\n" for metrics in checkpoint.history))
        if best_epoch(checkpoint.history) is checkpoint.history[-1]:
            with replace_file(self.path / BEST) as file:
                torch.save(checkpoint.network, file)

    def _write(self, name: str, data: bytes) -> None:
        with replace_file(self.path / name) as file:
            file.write(data)

    def _write_lines(self, name: str, lines: Iterable[str]) -> None:
        self._write(name, "".join(f"{line}\n" for line in lines).encode(errors="surrogateescape"))

    def _read_lines(self, name: str) -> list[str]:
        try:
            return (self.path / name).read_bytes().decode(errors="surrogateescape").split("\n")[:-1]
        except OSError as error:
            raise DataError(f"{self.path / name} can't be read ({error.strerror}): train again") from error

    def _load(self, name: str) -> Any:
        path = self.path / name
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except OSError as error:
            raise DataError(f"{path} can't be read ({error.strerror}): check its permissions") from error
        except NOT_A_TORCH_FILE as error:
            raise DataError(f"{path} is damaged: train again with another --run") from error


def installed_versions() -> dict[str, str]:
    """Return the versions of everything that a run's numbers depend on."""
    versions = {name: version(name) for name in _VERSIONED}
    return versions | {
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": str(torch.get_num_threads()),
    }
