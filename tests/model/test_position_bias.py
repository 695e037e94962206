"""Position biases in the layout that fused attention on a GPU takes."""

from typing import Any

import pytest
import torch
from tiny_models import BACKBONE

from d2v import params
from d2v.model.alibi import Alibi
from d2v.model.kernels import attention
from d2v.model.kernels.attention import ALIGNED
from d2v.model.position_bias import DistanceBias, GridBias, attention_mask, out_of_reach
from d2v.model.transformer import Transformer

LENGTH = 17
BIASES: dict[str, Any] = {
    "grid": lambda: GridBias(4, 4, heads=2),
    "distance": lambda: DistanceBias(3, heads=2),
}


@pytest.mark.parametrize("length", [LENGTH, LENGTH - 1])
@pytest.mark.parametrize("kind", [*BIASES, "alibi", "alibi of visible positions"])
def test_a_bias_is_contiguous(kind: str, length: int) -> None:
    """Alone, with hidden padding, and with keys that are out of reach."""
    if kind in BIASES:
        bias = BIASES[kind]()(length)
    else:
        seen = torch.rand(3, 40).argsort(1)[:, : length - 1] if "visible" in kind else None
        bias = Alibi(heads=2)(length, 1, seen)
    padding = torch.zeros(3, length, dtype=torch.bool)
    padding[1, -3:] = True
    far = out_of_reach(length, 2, padding, bias.device)
    for mask in (bias, attention_mask(bias, padding), attention_mask(bias, padding, far)):
        assert mask is not None
        assert mask.shape[-2:] == (length, length)
        assert mask.stride(-1) == 1
    assert bias.is_contiguous()


@pytest.mark.parametrize("kind", [*BIASES, "alibi", "alibi of visible positions"])
def test_elsewhere_than_on_a_cpu_its_rows_are_aligned(kind: str) -> None:
    """Else PyTorch copies the mask in every block; the gradient stays that of the table."""
    if kind in BIASES:
        bias = BIASES[kind]().to("meta")(LENGTH)
    else:
        seen = torch.empty(3, LENGTH - 1, dtype=torch.int64, device="meta")
        bias = Alibi(heads=2).to("meta")(LENGTH, 1, seen if "visible" in kind else None)
    padding = torch.zeros(3, LENGTH, dtype=torch.bool, device="meta")
    for mask in (bias, attention_mask(bias, padding)):
        assert mask is not None
        assert mask.shape[1:] == (2, LENGTH, LENGTH)
        assert mask.stride(-1) == 1
        assert all(stride % ALIGNED == 0 for stride in mask.stride()[:-1])


@pytest.mark.parametrize("kind", [*BIASES, "alibi"])
def test_under_autocast_it_has_the_type_of_attention(kind: str) -> None:
    """Else PyTorch casts the mask in every block, and its gradient back."""
    module = (BIASES[kind]() if kind in BIASES else Alibi(heads=2)).to("meta")
    torch.set_autocast_enabled("cuda", True)
    try:
        bias = module(LENGTH)
        on_cpu = attention.laid_out(torch.zeros(1, 2, LENGTH, LENGTH))
    finally:
        torch.set_autocast_enabled("cuda", False)
    assert bias.dtype == torch.get_autocast_dtype("cuda") != torch.float32
    assert on_cpu.dtype == torch.float32


def test_rows_that_are_aligned_hold_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    bias = DistanceBias(3, heads=2)
    expected = bias(LENGTH)

    class Elsewhere:
        type = "elsewhere"

    from d2v.model import position_bias

    table = bias.table[position_bias_index(bias)]
    monkeypatch.setattr(torch.Tensor, "device", Elsewhere)
    found = position_bias._heads_first(table)
    monkeypatch.undo()
    assert found.stride(-2) % ALIGNED == 0
    assert torch.equal(found, expected)
    found.sum().backward()
    assert bias.table.grad is not None
    assert float(bias.table.grad.sum()) == 2 * LENGTH**2


def position_bias_index(bias: DistanceBias) -> torch.Tensor:
    at = torch.arange(LENGTH)
    return (at[None, :] - at[:, None]).clamp(-3, 3) + 3


@pytest.mark.parametrize("able", ["flash", "efficient", "cudnn", None])
@pytest.mark.parametrize("kind", ["none", "shared_2d", "per_layer_1d"])
def test_a_plain_kernel_is_noticed(
    kind: Any, able: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch is asked with the arguments of training; here it says what the test wants."""
    asked: list[Any] = []
    for name in ("flash", "efficient", "cudnn"):

        def can_use(p: Any, name: str = name) -> bool:
            asked.append(p)
            return name == able

        monkeypatch.setattr(torch.backends.cuda, f"can_use_{name}_attention", can_use)
    bias = {
        "none": params.PositionBias(kind="none"),
        "shared_2d": params.PositionBias(kind="shared_2d", window=[4, 4]),
        "per_layer_1d": params.PositionBias(kind="per_layer_1d", max_distance=3),
    }[kind]
    model = Transformer(BACKBONE.model_copy(update={"position_bias": bias}))
    assert model.takes_plain_kernel(64, torch.bfloat16) == (able is None)
    p = asked[0]
    assert p.query.dtype == torch.bfloat16
    assert p.query.shape[2] == (LENGTH if kind == "shared_2d" else 64)
    assert (p.attn_mask is None) == (kind == "none")
    assert p.attn_mask is None or (p.attn_mask.stride(-1) == 1 and p.attn_mask.requires_grad)
    assert attention.takes_plain_kernel(p.query, p.key, p.value, p.attn_mask, 0.1) == (able is None)
