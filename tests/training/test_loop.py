from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from training.config import choose_config
from training.data.folders import open_folders
from training.loop import Trainer, seed_everything
from training.options import TrainingOptions
from training.run import Run

if TYPE_CHECKING:
    from pathlib import Path


def trainer_of(run: Run, data: Path) -> Trainer:
    folders = open_folders(data, val_fraction=None, seed=run.config.seed)
    return Trainer(run.config, folders, workers=0, checkpoint=run.load_checkpoint())


def test_dropout_is_the_same_after_an_interruption(few_digits: Path, tmp_path: Path) -> None:
    """A network that itself uses random numbers ends with the same weights, interrupted or not."""
    options = TrainingOptions(arch="mobilenet_v3_small", image_size=32, epochs=2, batch_size=16, device="cpu")
    folders = open_folders(few_digits, val_fraction=None, seed=0)
    config = choose_config(folders, options)
    for name in ("whole", "halved"):
        (tmp_path / name).mkdir()
    whole, halved = (Run.create(tmp_path / name, config, folders) for name in ("whole", "halved"))
    trainer_of(whole, few_digits).train(whole)

    interrupted = trainer_of(halved, few_digits)
    interrupted._run_epoch()
    halved.save_checkpoint(interrupted._checkpoint())
    torch.rand(100)
    trainer_of(halved, few_digits).train(halved)

    ends = [run.load_checkpoint() for run in (whole, halved)]
    assert ends[0] is not None
    assert ends[1] is not None
    assert all(torch.equal(ends[0].network[key], ends[1].network[key]) for key in ends[0].network)


def test_each_epoch_has_its_own_random_numbers() -> None:
    """Order, augmentation and torch's generator differ between epochs and between seeds."""
    draws = {}
    for seed, epoch in ((0, 1), (0, 2), (1, 1), (0, 1)):
        generator = seed_everything(seed, epoch)
        drawn = (*torch.rand(2).tolist(), *torch.rand(2, generator=generator).tolist())
        assert draws.setdefault((seed, epoch), drawn) == drawn
    numbers = [number for drawn in draws.values() for number in drawn]
    assert len(set(numbers)) == len(numbers) == 12
