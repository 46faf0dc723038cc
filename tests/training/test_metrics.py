from __future__ import annotations

from training.metrics import EpochMetrics, best_epoch, describe_epoch


def metrics(epoch: int, val_acc1: float, val_loss: float) -> EpochMetrics:
    return EpochMetrics(
        epoch=epoch, loss=1, acc1=0.5, val_loss=val_loss, val_acc1=val_acc1, lr=0.1, images_per_s=1, elapsed_s=1
    )


def test_best_epoch() -> None:
    """The highest acc1 wins; ties go to the lowest loss, then to the first epoch."""
    history = [metrics(1, 0.8, 0.1), metrics(2, 0.9, 0.5), metrics(3, 0.9, 0.4), metrics(4, 0.9, 0.4)]
    assert best_epoch(history).epoch == 3


def test_describe_epoch() -> None:
    """The line says which epoch it is, and whether it is the best so far."""
    history = [metrics(1, 0.8, 0.1), metrics(2, 0.9, 0.5)]
    assert describe_epoch(history, 20) == (
        "epoch  2/20  loss 1.0000  acc1 50.00%  val loss 0.5000  val acc1 90.00%  lr 1.0e-01  1 images/s  best"
    )
    assert not describe_epoch([*history, metrics(3, 0.8, 0.5)], 20).endswith("best")
