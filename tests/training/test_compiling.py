"""Compiled parts compute what they compute eagerly, without breaks, in few compilations."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import second_models
import torch
from tiny_models import BACKBONE, KINDS, make

from d2v import params
from d2v.model.transformer import Block, Transformer
from d2v.training import compiling
from d2v.training.identity import identity
from d2v.training.task import Pretraining


def batch_of(data: dict[str, torch.Tensor], times: int) -> dict[str, torch.Tensor]:
    kept = {name: value for name, value in data.items() if name != "masked"}
    return {name: torch.cat([value] * times) for name, value in kept.items()}


def learn(task: Pretraining, data: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict]:
    task.zero_grad()
    out = task(data)
    out["loss"].backward()
    return out["loss"].detach(), {n: p.grad for n, p in task.named_parameters()}


@pytest.fixture(autouse=True)
def _afresh() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


def quiet(kind: str, version: int) -> tuple[Pretraining, dict[str, torch.Tensor]]:
    """A task without chance, and a batch."""
    backbone = BACKBONE.model_copy(update={"dropout": 0.0})
    if version == 1:
        return make(kind, backbone=backbone)
    decoder = second_models.DECODER.model_copy(update={"dropout": 0.0, "noise": None})
    return second_models.make(kind, backbone=backbone, decoder=decoder)


@pytest.mark.parametrize("plain", [False, True])
def test_a_gpu_without_fused_attention_is_told(
    plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the type in which attention computes."""
    asked: list[torch.dtype] = []

    def takes_plain_kernel(self: Transformer, length: int, dtype: torch.dtype) -> bool:
        asked.append(dtype)
        return plain

    monkeypatch.setattr(Transformer, "takes_plain_kernel", takes_plain_kernel)
    task, _ = make("text")
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    for reduced in (True, False):
        told = compiling.slow_attention(task, gpu, reduced)
        assert told == ([compiling.SLOW_ATTENTION] if plain else [])
    assert asked == [torch.bfloat16, torch.float32]
    assert compiling.slow_attention(task, cpu, True) == []


@pytest.mark.slow
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_compiled_parts_equal_eager_ones(kind: str, version: int) -> None:
    """Losses and gradients of two shapes; in version 1, the third shape compiles nothing more."""
    task, data = quiet(kind, version)
    task.train()
    eager = [learn(task, batch_of(data, times)) for times in (1, 2)]
    compiling.compile_parts(task, backend="aot_eager")
    watch = compiling.Watch()
    assert watch.news() is None
    for times, (loss, gradients) in zip((1, 2), eager, strict=True):
        found, other = learn(task, batch_of(data, times))
        torch.testing.assert_close(found, loss, rtol=1e-5, atol=1e-6)
        assert other.keys() == gradients.keys()
        for name, gradient in gradients.items():
            if gradient is not None:
                torch.testing.assert_close(other[name], gradient, rtol=1e-4, atol=1e-5)
    assert watch.news() is None  # not while compiling may go on
    before = compiling.counts()
    news = watch.news()
    assert news is not None
    assert f"{before['graphs']} in total, with 0 graph breaks" in news
    assert before["graphs"] < 25
    learn(task, batch_of(data, 3))
    now = compiling.counts()
    assert now["breaks"] == 0
    if version == 1:
        assert now == before
        assert watch.news() is None
    else:  # number of rows and number of examples: PyTorch first takes them for independent
        assert now["graphs"] - before["graphs"] <= 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_block_is_compiled_three_times_at_most(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Teacher; student; student at masked positions only. With the recipes' chances, other numbers
    of masked positions and, in speech, other lengths.
    """
    chances = {"dropout": 0.1, "attention_dropout": 0.1, "drop_path": 0.2}
    shared = params.PositionBias(kind="shared_2d", window=[3, 3])
    bias = {"position_bias": shared} if kind == "vision" else {}
    task, batch = make(kind, backbone=BACKBONE.model_copy(update=chances | bias))
    task.train()
    monkeypatch.setattr(compiling, "PARTS", (Block,))
    compiling.compile_parts(task, "aot_eager", lengths_vary=kind == "speech")
    for step in range(4):
        data = dict(batch)
        if kind == "speech":
            data = {"waves": torch.randn(2 + step, 100 + 20 * step)}
            frames = task.model.student.encoder.local_features(data)[0].shape[1]
            data["mask"] = torch.zeros(2 + step, frames, dtype=torch.bool)
        data["mask"] = data["mask"].clone()
        data["mask"][:, : 2 + step] = True
        learn(task, data)
    assert compiling.counts() == {"graphs": 3, "breaks": 0}


@pytest.mark.slow
def test_what_is_drawn_between_the_parts_breaks_nothing() -> None:
    """Skipped blocks, dropped paths and dropout, as the recipes have them."""
    task, data = make("vision")
    task.train()
    backbone = task.model.student.backbone
    backbone.layer_drop = 0.3
    for number, block in enumerate(backbone.blocks):
        block.drop_path, block.dropout, block.attention.dropout = 0.1 * number, 0.1, 0.1
    compiling.compile_parts(task, backend="aot_eager")
    for step in range(6):
        torch.manual_seed(step)
        loss, _ = learn(task, data)
        assert loss.isfinite()
    assert compiling.counts()["breaks"] == 0


def test_names_of_parameters_stay() -> None:
    task, _ = make("text")
    before = list(task.state_dict())
    compiling.compile_parts(task, backend="eager")
    assert list(task.state_dict()) == before


CACHED = """
import os, pathlib
import torch._dynamo  # sets the variable
from d2v import params
from d2v.model.data2vec import Average
from d2v.training import compiling
average = Average(params.Target(top_k=1, feature="ffn", layer_norm="layer"))
compiling.compile_parts(average, "inductor", cache=pathlib.Path("compiled"))
print(os.environ["TORCHINDUCTOR_CACHE_DIR"])
"""


@pytest.mark.slow
def test_compiled_code_is_kept_where_the_run_asks(tmp_path: Path) -> None:
    """In a process of its own: PyTorch chooses a folder when its compiler is imported."""
    unset = {k: v for k, v in os.environ.items() if k != "TORCHINDUCTOR_CACHE_DIR"}
    for given, expected in (({}, tmp_path / "compiled"), ({"TORCHINDUCTOR_CACHE_DIR": "/x"}, "/x")):
        said = subprocess.check_output(
            [sys.executable, "-c", CACHED], text=True, cwd=tmp_path, env=unset | given
        )
        assert said.strip() == str(expected)


def test_how_a_run_computes_is_no_part_of_what_it_is() -> None:
    """A run may go on from its checkpoints compiled, or with blocks computed again."""
    plain = params.Train(steps=1, batch=1, micro_batch=1)
    other = plain.model_copy(update={"compile": True, "recompute": True})
    assert plain != other
    assert identity({"train": plain.model_dump()}) == identity({"train": other.model_dump()})


KEEPING = """
import resource, sys, torch
from d2v.training import devices
if sys.argv[1] == "keep":
    devices.keep_memory(torch.device("cpu"))
for turn in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step = [torch.ones(size, 2**20) for size in (12, 24, 6, 24, 12)]
    step.clear()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_freed_memory_is_kept_for_the_next_step() -> None:
    faults = {
        word: int(subprocess.check_output([sys.executable, "-c", KEEPING, word]))
        for word in ("keep", "leave")
    }
    assert faults["keep"] < faults["leave"] / 10
