"""Runs of an experiment: their ids, the parameters that define each, and the paths of their files.

pretrain/<name>/seed<k>
finetune/<name>/<arm>/seed<k>              arm: scratch | data2vec
select/<name>/<arm>/<setting>/seed<k>      a point of the grid, scored on the development split
decode/<name>/<arm>/seed<k>                search for decoding weights, then decoding
"""

import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, get_args

from d2v.params import Decode, Experiment, Finetune, Pretrain, Released, Setting, TableName
from d2v.params.influence import influential, without_later
from d2v.util.errors import UserError

RESULTS = Path("results")
WORK = Path("work")
COMPLETE = ".complete"  # marks tables that the workflow made from finished runs
OWN_DROPOUTS = (
    "dropout", "attention_dropout", "activation_dropout", "drop_path", "layer_drop",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One job of the experiment; `id` identifies it everywhere (folders, DAG, tables)."""

    kind: Literal["pretrain", "finetune", "select", "decode"]
    name: str
    seed: int
    arm: str | None = None
    setting: str | None = None  # name of a grid point; only for select

    @property
    def id(self) -> str:
        """The run's folder below `work/<experiment>` and `results/<experiment>/runs`."""
        parts = (self.kind, self.name, self.arm, self.setting, f"seed{self.seed}")
        return "/".join(part for part in parts if part)


def pretrain_runs(experiment: Experiment) -> list[Run]:
    """One run per pre-training and seed, in the order of the parameter file."""
    return [
        Run("pretrain", name, seed)
        for name, pretrain in experiment.pretrain.items()
        for seed in pretrain.seeds
    ]


def finetune_runs(experiment: Experiment, name: str | None = None) -> list[Run]:
    """One run per fine-tuning task, arm and seed; only those of the task `name` if it is given."""
    return [
        Run("finetune", task, seed, arm)
        for task, finetune in experiment.finetune.items()
        if name in (None, task)
        for arm in finetune.arms
        for seed in finetune.seeds
    ]


def decode_runs(experiment: Experiment) -> list[Run]:
    """One decoding run for each fine-tuning run that needs a search for decoding weights."""
    return [
        Run("decode", run.name, run.seed, run.arm)
        for run in finetune_runs(experiment)
        if searched(experiment, run)
    ]


def reported_runs(experiment: Experiment, name: str | None = None) -> list[Run]:
    """The runs whose test metrics the tables show: fine-tunings, or the decodings that follow."""
    return [
        Run("decode", run.name, run.seed, run.arm) if searched(experiment, run) else run
        for run in finetune_runs(experiment, name)
    ]


def searched(experiment: Experiment, run: Run) -> bool:
    """Whether a separate job searches for the decoding weights of a fine-tuning."""
    decode = experiment.finetune[run.name].decode
    return decode is not None and decode.search is not None


def grid_runs(experiment: Experiment, name: str) -> list[Run]:
    """One run per arm, grid point and grid seed of a task; none if its settings are given."""
    task = experiment.finetune[name]
    grid = task.grid
    if grid is None:
        return []
    return [
        Run("select", name, seed, arm, setting.name)
        for arm in task.arms
        for setting in grid.settings()
        for seed in grid.seeds
    ]


def chosen_together(experiment: Experiment, name: str) -> list[str]:
    """Tasks whose grids determine a task's setting: the task itself, or all in its table row."""
    task = experiment.finetune[name]
    if task.grid is None or task.grid.best_over == "task":
        return [name]
    return [
        other
        for other, t in experiment.finetune.items()
        if (t.table, t.row, t.pretrain) == (task.table, task.row, task.pretrain) and t.grid
    ]


def all_runs(experiment: Experiment) -> list[Run]:
    """All runs, in an order in which they can be executed."""
    grids = [run for name in experiment.finetune for run in grid_runs(experiment, name)]
    tuned = finetune_runs(experiment) + decode_runs(experiment)
    return pretrain_runs(experiment) + grids + tuned


def parse(experiment: Experiment, run_id: str) -> Run:
    """The run with the id `run_id`.

    Raises UserError if the experiment has no such run; the message names the closest id.
    """
    known = {run.id: run for run in all_runs(experiment)}
    if run_id in known:
        return known[run_id]
    close = difflib.get_close_matches(run_id, known, n=1, cutoff=0.4)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise UserError(f"experiment {experiment.name} has no run {run_id}{hint} (see `d2v status`)")


def pretrain_run(experiment: Experiment, run: Run) -> Run | None:
    """The pre-training whose weights a run starts from, or None if there is none."""
    if run.kind == "pretrain":
        start = experiment.pretrain[run.name].start_from
    elif run.kind == "decode" or run.arm == "scratch" or released_of(experiment, run):
        start = None
    else:
        start = experiment.finetune[run.name].pretrain
    if start is None:
        return None
    seeds = experiment.pretrain[start].seeds
    return Run("pretrain", start, seeds[run.seed % len(seeds)])


def released_of(experiment: Experiment, run: Run) -> Released | None:
    """Published weights that replace a run's training, or None."""
    if run.kind == "decode":
        return None
    group = experiment.pretrain if run.kind == "pretrain" else experiment.finetune
    return group[run.name].released


def finetune_run(run: Run) -> Run:
    """The fine-tuning run that a decoding run belongs to."""
    return Run("finetune", run.name, run.seed, run.arm)


def pretrain_of(experiment: Experiment, run: Run) -> Pretrain:
    """Parameters of the pre-training whose model a run uses.

    A fine-tuning's own dropouts replace those of the backbone, and a LayerNorm after pooling
    replaces the backbone's final norm (BEiT's fc_norm).
    """
    if run.kind == "pretrain":
        return experiment.pretrain[run.name]
    finetune = experiment.finetune[run.name]
    pretrain = experiment.pretrain[finetune.pretrain]
    own = {key: getattr(finetune, key) for key in OWN_DROPOUTS}
    changed = {key: value for key, value in own.items() if value is not None}
    if getattr(finetune.task, "norm", False):
        changed["final_norm"] = False
    backbone = pretrain.backbone.model_copy(update=changed)
    encoder = pretrain.encoder
    if finetune.encoder_dropout is not None:
        encoder = encoder.model_copy(update={"dropout": finetune.encoder_dropout})
    return pretrain.model_copy(update={"encoder": encoder, "backbone": backbone})


def cpus(experiment: Experiment, run: Run) -> int:
    """Number of CPU threads of a run, or of processes if it decodes."""
    if run.kind == "decode":
        return _decode(experiment, run).cpus
    group = experiment.pretrain if run.kind == "pretrain" else experiment.finetune
    return group[run.name].cpus


def datasets(experiment: Experiment, run: Run) -> list[str]:
    """The prepared sets that a run reads, as folder names below `experiment.prepared`."""
    if run.kind == "pretrain":
        pretrain = experiment.pretrain[run.name]
        return [] if pretrain.released else [pretrain.data]
    finetune = experiment.finetune[run.name]
    if run.kind == "decode":
        return [_decode(experiment, run).lm]
    # if decoding weights are searched for, a separate job does the decoding
    inline = finetune.decode is not None and finetune.decode.search is None
    return [finetune.data, *([finetune.decode.lm] if inline and finetune.decode else [])]


def _decode(experiment: Experiment, run: Run) -> Decode:
    decode = experiment.finetune[run.name].decode
    assert decode is not None
    return decode


def resolve(experiment: Experiment, run_id: str) -> dict[str, Any]:
    """Parameters that define the result of one run, as plain JSON values in groups.

    Two runs with equal values give equal results on equal data. Changes to another run, or to how a
    run is executed or presented, do not affect these values. `setting` is None for a setting that
    has to be chosen on a grid.
    """
    run = parse(experiment, run_id)
    if run.kind == "decode":
        return _resolve_decode(experiment, run)
    spec: Pretrain | Finetune
    spec = (
        experiment.pretrain[run.name] if run.kind == "pretrain" else experiment.finetune[run.name]
    )
    values = influential(spec) | {"run": run.id, "prepared": experiment.prepared}
    if run.kind == "pretrain":
        source = pretrain_run(experiment, run)
        values["start_from"] = source.id if source else None
    else:
        values["decode"] = _inline_decode(experiment.finetune[run.name])
        if not released_of(experiment, run):  # otherwise the weights determine the model
            model = pretrain_of(experiment, run)
            values["encoder"] = model.encoder.model_dump(mode="json")
            values["backbone"] = model.backbone.model_dump(mode="json")
        source = pretrain_run(experiment, run)
        values["pretrain"] = source.id if source else None
        setting = given_setting(experiment, run)
        values["setting"] = setting.model_dump(mode="json") if setting else None
    if run.kind == "select":  # these runs never read the test split
        del values["test_split"]
    return values


def _resolve_decode(experiment: Experiment, run: Run) -> dict[str, Any]:
    task = experiment.finetune[run.name]
    return {
        "run": run.id,
        "prepared": experiment.prepared,
        "finetune": finetune_run(run).id,
        "decode": _decode(experiment, run).model_dump(mode="json", exclude={"cpus"}),
        "metrics": list(task.metrics),
        "splits": [task.dev_split, task.test_split, *task.more.values()],
    }


def _inline_decode(task: Finetune) -> dict[str, Any] | None:
    """How a fine-tuning itself decodes; with a search it saves its outputs for a separate job."""
    if task.decode is None:
        return None
    if task.decode.search is not None:
        return {"search": "in a job of its own"}
    return task.decode.model_dump(mode="json", exclude={"cpus", "search"})


def resolve_fully(experiment: Experiment, run: Run) -> dict[str, Any]:
    """The values of `resolve`, with the setting that was chosen on the grid.

    Raises UserError if the grid has not been searched yet.
    """
    values = resolve(experiment, run.id)
    if run.kind in ("finetune", "select"):
        values["setting"] = setting_of(experiment, run).model_dump(mode="json")
    return values


def fingerprint(experiment: Experiment, run: Run) -> str:
    """SHA-256 of `resolve_fully`; equal for runs that give equal results on equal data."""
    values = without_later(resolve_fully(experiment, run))
    return sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def setting_of(experiment: Experiment, run: Run) -> Setting:
    """Setting of a fine-tuning: given in its parameters, of its grid point, or chosen on the grid.

    Raises UserError if the grid has not been searched yet.
    """
    given = given_setting(experiment, run)
    if given:
        return given
    path = chosen_path(experiment, run.name)
    if not path.exists():
        raise UserError(f"{path} is missing: run the workflow, or `d2v select {run.name}`")
    chosen = json.loads(path.read_text())[run.arm]
    return Setting.model_validate({key: chosen[key] for key in Setting.model_fields})


def given_setting(experiment: Experiment, run: Run) -> Setting | None:
    """Setting of a fine-tuning as its parameters give it; None if a grid has to be searched."""
    finetune = experiment.finetune[run.name]
    if run.kind == "select":
        assert finetune.grid
        return next(s for s in finetune.grid.settings() if s.name == run.setting)
    settings = finetune.settings
    return settings[run.arm] if settings else None  # type: ignore[index]


def labels_of(finetune: Finetune, seed: int) -> str | None:
    """Name of the label list for a seed; None if a fine-tuning uses all labels."""
    return finetune.labels.replace("{seed}", str(seed)) if finetune.labels else None


# --- files ------------------------------------------------------------------------------------


def work_folder(experiment: Experiment, run: Run) -> Path:
    """Folder of checkpoints and logs; the workflow declares no files here, so it deletes none."""
    return WORK / experiment.name / run.id


def result_folder(experiment: Experiment, run: Run) -> Path:
    """Folder of predictions and metrics."""
    return RESULTS / experiment.name / "runs" / run.id


def metrics_path(experiment: Experiment, run: Run) -> Path:
    """File of a run's metrics: its declared output, written last."""
    return result_folder(experiment, run) / "metrics.json"


def emissions_path(experiment: Experiment, run: Run, name: str) -> Path:
    """File of a fine-tuning's letter log-probabilities for dev, test or another split."""
    return work_folder(experiment, run) / f"emissions-{name}.safetensors"


def chosen_path(experiment: Experiment, name: str) -> Path:
    """File with the settings chosen from a task's grid, for both arms."""
    return RESULTS / experiment.name / "runs" / "select" / name / "chosen.json"


def meta_path(experiment: Experiment, dataset: str) -> Path:
    """File that describes a prepared set: the interface between data stages and workflow."""
    return Path(experiment.prepared) / dataset / "meta.json"


def table_names(experiment: Experiment) -> list[str]:
    """Tables in which the experiment has a cell, in the paper's order."""
    used = {finetune.table for finetune in experiment.finetune.values()}
    return [table for table in get_args(TableName) if table in used]


def all_datasets(experiment: Experiment) -> Iterator[str]:
    """Every prepared set of the experiment, without duplicates."""
    names = [name for run in all_runs(experiment) for name in datasets(experiment, run)]
    yield from dict.fromkeys(names)


# --- for people -------------------------------------------------------------------------------


def describe(experiment: Experiment, run: Run) -> str:
    """One sentence about what a run does."""
    if released := released_of(experiment, run):
        what = "Take over" if run.kind == "pretrain" else f"Evaluate on {run.name}"
        return f"{what} the released weights {released.path}"
    if run.kind == "pretrain":
        p = experiment.pretrain[run.name]
        return (
            f"Pre-train {run.name}, seed {run.seed}:"
            f" {p.train.steps} steps of {p.train.portion} of {p.data}"
        )
    if run.kind == "decode":
        return f"Search the decoding weights of {finetune_run(run).id}, then decode with the best"
    source = pretrain_run(experiment, run)
    start = f"from {source.id}" if source else "from scratch"
    setting = given_setting(experiment, run)
    how = setting.words if setting else "with the chosen setting"
    verb = "Try on the development split: fine-tune" if run.kind == "select" else "Fine-tune"
    return f"{verb} {run.name} {start}, seed {run.seed}: {how}"


def as_lines(values: dict[str, Any], prefix: str = "") -> list[str]:
    """Nested values as sorted lines `dotted.path=value`."""
    lines: list[str] = []
    for key, value in sorted(values.items()):
        if isinstance(value, dict):
            lines += as_lines(value, f"{prefix}{key}.")
        else:
            lines.append(f"{prefix}{key}={json.dumps(value)}")
    return lines
