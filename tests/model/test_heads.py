"""Pooling of all positions: what is where reaches the output layer."""

import pytest
import torch

from d2v import params
from d2v.model import heads
from d2v.util.errors import UserError

ALL = params.Classify(kind="classify", classes=3, pool="all")


def test_all_positions_side_by_side_without_the_class_token() -> None:
    x = torch.arange(24.0).reshape(2, 4, 3)  # a class token and three positions
    pooled = heads.pool(x, "all", 1, None)
    assert torch.equal(pooled, x[:, 1:].reshape(2, 9))


def test_the_order_of_positions_counts() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 5, 8)
    swapped = x[:, [0, 2, 1, 3, 4]]
    head = heads.build(ALL, 8, 3, length=4)
    mean = heads.build(ALL.model_copy(update={"pool": "mean"}), 8, 3)
    assert head.out.in_features == 32
    assert not torch.allclose(head(x, 1, None), head(swapped, 1, None))
    assert torch.allclose(mean(x, 1, None), mean(swapped, 1, None), atol=1e-6)


def test_examples_of_several_lengths_cannot_be_pooled_so() -> None:
    with pytest.raises(UserError, match="differ in length; use mean"):
        heads.build(ALL, 8, 3)
