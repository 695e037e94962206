"""Standard deviations of a global batch from sums over its parts."""

import pytest
import torch

from d2v.model.running_stats import channel_std, moments


def test_the_spread_of_a_whole_batch_comes_from_its_parts() -> None:
    torch.manual_seed(0)
    rows = 3 + 0.1 * torch.randn(50, 8) * torch.arange(1, 9)
    parts = rows.split([7, 0, 1, 42])
    whole = (rows.double().var(0) + 1e-6).sqrt().mean()
    assert channel_std(sum(map(moments, parts))).item() == pytest.approx(whole.item(), rel=1e-6)
    # a mean of the parts' own deviations is another number
    assert torch.stack([p.std(0).mean() for p in (parts[0], parts[3])]).mean() != whole


def test_the_spread_of_one_row_is_that_of_equal_rows(recwarn: pytest.WarningsRecorder) -> None:
    """It was nan, with a warning, when one position of a batch was masked."""
    row = torch.randn(1, 8)
    equal = channel_std(moments(row.expand(5, 8)))
    assert equal.item() == pytest.approx(1e-3)
    assert channel_std(moments(row)).item() == pytest.approx(1e-3)
    assert channel_std(moments(row[:0])).item() == pytest.approx(1e-3)
    assert not recwarn.list
