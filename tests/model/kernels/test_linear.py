"""Linear layers through oneDNN, and convolutions as products over windows, equal PyTorch's."""

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from d2v.model.kernels import linear, windows
from d2v.model.kernels.windows import WindowConv

WAYS = {"onednn": (0, False), "blas": (0, True), "plain": (linear.LEAST, False)}


@pytest.fixture(params=WAYS)
def least(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """From how many operations on products are this project's: all are, or none of these small
    ones. They are oneDNN's, or the BLAS's as on Intel's processors and without AVX-512.
    """
    number, blas = WAYS[request.param]
    monkeypatch.setattr(linear, "LEAST", number)
    monkeypatch.setattr(linear, "_BLAS", blas)
    return number


@pytest.mark.parametrize(
    ("vendor", "flags", "wanted", "blas"),
    [
        ("GenuineIntel", "avx2 avx512f", "", True),
        ("GenuineIntel", "avx2", "", True),
        ("AuthenticAMD", "avx2 avx512f", "", False),
        ("AuthenticAMD", "avx2", "", True),
        ("GenuineIntel", "avx2 avx512f", "onednn", False),
        ("AuthenticAMD", "avx2 avx512f", "blas", True),
    ],
)
def test_the_processor_decides_who_computes_products(
    vendor: str,
    flags: str,
    wanted: str,
    blas: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("D2V_PRODUCTS", wanted)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    file = tmp_path / "cpuinfo"
    assert linear.prefers_blas(file) == (wanted == "blas")  # no Linux
    file.write_text(f"processor : 0\nvendor_id : {vendor}\nflags : fpu {flags}\n")
    assert linear.prefers_blas(file) == blas


def test_the_operator_is_there() -> None:
    """It belongs to PyTorch's inside; without it everything works, but slower."""
    assert linear.fits(torch.zeros(1), linear.LEAST)
    assert not linear.fits(torch.zeros(1), linear.LEAST - 1)
    assert not linear.fits(torch.zeros(1).bfloat16(), linear.LEAST)
    assert not linear.fits(torch.zeros(1, device="meta"), linear.LEAST)
    with torch.autocast("cpu", torch.bfloat16):
        assert not linear.fits(torch.zeros(1), linear.LEAST)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("strided", [True, False])
def test_linear(least: int, bias: bool, strided: bool) -> None:
    torch.manual_seed(0)
    weight = torch.randn(7, 5, 2)[:, :, 1] if strided else torch.randn(7, 5)
    tensors = [torch.randn(2, 3, 5), weight, torch.randn(7)][: 3 if bias else 2]
    ours = [x.clone().requires_grad_() for x in tensors]
    theirs = [x.clone().requires_grad_() for x in tensors]
    if strided:
        ours[1] = weight.detach().requires_grad_()
    found, expected = linear.linear(*ours), F.linear(*theirs)
    torch.testing.assert_close(found, expected)
    grad = torch.randn_like(expected)
    found.backward(grad)
    expected.backward(grad)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)
    with torch.no_grad():
        torch.testing.assert_close(linear.linear(*ours), expected)


def test_linear_of_gelu(least: int) -> None:
    torch.manual_seed(0)
    ours = [torch.randn(2, 3, 5), torch.randn(7, 5), torch.randn(7)]
    theirs = [x.clone().requires_grad_() for x in ours]
    ours = [x.requires_grad_() for x in ours]
    found = linear.gelu_linear(*ours)
    expected = F.linear(F.gelu(theirs[0]), *theirs[1:])
    torch.testing.assert_close(found, expected)
    grad = torch.randn_like(expected)
    found.backward(grad)
    expected.backward(grad)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


@pytest.mark.parametrize("needed", [False, True])
def test_norm_and_gelu(least: int, needed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "PORTION", 3)
    torch.manual_seed(0)
    norm = torch.nn.LayerNorm(5)
    torch.nn.init.normal_(norm.weight)
    other = copy.deepcopy(norm)
    x = torch.randn(2, 9, 5)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    runs = [[(0, 4), (8, 9)], []] if needed else None
    found, expected = windows.norm_gelu(ours, norm, runs), F.gelu(other(theirs))
    torch.testing.assert_close(found, expected)
    grad = torch.randn_like(expected)
    if needed:
        grad[0, 4:8] = grad[1] = 0.0
    found.backward(grad)
    expected.backward(grad)
    torch.testing.assert_close(ours.grad, theirs.grad)
    torch.testing.assert_close(norm.weight.grad, other.weight.grad)
    torch.testing.assert_close(norm.bias.grad, other.bias.grad)


@pytest.mark.parametrize("sizes", [(10, 5), (3, 2), (2, 2), (4, 2), (5, 3), (2, 3)])
@pytest.mark.parametrize(("channels", "learned"), [(1, False), (1, True), (4, False), (4, True)])
def test_windows_are_a_convolution(
    least: int, sizes: tuple[int, int], channels: int, learned: bool
) -> None:
    torch.manual_seed(0)
    conv = WindowConv(channels, 6, *sizes)
    x = torch.randn(2, 41, channels)
    ours, theirs = x.clone().requires_grad_(learned), x.clone().requires_grad_(learned)
    weight = conv.weight.detach().clone().requires_grad_()
    found = conv(ours)
    expected = F.conv1d(theirs.transpose(1, 2), weight, stride=sizes[1]).transpose(1, 2)
    torch.testing.assert_close(found, expected)
    grad = torch.randn_like(expected)
    found.backward(grad)
    expected.backward(grad)
    if learned:
        torch.testing.assert_close(ours.grad, theirs.grad)
    torch.testing.assert_close(conv.weight.grad, weight.grad)


CONVS = [(10, 5), (3, 2), (3, 2), (2, 2)]


def stack() -> list[WindowConv]:
    torch.manual_seed(0)
    channels = [1, 4, 4, 4, 4]
    return [WindowConv(channels[i], channels[i + 1], *sizes) for i, sizes in enumerate(CONVS)]


def gradients(convs: list[WindowConv], mask: torch.Tensor, needed: list | None) -> list:
    """Gradients of all weights where masked frames have none."""
    for conv in convs:
        conv.zero_grad()
    torch.manual_seed(1)
    x = torch.randn(len(mask), 40 * mask.shape[1] + 60, 1)
    for conv, runs in zip(convs, needed or [None] * len(convs), strict=True):
        x = torch.tanh(conv(x, runs))
    hidden = torch.zeros(len(mask), x.shape[1] - mask.shape[1], dtype=torch.bool)
    shown = ~torch.cat([mask, hidden], dim=1)
    (x * shown.unsqueeze(-1) * torch.randn(x.shape)).sum().backward()
    return [conv.weight.grad.clone() for conv in convs]


def test_frames_without_gradient_cost_nothing_and_change_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(linear, "LEAST", 0)
    convs = stack()
    torch.manual_seed(2)
    mask = torch.rand(3, 30) < 0.6
    mask[1] = False
    mask[2] = True
    frames = 30 + 1
    runs = [[*r[:-1], (r[-1][0], frames)] if r and r[-1][1] == 30 else [*r, (30, frames)]
            for r in windows.visible(mask)]  # fmt: skip
    needed = windows.chain(convs, runs)
    assert sum(end - start for start, end in needed[0][0]) < 0.8 * 8 * frames
    for sparse, dense in zip(
        gradients(convs, mask, needed), gradients(convs, mask, None), strict=True
    ):
        torch.testing.assert_close(sparse, dense)


def test_runs_of_visible_frames_and_what_they_are_made_of() -> None:
    mask = torch.tensor([[0, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]], dtype=torch.bool)
    assert windows.visible(mask) == [[(0, 1), (3, 5)], [], [(0, 5)]]
    conv = WindowConv(1, 1, 3, 2)
    assert conv.reached([(0, 1), (3, 5)]) == [(0, 3), (6, 11)]
    assert conv.reached([(0, 1), (1, 2)]) == [(0, 5)]
