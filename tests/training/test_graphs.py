"""Captured steps: nothing in them needs the host, and a run with them is the run without them."""

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import second_models
import torch
import trajectory
from recording import Recordings, Watched, without_cpu_code
from tiny_models import BACKBONE, KINDS, make

from d2v import params
from d2v.data import sampler
from d2v.data.examples import hiding
from d2v.data.speech import rounded_down
from d2v.model.frames import frame_count
from d2v.model.masking import span_masks
from d2v.training import graphs, log, optim, trainer
from d2v.training import step as step_module
from d2v.training import task as task_module
from d2v.training.graphs import CapturedStep, Pool
from d2v.training.precision import Working
from d2v.training.step import Step, filled_up
from d2v.util.errors import UserError

RANDOM = BACKBONE.model_copy(
    update={"attention_dropout": 0.1, "layer_drop": 0.3, "drop_path": 0.2, "dropout": 0.1}
)
OPTIMISER = params.Optimiser(
    lr=1e-3, betas=[0.9, 0.2], eps=1e-6, weight_decay=0.01, clip=1.0,
    missing_gradients="zero", eps_before_correction=True,
)  # fmt: skip


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the code that is for CPUs only, which works on the host."""
    without_cpu_code(monkeypatch)
    for module in (step_module, graphs):
        monkeypatch.setattr(module, "fills", lambda device: True)


@pytest.mark.slow
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_micro_batch_needs_nothing_of_the_host(kind: str, version: int, half: bool) -> None:
    """On PyTorch's meta device, as on a GPU, the host has no values; dropout and skips included."""
    task, batch = (make if version == 1 else second_models.make)(kind, backbone=RANDOM)
    task.to("meta").train()
    batch["masked"] = batch["mask"].flatten().nonzero().flatten()
    inputs = {k: v.to("meta") for k, v in filled_up(batch).items()}
    chosen = task.model.student.backbone.choose()
    assert chosen is not None
    working = Working(task) if half else None
    optimiser = torch.optim.SGD(task.parameters())
    step = CapturedStep(
        task, task, optimiser, clip=1.0, working=working, capture=Recordings(), say=print
    )
    inputs["chosen"] = chosen.to("meta")
    step.device = torch.device("cpu")  # autocast, which is off, knows no meta device
    with Watched(host=True) as watched:
        values = step.backpropagated(inputs)
    assert values.device.type == "meta"
    assert len(watched.calls) > 100


