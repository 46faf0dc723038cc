"""The training loop: epochs, learning rate, checkpoints, early stop."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from classifier.errors import DataError, OutOfDeviceMemory
from classifier.progress import show_progress
from training.data.augment import SMALL_IMAGE_SIZE, shift_rotate_scale
from training.data.loading import default_workers, load_batches
from training.data.tensors import draw_batches, in_order, normalise, read_images
from training.files import CURVES
from training.metrics import EpochMetrics, best_epoch, describe_epoch
from training.network import check_image_size, load_weights
from training.optimizer import lr_factor, make_optimizer
from training.report import draw_curves
from training.run import Checkpoint
from training.weights import load_own, with_versions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from training.config import TrainingConfig
    from training.data.folders import ImageFolders
    from training.data.tensors import Draw, ImageSet
    from training.run import Run

logger = logging.getLogger(__name__)

_MAX_GRADIENT_NORM = 1.0
_CURVES_EVERY_S = 60
_LITTLE_BETTER_THAN_GUESSING = 1.5
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Trainer:
    """A network, its images and its optimizer, ready to train.

    On the CPU, the same config, library versions and number of threads give bit-equal weights, even if the training
    is interrupted and resumed. CUDA kernels don't guarantee that.
    """

    def __init__(
        self,
        config: TrainingConfig,
        folders: ImageFolders,
        *,
        workers: int | None,
        checkpoint: Checkpoint | None = None,
        skip_unreadable: bool = False,
    ) -> None:
        """Build the network, read the images, and continue from `checkpoint` if there is one.

        Args:
            config: the run's.
            folders: the images that `config` was made for.
            workers: processes that load batches; None lets `default_workers` decide.
            checkpoint: of the same run.
            skip_unreadable: leave out images that can't be read.

        Raises:
            DataError: images or weights can't be read, or the network can't take images of this size.
        """
        self.config = config
        self.device = torch.device(config.device)
        # Validation must be fp32; by default, cuDNN's convolutions round their inputs to a mantissa of ten bits.
        torch.backends.cudnn.allow_tf32 = False
        network = initial_network(config) if checkpoint is None else config.build_network()
        if checkpoint is not None:
            load_own(network, checkpoint.network)  # first, because a network of an older version gets other layers
        # channels_last: the layout of the decoded images, and the fastest one for convolutions.
        self.network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stubs
        self.optimizer = make_optimizer(self.network, lr=config.lr)
        self.scaler = torch.amp.GradScaler(config.device, enabled=config.precision == "fp16")
        self.history: tuple[EpochMetrics, ...] = ()
        if checkpoint is not None:
            self.history = checkpoint.history
            self.optimizer.load_state_dict(checkpoint.optimizer)
            self.scaler.load_state_dict(checkpoint.scaler)
        with show_progress(len(folders.train) + len(folders.val), title="reading images") as advance:
            self.train_images, self.val_images = read_images(
                folders, config.preprocessing, flip=config.flip, advance=advance, skip_unreadable=skip_unreadable
            )
        self.workers = default_workers(self.train_images) if workers is None else workers

    def train(self, run: Run) -> EpochMetrics:
        """Train until the last epoch or the early stop, saving a checkpoint after each epoch; return the best epoch.

        Raises:
            DataError: the loss is no longer finite.
            OutputError: the run folder can't be written.
            OutOfDeviceMemory: a batch is too large.
        """
        drawn = time.monotonic()
        try:
            while not self._is_over():
                self._run_epoch()
                run.save_checkpoint(self._checkpoint())
                logger.info("%s", describe_epoch(self.history, self.config.epochs))
                if time.monotonic() - drawn > _CURVES_EVERY_S:
                    self._draw(run)
                    drawn = time.monotonic()
        except KeyboardInterrupt:
            if self.history:
                self._draw(run)
            raise
        self._draw(run)
        best = best_epoch(self.history)
        if len(self.history) < self.config.epochs:
            logger.info(
                "stopped early: no epoch was better than epoch %d for %d epochs; a larger --patience goes on",
                *(best.epoch, self.config.patience),
            )
        if best.val_acc1 < _LITTLE_BETTER_THAN_GUESSING / len(self.config.labels):
            logger.warning(
                "this is little better than guessing: with few images, try --weights DEFAULT or a smaller --batch-size"
            )
        return best

    def _draw(self, run: Run) -> None:
        title = f"{self.config.architecture} on {Path(self.config.data).name}"
        draw_curves(self.history, run.path / CURVES, title=title)

    def _run_epoch(self) -> None:
        epoch = len(self.history) + 1
        started = time.monotonic()
        try:
            loss, acc1, lr, images_per_s = self._train_one_epoch(epoch)
            val_loss, val_acc1 = self._evaluate()
        except torch.OutOfMemoryError as error:
            raise OutOfDeviceMemory(
                f"a batch of {self.config.batch_size} for {self.config.architecture} does not fit into the GPU's "
                "memory: give a smaller --batch-size"
            ) from error
        if not math.isfinite(loss + val_loss):
            raise DataError(f"the loss is not a finite number in epoch {epoch}: start again with a smaller --lr")
        metrics = EpochMetrics(
            epoch=epoch,
            loss=loss,
            acc1=acc1,
            val_loss=val_loss,
            val_acc1=val_acc1,
            lr=lr,
            images_per_s=images_per_s,
            elapsed_s=time.monotonic() - started,
        )
        self.history = (*self.history, metrics)

    def _train_one_epoch(self, epoch: int) -> tuple[float, float, float, float]:
        """Return the mean loss, acc1, the last learning rate, and images/s."""
        config, started = self.config, time.monotonic()
        generator = seed_everything(config.seed, epoch)
        draws = draw_batches(len(self.train_images), batch_size=config.batch_size, generator=generator)
        images_per_epoch = sum(map(len, draws))
        total_loss = torch.zeros((), dtype=torch.float64, device=self.device)
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        is_small, lr = config.preprocessing.crop_size <= SMALL_IMAGE_SIZE, 0.0
        self.network.train()
        with show_progress(images_per_epoch, title=f"epoch {epoch}/{config.epochs}") as advance:
            for step, (images, labels) in enumerate(self._load(self.train_images, draws)):
                lr = config.lr * lr_factor((epoch - 1) * len(draws) + step, len(draws) * config.epochs)
                if is_small:  # larger images were changed when they were loaded
                    images = shift_rotate_scale(images, flip=config.flip, generator=generator)  # noqa: PLW2901
                loss, logits = self._step(images, labels, lr)
                total_loss += loss * len(labels)
                correct += (logits.argmax(1) == labels).sum()
                advance(len(labels))
        mean_loss, acc1 = total_loss.item() / images_per_epoch, correct.item() / images_per_epoch
        return mean_loss, acc1, lr, images_per_epoch / (time.monotonic() - started)

    def _step(self, images: torch.Tensor, labels: torch.Tensor, lr: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Do one optimizer step; return the loss and the logits, detached."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        precision = self.config.precision
        with torch.autocast(self.config.device, dtype=_DTYPES[precision], enabled=precision != "fp32"):
            logits = self.network(images)
            loss = self._loss(logits, labels)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch's own
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.network.parameters(), _MAX_GRADIENT_NORM)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach(), logits.detach()

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)

    @torch.inference_mode()
    def _evaluate(self) -> tuple[float, float]:
        """Return the mean loss and acc1 of the validation images, in fp32 as in production."""
        self.network.eval()
        count = len(self.val_images)
        total_loss = torch.zeros((), dtype=torch.float64, device=self.device)
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        for images, labels in self._load(self.val_images, in_order(count, batch_size=self.config.batch_size)):
            logits = self.network(images)
            total_loss += self._loss(logits, labels) * len(labels)
            correct += (logits.argmax(1) == labels).sum()
        return total_loss.item() / count, correct.item() / count

    def _load(self, images: ImageSet, draws: Sequence[Draw]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield normalised images and labels on the device."""
        for pixels, labels in load_batches(images, draws, workers=self.workers, pin=self.device.type == "cuda"):
            pixels_here, labels_here = (tensor.to(self.device, non_blocking=True) for tensor in (pixels, labels))
            yield normalise(pixels_here, self.config.preprocessing), labels_here

    def _is_over(self) -> bool:
        if not self.history or len(self.history) >= self.config.epochs:
            return bool(self.history)
        return len(self.history) - best_epoch(self.history).epoch >= self.config.patience

    def _checkpoint(self) -> Checkpoint:
        state = self.network.state_dict()
        # On the CPU, because a machine without this device must be able to load best.pt.
        on_cpu = {name: tensor.cpu().contiguous() for name, tensor in state.items()}
        return Checkpoint(
            history=self.history,
            network=with_versions(on_cpu, state),
            optimizer=self.optimizer.state_dict(),
            scaler=self.scaler.state_dict(),
        )


def initial_network(config: TrainingConfig) -> nn.Module:
    """Return the network before the first epoch: with random weights from the seed, or with `config.weights`.

    Raises:
        DataError: the weights can't be loaded or don't fit, or the network can't take images of this size.
    """
    name, size = config.architecture, config.preprocessing.crop_size
    seed_everything(config.seed, 0)
    network = config.build_network()
    if config.weights is not None:
        load_weights(network, config.weights, name, classes=len(config.labels), image_size=size)
    check_image_size(network, name, size)
    return network


def seed_everything(seed: int, epoch: int) -> torch.Generator:
    """Seed torch for `epoch`, 0 for the initial weights; return a generator for order and augmentation."""
    for_torch, for_images = np.random.SeedSequence([seed, epoch]).generate_state(2, np.uint64)
    torch.manual_seed(int(for_torch))
    return torch.Generator().manual_seed(int(for_images))
