"""Attention and dropout on a CPU equal the plain formulas, forward and backward."""

import pytest
import torch

from d2v.model.kernels import attention, dropout

RATE = 0.1


def plain(q, k, v, mask, hidden):
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, float("-inf"))
    elif mask is not None:
        scores = scores + mask
    return (scores.softmax(-1).masked_fill(hidden, 0.0) / (1 - RATE)) @ v


def masks(kind, batch, heads, length):
    if kind == "padding":
        return (
            torch.arange(length)[None, None, None] < torch.tensor([9, length])[:, None, None, None]
        )
    lead = {"shared": 1, "own": batch}
    if kind not in lead:
        return None
    return torch.randn(lead[kind], heads, length, length, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("kind", ["none", "padding", "shared", "own"])
@pytest.mark.parametrize("heads", [3, 6])
def test_attention_with_dropout(kind, heads):
    batch, length = 2, 17
    torch.manual_seed(0)
    qkv = torch.randn(batch, length, 3, heads, 8, dtype=torch.float64, requires_grad=True)
    mask = masks(kind, batch, heads, length)
    learned = [qkv, mask] if kind in ("shared", "own") else [qkv]
    q, k, v = qkv.permute(2, 0, 3, 1, 4)

    torch.manual_seed(1)
    found = attention.attend(q, k, v, mask, RATE)
    torch.manual_seed(1)
    hidden = torch.zeros(batch, heads, length, length, dtype=torch.bool)
    for at in attention._portions(batch, heads):
        hidden[at] = dropout.kept(hidden[at].shape, RATE) == 0
    wanted = plain(q, k, v, mask, hidden)

    assert hidden.any()
    torch.testing.assert_close(found, wanted)
    weight = torch.randn_like(found)
    ours = torch.autograd.grad(found, learned, weight, retain_graph=True)
    theirs = torch.autograd.grad(wanted, learned, weight)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)


def test_dropout_keeps_the_mean_and_its_share():
    torch.manual_seed(0)
    x = torch.ones(1000, 1001, requires_grad=True)
    found = dropout.dropout(x, RATE, training=True)
    assert abs(float((found == 0).float().mean()) - RATE) < 1e-3  # 3 standard deviations
    assert abs(float(found.detach().mean()) - 1.0) < 1.1e-3
    found.sum().backward()
    torch.testing.assert_close(x.grad, found.detach())
    assert dropout.dropout(x, RATE, training=False) is x


def test_dropout_is_a_function_of_the_seed():
    draws = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        draws.append((dropout.kept((64, 3), 0.5), dropout.kept((64, 3), 0.5)))
    assert all(map(torch.equal, draws[0], draws[1]))
    assert not torch.equal(draws[0][0], draws[0][1])
    assert not torch.equal(draws[0][0], draws[2][0])