@pytest.mark.slow
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_an_update_needs_nothing_of_the_host(
    kind: str, half: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clipping, AdamW and the moving average, with rate and decay as tensors."""
    task, _ = make(kind, backbone=RANDOM)
    task.to("meta").train()
    working = Working(task) if half else None
    for module, name in (
        ("torch.optim.optimizer", "_get_fused_kernels_supported_devices"),
        ("torch.utils._foreach_utils", "_get_foreach_kernels_supported_devices"),
    ):
        monkeypatch.setattr(sys.modules[module], name, lambda: ["meta"])
    fused: list[dict[str, Any]] = []  # numbers that each call has; it has no meta kernel
    monkeypatch.setattr(torch, "_fused_adamw_", lambda *_, **numbers: fused.append(numbers))
    options = OPTIMISER.model_copy(update={"eps_before_correction": False})
    optimiser = optim.build(task, options)
    capturable: list[bool] = []
    optimiser.register_step_pre_hook(
        lambda o, *_: capturable.extend(group["capturable"] for group in o.param_groups)
    )
    step = CapturedStep(
        task, task, optimiser, clip=1.0, working=working, capture=Recordings(), say=print
    )
    for parameter in step.parameters:
        parameter.grad = torch.empty_like(parameter)
    given = {
        name: torch.empty((), dtype=torch.float64, device="meta")
        for name in ("rate", "decay", "count", "loss")
    }
    with Watched(host=True) as watched:
        norm = step._moving(given)
    assert norm.device.type == "meta"
    assert set(capturable) == {True}
    for numbers in fused:
        assert numbers["lr"].device.type == numbers["found_inf"].device.type == "meta"
    assert len(fused) == len(optimiser.param_groups)
    assert any("lerp" in str(func) for func, *_ in watched.calls)


def run(
    prepared: Path, work: Path, kind: str, monkeypatch: pytest.MonkeyPatch,
    capture: Recordings | None, version: int = 1, **changes: Any,
) -> list[float]:  # fmt: skip
    """Losses of a pre-training."""
    for name, value in changes.items():
        old = trajectory.COMMON[name]
        update = value if isinstance(value, dict) else value.model_dump()
        monkeypatch.setitem(trajectory.COMMON, name, old.model_copy(update=update))
    if version == 2:
        first = trajectory.KINDS[kind]
        if first.get("decoder") is None:
            new = second_models.changes(kind, first["encoder"], trajectory.COMMON["backbone"])
            monkeypatch.setitem(trajectory.KINDS, kind, first | new)
    monkeypatch.setattr(trainer._Loop, "capture", capture)
    trajectory.train(prepared, work, kind)
    return [line["loss"] for line in log.read(work / "log.jsonl")]


STEPS = {"steps": 40, "log_every": 10, "checkpoint_every": 20}
WAYS: dict[str, dict[str, Any]] = {
    "dropout": {"backbone": {"layer_drop": 0.0}, "train": STEPS},
    "skipped blocks": {"backbone": {"layer_drop": 0.3}, "optimiser": OPTIMISER, "train": STEPS},
    "bfloat16": {"backbone": {"layer_drop": 0.0}, "train": {**STEPS, "precision": "bfloat16"}},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("version", "way"), [(1, way) for way in WAYS] + [(2, "dropout"), (2, "skipped blocks")]
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_captured_run_is_the_run(
    kind: str, version: int, way: str, small_prepared: Path, tmp_path: Path, as_on_a_gpu: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Accumulation, dropout, skipped blocks, batches of several shapes, resuming in the middle."""
    ways = WAYS[way]
    plain = run(small_prepared, tmp_path / "plain", kind, monkeypatch, None, version, **ways)
    recordings = Recordings()
    found = run(small_prepared, tmp_path / "graph", kind, monkeypatch, recordings, version, **ways)
    assert recordings.rehearsals == 2  # of both halves
    assert recordings.captures >= 2
    assert recordings.replays > 60  # of 80 micro-batches and 40 updates
    rough = 2e-2 if way == "bfloat16" else 1e-4
    assert found == pytest.approx(plain, rel=rough, abs=rough / 10)


@pytest.mark.slow
def test_a_captured_run_resumes(
    small_prepared: Path, tmp_path: Path, as_on_a_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways = WAYS["skipped blocks"]
    whole = run(small_prepared, tmp_path / "a", "text", monkeypatch, Recordings(), **ways)

    class Stop(Exception):
        pass

    class Dying(Recordings):
        def __call__(self, function: Any) -> Any:
            found, replay = super().__call__(function)

            def dying() -> None:
                if self.replays == 66:  # two micro-batches, later also an update a step
                    raise Stop
                replay()

            return found, dying

    with pytest.raises(Stop):
        run(small_prepared, tmp_path / "b", "text", monkeypatch, Dying(), **ways)
    recordings = Recordings()
    found = run(small_prepared, tmp_path / "b", "text", monkeypatch, recordings, **ways)
    assert recordings.replays < 66
    assert found == pytest.approx(whole, rel=1e-4)


@pytest.mark.slow
def test_speech_of_few_lengths_is_captured(
    small_prepared: Path, tmp_path: Path, as_on_a_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches by size of waveforms of two lengths, with skipped blocks."""
    few = params.WaveAugment(kind="speech", lengths=2)
    kind = trajectory.KINDS["speech"] | {"view": few}
    monkeypatch.setitem(trajectory.KINDS, "speech", kind)
    sized = params.Sized(size=9600, micro_batches=2)
    train = {**STEPS, "sized": sized, "batch": None, "micro_batch": None}
    ways = {**WAYS["skipped blocks"], "train": train}
    plain = run(small_prepared, tmp_path / "plain", "speech", monkeypatch, None, **ways)
    recordings = Recordings()
    found = run(small_prepared, tmp_path / "graph", "speech", monkeypatch, recordings, **ways)
    assert recordings.captures <= 5  # two lengths, each with few numbers of masked frames; updates
    assert recordings.replays > 80  # of 80 micro-batches and 40 updates
    assert found == pytest.approx(plain, rel=1e-4)


def librispeech(count: int = 281_241) -> np.ndarray:
    """Samples of as many utterances as LibriSpeech has, with lengths much like theirs: most are of
    12 to 17 s, a third are shorter, and the mean is 12.2 s.
    """
    draw = np.random.default_rng(0)
    short, long = draw.uniform(2, 12.5, count // 3), draw.uniform(16.5, 20, count // 100)
    usual = draw.normal(14.6, 1.2, count - len(short) - len(long)).clip(10, 17.3)
    return (200 * np.concatenate([short, usual, long])).astype(np.int64) * 80


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lengths", "count", "least", "most"), [(None, 500, 0.0, 0.1), (32, 2000, 0.9, 1.0)]
)
def test_most_batches_of_the_speech_recipe_are_replayed(
    lengths: int | None, count: int, least: float, most: float
) -> None:
    """The first `count` micro-batches of 6.4 million: the share rises from there."""
    p = params.load(Path("params/paper.yaml")).pretrain["speech-base"]
    assert p.train.sized is not None
    assert isinstance(p.encoder, params.WaveEncoder)
    assert isinstance(p.mask, params.SpanMask)
    samples = librispeech()
    sizes = samples if lengths is None else rounded_down(samples, lengths)
    assert sizes.sum() > 0.975 * samples.sum()  # what batches keep
    batches = sampler.SizedBatches(sizes, p.train.sized, seed=1)
    assert len(batches.ends) > 14_000  # an epoch's
    pool = Pool(lambda inputs: torch.zeros(()), Recordings(), pytest.fail)
    for keys in itertools.islice(batches, count):
        size = int(sizes[[index for _, index in keys]].min())
        frames = np.full(len(keys), frame_count(size, p.encoder.conv_layers))
        masks = hiding(span_masks(p.mask, frames, [(1, *key) for key in keys]))
        pool(filled_up({"waves": torch.empty(len(keys), size, device="meta")} | masks))
    assert len(pool.graphs) <= graphs.MOST
    assert least <= pool.replays / pool.calls <= most


def test_shapes_that_recur_are_captured_up_to_a_limit() -> None:
    recordings, refused = Recordings(), []
    pool = Pool(lambda inputs: 2 * inputs["x"].sum(), recordings, refused.append, most=2)
    for turn in range(6):
        for length in (1, 2, 3):
            x = torch.full((length,), float(turn))
            assert pool({"x": x}) == 2 * length * turn
    assert len(pool.graphs) == recordings.captures == 2
    assert recordings.rehearsals == 1
    assert (pool.calls, pool.replays) == (18, 8)
    assert not refused


@pytest.mark.parametrize("blind", [False, True])
def test_what_cannot_be_captured_is_computed_and_told_once(blind: bool) -> None:
    """The rehearsal finds it; if not, the capture fails."""
    refused: list[str] = []
    recordings = Recordings(blind)
    pool = Pool(lambda inputs: inputs["x"] * float(inputs["x"]), recordings, refused.append)
    for turn in range(8):
        assert pool({"x": torch.tensor(float(turn))}) == turn**2
    assert len(refused) == 1
    assert "makes the host wait" in refused[0]
    assert recordings.captures == 0
    assert pool.closed


@pytest.mark.parametrize("demanded", [False, True])
def test_one_line_if_the_step_cannot_be_captured(
    demanded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both halves are then uncaptured; graphs that are demanded end the run."""
    task, batch = make("text", backbone=BACKBONE)
    batch["masked"] = batch["mask"].flatten().nonzero().flatten()
    said: list[str] = []
    moments = task_module.moments
    monkeypatch.setattr(  # a wait in the forward pass
        task_module, "moments", lambda x, weight: moments(x, weight) + 0 * float(x.sum())
    )
    step = Step(task.train(), task, optim.build(task, OPTIMISER), clip=1.0)
    built = graphs.build(demanded or "auto", step, False, said.append, Recordings())
    assert isinstance(built, CapturedStep)

    def some_steps() -> None:
        for number in range(1, 9):
            sums = built.named(built.gradients(batch))
            built.update(sums, 1e-3, number)

    if demanded:
        with pytest.raises(UserError, match=r"cuda_graph: true: .* makes the host wait"):
            some_steps()
        return
    some_steps()
    assert len(said) == 1
    assert said[0].startswith("the step is not captured as a CUDA graph: aten")
    assert built.moving.closed
    assert not built.moving.graphs


def test_layer_drop_on_a_gpu_draws_the_same_with_and_without_graphs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also with cuda_graph: false; what has no graphs at all does not compute skipped blocks."""
    monkeypatch.setattr(graphs, "fills", lambda device: True)
    for recompute, world, selects in ((False, 1, True), (True, 1, False), (False, 2, False)):
        task, _ = make("text", backbone=RANDOM)
        step = Step(task, task, optim.build(task, OPTIMISER), clip=None, world=world)
        assert graphs.build(False, step, recompute, print) is step
        assert step.selects == selects


def test_a_result_outlives_the_next_replay() -> None:
    pool = Pool(lambda inputs: inputs["x"] + 1, Recordings(), print)
    found = [pool({"x": torch.tensor(float(turn))}) for turn in range(8)]
    assert [float(x) for x in found] == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("count", [1, 7, 1229, 15360])
def test_masked_positions_are_filled_up_to_few_lengths(count: int) -> None:
    batch = {"masked": torch.arange(count) + 5, "mask": torch.ones(2)}
    found = filled_up(batch)
    assert len(found["masked"]) == len(found["weight"]) <= max(1.25 * count, count + 7)
    assert torch.equal(found["masked"][:count], batch["masked"])
    assert not found["masked"][count:].any()
    assert float(found["weight"].sum()) == count


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_positions_that_were_added_do_not_count(kind: str, version: int) -> None:
    quiet = BACKBONE.model_copy(update={"dropout": 0.0})
    if version == 1:
        task, batch = make(kind, backbone=quiet)
    else:
        decoder = second_models.DECODER.model_copy(update={"dropout": 0.0, "noise": None})
        task, batch = second_models.make(kind, backbone=quiet, decoder=decoder)
    task.train()
    batch["masked"] = batch["mask"].flatten().nonzero().flatten()
    found, other = task(batch), task(filled_up(batch))
    assert len(filled_up(batch)["masked"]) > len(batch["masked"])
    assert found.keys() == other.keys()
    for name in found:
        torch.testing.assert_close(other[name].double(), found[name].double(), rtol=1e-5, atol=1e-5)


def test_obstacles_have_a_reason() -> None:
    task, _ = make("text", backbone=RANDOM)
    zero = optim.build(task, OPTIMISER)
    assert not graphs.obstacle(task, zero, 1, False)
    skip = optim.build(task, OPTIMISER.model_copy(update={
        "missing_gradients": "skip", "eps_before_correction": False}))  # fmt: skip
    assert "missing_gradients: zero" in graphs.obstacle(task, skip, 1, False)
    assert "2 processes" in graphs.obstacle(task, zero, 2, False)
    assert "recompute" in graphs.obstacle(task, zero, 1, True)
    assert "pre-training" in graphs.obstacle(torch.nn.Linear(1, 1), zero, 1, False)


def test_a_graph_that_is_demanded_needs_a_gpu() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    task, _ = make("text")
    step = Step(task, task, optim.build(task, OPTIMISER), clip=None)
    assert graphs.build("auto", step, False, print) is step
    with pytest.raises(UserError, match="cuda_graph: true: there is no GPU"):
        graphs.build(True, step, False, print)
