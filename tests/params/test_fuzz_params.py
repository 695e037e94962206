"""Any parameter file: what the check accepts builds and makes a step; the rest is told in lines."""

import copy
import itertools
import math
import time
import types
import typing
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import tagged_sounds
import torch
import workspace
import yaml
from fuzzing import seconds
from small_sets import glue_folder
from torch import Tensor

pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from d2v import params
from d2v.cli import prepare
from d2v.data import build_dataset, sampler
from d2v.evaluation import evaluate
from d2v.evaluation.predictions import score_rows
from d2v.experiment import runs
from d2v.experiment.finetuning import outputs
from d2v.model.data2vec import Student
from d2v.params import Finetune, Pretrain
from d2v.params.experiment import checked
from d2v.training import memory, optim
from d2v.training.task import Finetuning, Pretraining, Task
from d2v.util.errors import Collapse, UserError, counted

pytestmark = pytest.mark.slow

TINY = workspace.ROOT / "tests/params/tiny.yaml"
NUMBERS = {
    int: [-1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 24, 60, 70, 400],
    float: [-0.1, 0.0, 1e-6, 0.01, 0.3, 0.5, 0.9, 0.99, 1.0, 1.5, 2.0, 10.0, math.inf, math.nan],
}
WORDS = ["train", "dev", "test", "train+dev", "eval", "vision", "speech", "text", "sounds"]
WORDS += [
    "labels-2.0",
    "labels-1.{seed}",
    "rand-m9-mstd0.5-inc1",
    "rand-n0-p1.0",
    "mild-m9",
    "cola",
    "stsb",
    "digits",
    "",
]
JUNK = [None, True, -3, 0.5, "x", [], {}, [1], {"kind": "none"}]
LARGEST = 12  # of what takes long when it is large
LIMITED = {"depth", "position_depth", "micro_batches"}


def repeatedly(run: Callable[[], None]) -> None:
    """Hypothesis counts examples; this is until the time is over."""
    end = time.monotonic() + seconds()
    run()
    while time.monotonic() < end:
        run()


