"""Visible positions, ALiBi, the decoder and fixed positions: against direct definitions."""

import pytest
import torch
import torch.nn.functional as F

from d2v import params
from d2v.model import visible
from d2v.model.alibi import Alibi, slopes
from d2v.model.decoder import Decoder
from d2v.model.encoders.sine import grid_positions

VISIBLE = torch.tensor([[0, 3], [1, 2], [2, 4], [0, 1]])  # two examples with two copies each


def test_copies_of_an_example_lie_next_to_each_other():
    x = torch.randn(2, 5, 3)
    found = visible.gathered(x, VISIBLE)
    for row, places in enumerate(VISIBLE):
        assert torch.equal(found[row], x[row // 2][places])


def test_features_that_every_copy_has_itself_are_gathered_too():
    x = torch.randn(4, 5, 3)
    found = visible.gathered(x, VISIBLE)
    assert all(torch.equal(found[row], x[row][VISIBLE[row]]) for row in range(4))


def test_flags_are_gathered_as_features_are():
    flags = torch.rand(2, 5) < 0.5
    expected = visible.gathered(flags.float().unsqueeze(-1), VISIBLE).squeeze(-1) > 0
    assert torch.equal(visible.gathered_flags(flags, VISIBLE), expected)


def test_what_is_put_back_is_where_it_was_and_the_rest_is_zero_or_noise():
    x = torch.randn(4, 2, 3)
    found = visible.restored(x, VISIBLE, 5, None)
    hidden = visible.hidden_of(VISIBLE, 5)
    assert torch.equal(visible.gathered(found, VISIBLE), x)
    assert not found[hidden].any()
    noisy = visible.restored(x.repeat(1, 1, 500), VISIBLE, 5, 0.01)
    assert noisy[hidden].std().item() == pytest.approx(0.01, rel=0.05)


def test_places_of_masked_positions_lead_to_their_example():
    masked = visible.hidden_of(VISIBLE, 5).flatten().nonzero().flatten()
    found = visible.of_examples(masked, 5, 2)
    assert torch.equal(found // 5, masked // 5 // 2)
    assert torch.equal(found % 5, masked % 5)


# --- ALiBi ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heads", "expected"),
    [
        (1, [2**-8]),
        (4, [2**-2, 2**-4, 2**-6, 2**-8]),
        (6, [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]),  # every second one of eight
    ],
)
def test_slopes(heads, expected):
    assert slopes(heads) == pytest.approx(expected)
    assert len(slopes(12)) == 12


def test_bias_of_visible_positions_is_that_of_all_at_both_axes():
    bias = Alibi(4)
    bias.scale.data.uniform_(0.5, 2.0)
    whole, part = bias(5), bias(2, 0, VISIBLE)
    for row, places in enumerate(VISIBLE):
        assert torch.equal(part[row], whole[0][:, places][:, :, places])
    assert torch.equal(whole, whole.transpose(2, 3))
    assert not whole.diagonal(dim1=2, dim2=3).any()


def test_extra_tokens_have_no_bias():
    bias = Alibi(4)
    found = bias(7, 2)
    assert not found[:, :, :2].any()
    assert not found[:, :, :, :2].any()
    assert torch.equal(found[:, :, 2:, 2:], bias(5))


def test_a_scale_below_zero_counts_as_zero_and_gets_no_gradient():
    bias = Alibi(4)
    bias.scale.data[0] = -0.5
    found = bias(5)
    assert not found[:, 0].any()
    found.sum().backward()
    assert bias.scale.grad[0] == 0
    assert (bias.scale.grad[1:] != 0).all()


# --- decoder ----------------------------------------------------------------------------------


def backbone(dim=8):
    return params.Backbone(dim=dim, depth=1, heads=2, ffn_dim=16, norm_first=False)


def decoder(grid=None, **more):
    sizes = {"layers": 2, "dim": 4, "kernel": 3, "groups": 2, "noise": None} | more
    return Decoder(params.Decoder(**sizes), backbone(), grid).eval()


@pytest.mark.parametrize("kernel", [3, 4])
@pytest.mark.parametrize("grid", [None, 2])
def test_every_length_and_kernel_keeps_the_length(kernel, grid):
    found = decoder(grid, kernel=kernel)(torch.randn(3, 2, 8), torch.tensor([[0, 2]] * 3), 4)
    assert found.shape == (3, 4, 8)


def test_a_residual_needs_equal_widths():
    """The first convolution changes the width, so only the second has a residual."""
    one = decoder()
    x = torch.randn(3, 6, 8)
    first = F.gelu(F.layer_norm(one.convs[0](x.transpose(1, 2)).transpose(1, 2), (4,)))
    second = F.gelu(F.layer_norm(one.convs[1](first.transpose(1, 2)).transpose(1, 2), (4,)))
    assert torch.allclose(one.convolve(x), first + second, atol=1e-6)
    one.residual = False
    assert torch.allclose(one.convolve(x), second, atol=1e-6)


def test_a_grid_has_neighbours_above_and_below():
    """In two dimensions, a position sees the one in the next row, not the next but one."""
    one = decoder(3, layers=1)
    x = torch.zeros(1, 9, 8, requires_grad=True)
    one.convolve(x)[0, 4].sum().backward()  # the centre
    assert (x.grad[0].abs().sum(1) > 0).all()
    x.grad = None
    one.convolve(x)[0, 0].sum().backward()  # a corner
    assert (x.grad[0].abs().sum(1) > 0).tolist() == [True, True, False] * 2 + [False] * 3


def test_only_the_requested_rows_are_projected():
    one, x = decoder(projection_layers=2, projection_ratio=2.0), torch.randn(3, 2, 8)
    visible_, rows = torch.tensor([[0, 2]] * 3), torch.tensor([1, 6, 11])
    whole = one(x, visible_, 4)
    assert torch.allclose(one(x, visible_, 4, rows), whole.flatten(0, 1)[rows], atol=1e-6)
    assert [tuple(m.weight.shape) for m in one.projection if hasattr(m, "weight")] == [
        (8, 4),
        (8, 8),
    ]


def test_dropout_of_what_enters_only_in_training():
    one = decoder(dropout=0.5)
    x, places = torch.randn(3, 2, 8), torch.tensor([[0, 2]] * 3)
    assert torch.equal(one(x, places, 4), one(x, places, 4))
    one.train()
    assert not torch.equal(one(x, places, 4), one(x, places, 4))


# --- fixed positions --------------------------------------------------------------------------


def test_fixed_positions_tell_rows_and_columns_apart():
    found = grid_positions(3, 8)[0].view(3, 3, 8)
    assert torch.equal(found[0, :, :4], found[2, :, :4])  # the column is in the first half
    assert torch.equal(found[:, 0, 4:], found[:, 2, 4:])  # the row is in the second half
    assert found[0, 1, :4].tolist() == pytest.approx(
        [0.841471, 0.00999983, 0.540302, 0.99995], rel=1e-6
    )
