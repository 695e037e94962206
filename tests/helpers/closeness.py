"""How far two computations of the same values are apart, whatever the size of these values."""

import torch
from torch import Tensor

LIMIT = 1e-5  # of `apart`, in float32: ten times what back ends differ by in these small models


def apart(found: Tensor, expected: Tensor) -> float:
    """Largest difference, divided by the largest expected value, or by 1 if that is smaller.

    NaN, which is below no limit, if a value is NaN.
    """
    assert found.shape == expected.shape, (found.shape, expected.shape)
    found, expected = torch.as_tensor(found).double(), torch.as_tensor(expected).double()
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1))