def drawn(function: Callable[..., None], *strategies: Any) -> Callable[[], None]:
    """A function of drawn values, called for a handful of them, without a memory of earlier ones.

    No shrinking: it would take longer than all the rest; a falsifying example is small already.
    """
    options = settings(
        max_examples=10,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    return options(given(*strategies)(function))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sets of all kinds, a few examples each."""
    root = tmp_path_factory.mktemp("fuzz")
    out = root / "prepared"
    workspace._prepare(root / "layouts", out)
    tokens = ["--tokenizer", str(out / "tokenizer")]
    stsb = glue_folder(root / "layouts" / "STS-B", "STS-B")
    prepare.main(["glue", "STS-B", str(stsb), *tokens, "-o", str(out / "stsb")])
    tagged_sounds.write(out / "audioset")
    return out


@pytest.fixture(scope="module")
def tree(prepared: Path) -> dict[str, Any]:
    """The tiny experiment with tags and numbers besides."""
    raw = params.read_yaml(TINY)
    raw["prepared"] = str(prepared)
    del raw["data"]["verses"]
    raw["data"] |= {
        "text": {"kind": "plain_text", "source": "x", "vocab_size": 60, "block": 24},
        "glue": {"kind": "glue", "source": "x"},
        "audioset": {"kind": "audioset", "source": "x"},
    }
    sounds = {**raw["pretrain"]["speech"], "data": "audioset", "split": "unbalanced+balanced"}
    sounds["train"] = {"steps": 2, "sized": {"size": 20000, "micro_batches": 2}}
    raw["pretrain"]["sounds"] = sounds
    raw["pretrain"]["second"] = {**raw["pretrain"]["vision"], "start_from": "vision"}
    splits = {"train_split": "balanced", "dev_split": "eval", "test_split": "eval"}
    tags = {**raw["finetune"]["spoken-digits"], **splits, "pretrain": "sounds", "data": "audioset"}
    del tags["decode"]
    raw["finetune"]["tags"] = tags | {
        "table": "audioset", "metrics": ["map"], "chosen_on_test": True,
        "task": {"kind": "tag", "classes": 4, "pool": "mean"},
        "view": {
            "kind": "speech", "mixup": 0.5, "mask": {"kind": "span", "prob": 0.3, "length": 2},
            "mask_channels": {"prob": 0.2, "length": 2}, "speed": [0.8, 1.2],
        },
    }  # fmt: skip
    numbers = {**raw["finetune"]["cola"], "data": "stsb", "column": "STS-B"}
    numbers |= {
        "metrics": ["pearson", "squared_error"],
        "task": {"kind": "regress", "pool": "first"},
    }
    raw["finetune"]["stsb"] = numbers
    return yaml.safe_load(yaml.safe_dump(raw))


# --- changed trees ----------------------------------------------------------------------------


def places(model: type[BaseModel], group: dict[str, Any], path: tuple = ()) -> Iterator[tuple]:
    """Every key that a group may have, with the type of its value."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        yield (*path, name), kind
        inner = group.get(name)
        if isinstance(inner, dict):
            for option in models(kind):
                tags = typing.get_args(option.model_fields["kind"].annotation) if (
                    "kind" in option.model_fields
                ) else ()  # fmt: skip
                if not tags or inner.get("kind", tags[0]) in tags:
                    yield from places(option, inner, (*path, name))
                    break


def models(kind: Any) -> list[type[BaseModel]]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [kind]
    return [m for arg in typing.get_args(kind) for m in models(arg)]


def values(kind: Any, name: str) -> st.SearchStrategy[Any]:
    """Values of about the right type: good, at the edge, and beyond it."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind in NUMBERS:
        usual = [n for n in NUMBERS[kind] if name not in LIMITED or n <= LARGEST]
        return st.sampled_from(usual)
    if kind is bool:
        return st.booleans()
    if kind is str:
        return st.sampled_from(WORDS)
    if kind is type(None):
        return st.none()
    if origin is typing.Literal:
        return st.sampled_from(args)
    if origin is typing.Annotated:
        return values(args[0], name)
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*(values(arg, name) for arg in args))
    if origin is list:
        return st.lists(values(args[0], name), min_size=1, max_size=3)
    if origin is dict:
        return st.dictionaries(values(args[0], name), values(args[1], name), max_size=2)
    if found := models(kind):
        return st.one_of(*(group(model) for model in found))
    raise TypeError(kind)


def group(model: type[BaseModel]) -> st.SearchStrategy[dict[str, Any]]:
    """Required keys of a group, and some others."""
    required = {n: f for n, f in model.model_fields.items() if f.is_required()}
    others = {n: f for n, f in model.model_fields.items() if not f.is_required()}
    return st.fixed_dictionaries(
        {n: values(f.annotation, n) for n, f in required.items()},
        optional={n: values(f.annotation, n) for n, f in others.items()},
    )


def changed(data: st.DataObject, tree: dict[str, Any]) -> tuple[dict[str, Any], str, str]:
    """A copy with some values of one run changed; which run."""
    raw = copy.deepcopy(tree)
    kind = data.draw(st.sampled_from(["pretrain", "finetune"]))
    name = data.draw(st.sampled_from(sorted(raw[kind])))
    model: type[BaseModel] = Pretrain if kind == "pretrain" else Finetune
    for _ in range(data.draw(st.integers(1, 4))):
        path, annotation = data.draw(st.sampled_from(list(places(model, raw[kind][name]))))
        at = raw[kind][name]
        for key in path[:-1]:
            at = at[key]
        strange = data.draw(st.integers(0, 19)) == 0
        at[path[-1]] = data.draw(st.sampled_from(JUNK) if strange else values(annotation, path[-1]))
    return raw, kind, name


# --- one step ---------------------------------------------------------------------------------


def one_step(task: Task, dataset: Any, p: params.Optimiser, schedule: Any, train: Any) -> None:
    """What the trainer does of one optimiser step, at most two micro-batches of it."""
    if train.micro_batch == "auto":
        few = memory.largest(train.batch, fits=lambda n: n <= 2)
        train = train.model_copy(update={"micro_batch": few})
    order = sampler.build(dataset, train, rank=0, world=1, seed=0, start_step=0)
    optimiser = optim.build(task, p)
    rates = [optim.schedule(schedule, p.lr, train.steps)(n) for n in range(min(train.steps, 10))]
    assert all(math.isfinite(rate) and rate >= 0 for rate in rates)
    sums: dict[str, Tensor] = {}
    for micro_batch in itertools.islice(order, min(2, sampler.portions(train, 1))):
        batch = dataset.collate([dataset[place] for place in micro_batch])
        out = task(dataset.finish(batch, torch.device("cpu")))
        if out["loss"].requires_grad:
            out["loss"].backward()
        sums = {k: sums[k] + v.detach() if sums else v.detach() for k, v in out.items()}
    optim.set_rate(optimiser, max(rates))
    parameters = [x for g in optimiser.param_groups for x in g["params"]]
    norm = optim.scale_and_clip(parameters, 1 / sums["count"].clamp(min=1), p.clip)
    optim.update(optimiser, norm, sums["loss"])
    task.after_step(1)
    logs = {name: float(value) for name, value in task.summary(sums).items()}
    assert math.isfinite(logs["loss"])
    with suppress(Collapse):  # with collapse.after 0, a fresh model may count as collapsed
        task.check(1, logs)


def try_pretraining(experiment: params.Experiment, name: str) -> None:
    p = experiment.pretrain[name]
    if p.released is not None:
        return
    dataset = build_dataset(
        Path(experiment.prepared) / p.data, p.split, p.view,
        seed=0, mask=p.mask, train=True, encoder=p.encoder,
    )  # fmt: skip
    task = Pretraining(p)
    if p.start_from is not None and experiment.pretrain[p.start_from].released is None:
        task.model.start_from(Pretraining(experiment.pretrain[p.start_from]).model.state_dict())
    one_step(task.train(), dataset, p.optimiser, p.schedule, p.train)


def try_finetuning(experiment: params.Experiment, name: str) -> None:
    p = experiment.finetune[name]
    if p.released is not None:
        return
    run = runs.finetune_runs(experiment, name)[0]
    model = run.model

    def data(split: str, train: bool) -> Any:
        return build_dataset(
            Path(experiment.prepared) / p.data, split, p.view, seed=0, train=train,
            labels=run.labels if train else None,
            task=p.task, encoder=model.encoder, dim=model.backbone.dim,
        )  # fmt: skip

    chosen = p.grid.settings() if p.grid else list((p.settings or {}).values())
    for setting in {s.freeze: s for s in chosen}.values():
        student = Student(model.encoder, model.backbone)
        task = Finetuning(p, student, model.backbone.dim, outputs(p.task), setting.freeze)
        task.freeze(0)
        train = p.train.lasting(setting.steps)
        one_step(
            task.train(), data(p.train_split, True), p.optimiser.at(setting.lr), p.schedule, train
        )
        dev = data(p.dev_split, False)
        rows = evaluate.run_predictions(task, dev, evaluate.batches(dev, p.train))
        score_rows(rows, p.metrics)


def of_data(error: UserError, prepared: Path) -> bool:
    """Whether what is wrong is what the sets hold, which a parameter file does not know."""
    return str(error).startswith((str(prepared), "example "))


def told(error: params.ParamsError, path: Path) -> None:
    """Check that a refusal is one line, or a head and a line for each fault."""
    head, *faults = str(error).split("\n")
    if faults:
        assert head == f"{path}: {counted(len(faults), 'error')}"
        assert all(line.startswith("  ") and len(line) > 5 for line in faults)
    else:
        assert head.startswith(f"{path}: ")


# --- the properties ---------------------------------------------------------------------------


@pytest.mark.fuzz
def test_what_is_accepted_makes_a_step(
    tree: dict[str, Any], prepared: Path, tmp_path: Path
) -> None:
    path, counts = tmp_path / "p.yaml", {"accepted": 0, "refused": 0, "of data": 0}

    def run(data: st.DataObject) -> None:
        raw, kind, name = changed(data, tree)
        try:
            experiment = checked(params.Experiment, raw, path)
        except params.ParamsError as error:
            told(error, path)
            counts["refused"] += 1
            return
        for each in runs.all_runs(experiment)[-3:]:
            assert runs.as_lines(each.defining())
        torch.manual_seed(0)
        try:
            if kind == "pretrain":
                try_pretraining(experiment, name)
                tasks = [n for n, t in experiment.finetune.items() if t.pretrain == name]
            else:
                tasks = [name]
            for task in tasks:
                try_finetuning(experiment, task)
        except UserError as error:
            if not of_data(error, prepared):
                raise
            counts["of data"] += 1
            return
        counts["accepted"] += 1

    repeatedly(drawn(run, st.data()))
    print(counts)
    assert counts["accepted"] > 0


def test_the_tree_itself_makes_all_steps(tree: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(tree))
    experiment = params.load(tmp_path / "p.yaml")
    for name in experiment.pretrain:
        try_pretraining(experiment, name)
    for name in experiment.finetune:
        try_finetuning(experiment, name)


PIECES = [
    "- ", ": ", "{", "}", "[", "]", "&a ", "*a", "<<: ", "!!int ", "010", "1:30", "\t", "'", '"',
    "#", "%", "2024-13-45", "=", "? ", "| ", "\x00", "é", "base: p.yaml", "like: x", "~", ".inf",
    "templates: 3", "\n", "  ", "0x", "!!python/object:os.system ", "---",
]  # fmt: skip


@pytest.mark.fuzz
def test_any_text_is_read_or_refused_in_lines(tmp_path: Path) -> None:
    path, text = tmp_path / "p.yaml", TINY.read_text()

    def run(cuts: list[tuple[int, int, str]], encoding: str) -> None:
        changed = text
        for start, length, piece in cuts:
            changed = changed[:start] + piece + changed[start + length :]
        path.write_bytes(changed.encode(encoding, "replace"))
        try:
            params.load(path)
        except params.ParamsError as error:
            told(error, path)

    cut = st.tuples(
        st.integers(0, len(text)), st.integers(0, 40), st.one_of(st.sampled_from(PIECES), st.text())
    )
    encodings = st.sampled_from(["utf-8", "utf-8", "latin-1", "utf-16"])
    repeatedly(drawn(run, st.lists(cut, min_size=1, max_size=4), encodings))


@pytest.mark.fuzz
def test_any_tree_is_read_or_refused_in_lines(tree: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    scalars = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9), st.dates()
    )
    nodes = st.recursive(
        scalars,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(scalars, inner, max_size=3)
        ),
        max_leaves=8,
    )

    def run(data: st.DataObject) -> None:
        raw = copy.deepcopy(tree)
        at: Any = raw
        for _ in range(data.draw(st.integers(0, 4))):
            inner = [key for key in at if isinstance(at[key], dict)]
            if not inner:
                break
            at = at[data.draw(st.sampled_from(inner))]
        key = data.draw(st.one_of(st.sampled_from(list(at)), scalars))
        at[key] = data.draw(nodes)
        path.write_text(yaml.safe_dump(raw, allow_unicode=True), encoding="utf-8")
        try:
            params.load(path)
        except params.ParamsError as error:
            told(error, path)

    repeatedly(drawn(run, st.data()))
