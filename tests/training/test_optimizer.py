from __future__ import annotations

import pytest

from training.network import SmallCNN
from training.optimizer import lr_factor, make_optimizer


def test_learning_rate() -> None:
    """It rises linearly to its full value in a tenth of the steps, then falls to almost 0."""
    factors = [lr_factor(step, 100) for step in range(100)]
    assert factors[:10] == pytest.approx([step / 10 for step in range(1, 11)])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[10] == 1
    assert 0 < factors[-1] < 0.001


def test_biases_and_normalisation_have_no_weight_decay() -> None:
    """Only the weights of convolutions and linear layers are decayed."""
    network = SmallCNN(4)
    decayed, others = make_optimizer(network, lr=0.1).param_groups
    assert decayed["weight_decay"] > others["weight_decay"] == 0
    assert [parameter.ndim for parameter in decayed["params"]] == [4] * 6 + [2]
    assert len(decayed["params"]) + len(others["params"]) == len(list(network.parameters()))
