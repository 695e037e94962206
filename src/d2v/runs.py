"""Runs of an experiment: their ids, the parameters that define each, and where their files are.

pretrain/<name>/seed<k>
finetune/<name>/<arm>/seed<k>              arm: scratch | data2vec
select/<name>/<arm>/<setting>/seed<k>      a point of the grid; scored on the development split
"""

import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from d2v.errors import UserError
from d2v.params import ARMS, Experiment, Finetune, Pretrain, Setting

RESULTS = Path("results")
WORK = Path("work")
LANGUAGE_MODEL = "lm"  # prepared set that beam search reads
# What says where and how a run is shown or carried out, and never changes its result.
NEUTRAL = {"seeds", "cpus", "table", "column", "note", "settings", "grid"}
NEUTRAL_TRAIN = {"log_every", "checkpoint_every", "workers"}


@dataclass(frozen=True)
class Run:
    """One job of the experiment; `id` is its name everywhere (folders, DAG, tables)."""

    kind: Literal["pretrain", "finetune", "select"]
    name: str
    seed: int
    arm: str | None = None
    setting: str | None = None  # name of a grid point; select only

    @property
    def id(self) -> str:
        """Folder below `work/<experiment>` and `results/<experiment>/runs`."""
        parts = (self.kind, self.name, self.arm, self.setting, f"seed{self.seed}")
        return "/".join(part for part in parts if part)


def pretrain_runs(experiment: Experiment) -> list[Run]:
    """Every pre-training and seed, in the order of the file."""
    return [
        Run("pretrain", name, seed)
        for name, pretrain in experiment.pretrain.items()
        for seed in pretrain.seeds
    ]


def finetune_runs(experiment: Experiment, name: str | None = None) -> list[Run]:
    """Every reported fine-tuning, arm and seed; of one task when it is named."""
    return [
        Run("finetune", task, seed, arm)
        for task, finetune in experiment.finetune.items()
        if name in (None, task)
        for arm in ARMS
        for seed in finetune.seeds
    ]


def grid_runs(experiment: Experiment, name: str) -> list[Run]:
    """Every point of a task's grid, arm and grid seed; none where settings are given."""
    grid = experiment.finetune[name].grid
    if grid is None:
        return []
    return [
        Run("select", name, seed, arm, setting.name)
        for arm in ARMS
        for setting in grid.settings()
        for seed in grid.seeds
    ]


def all_runs(experiment: Experiment) -> list[Run]:
    """Every run in an order in which they could be done."""
    grids = [run for name in experiment.finetune for run in grid_runs(experiment, name)]
    return pretrain_runs(experiment) + grids + finetune_runs(experiment)


def parse(experiment: Experiment, run_id: str) -> Run:
    """The run of an id.

    Raises UserError when the experiment has no such run; the message names the nearest one.
    """
    known = {run.id: run for run in all_runs(experiment)}
    if run_id in known:
        return known[run_id]
    close = difflib.get_close_matches(run_id, known, n=1, cutoff=0.4)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise UserError(f"experiment {experiment.name} has no run {run_id}{hint} (see `d2v status`)")


def pretrain_run(experiment: Experiment, run: Run) -> Run | None:
    """The pre-training that a fine-tuning starts from; None for the arm from scratch."""
    if run.kind == "pretrain" or run.arm == "scratch":
        return None
    name = experiment.finetune[run.name].pretrain
    seeds = experiment.pretrain[name].seeds
    return Run("pretrain", name, seeds[run.seed % len(seeds)])


def pretrain_of(experiment: Experiment, run: Run) -> Pretrain:
    """Parameters of the pre-training whose model a run has.

    A fine-tuning's own dropout, drop_path and layer_drop take the place of the backbone's, and a
    LayerNorm after pooling takes the place of its final norm (BEiT's fc_norm).
    """
    if run.kind == "pretrain":
        return experiment.pretrain[run.name]
    finetune = experiment.finetune[run.name]
    pretrain = experiment.pretrain[finetune.pretrain]
    own = {key: getattr(finetune, key) for key in ("dropout", "drop_path", "layer_drop")}
    changed = {key: value for key, value in own.items() if value is not None}
    if getattr(finetune.task, "norm", False):
        changed["final_norm"] = False
    backbone = pretrain.backbone.model_copy(update=changed)
    return pretrain.model_copy(update={"backbone": backbone})


def cpus(experiment: Experiment, run: Run) -> int:
    """Threads of a run."""
    group = experiment.pretrain if run.kind == "pretrain" else experiment.finetune
    return group[run.name].cpus


def datasets(experiment: Experiment, run: Run) -> list[str]:
    """Prepared sets that a run reads, as folder names below `experiment.prepared`."""
    if run.kind == "pretrain":
        return [experiment.pretrain[run.name].data]
    finetune = experiment.finetune[run.name]
    return [finetune.data, *([LANGUAGE_MODEL] if finetune.decode else [])]


def resolve(experiment: Experiment, run_id: str) -> dict[str, Any]:
    """Parameters that define the result of one run, as plain JSON values in groups.

    Two runs with equal values give equal results on equal data; editing another run, or how a run
    is carried out or shown, changes nothing here. `setting` is None until a grid is searched.
    """
    run = parse(experiment, run_id)
    spec: Pretrain | Finetune
    spec = (
        experiment.pretrain[run.name] if run.kind == "pretrain" else experiment.finetune[run.name]
    )
    values = spec.model_dump(mode="json", exclude=NEUTRAL)
    values["train"] = {k: v for k, v in values["train"].items() if k not in NEUTRAL_TRAIN}
    values |= {"run": run.id, "prepared": experiment.prepared}
    if run.kind != "pretrain":
        model = pretrain_of(experiment, run)
        values["encoder"] = model.encoder.model_dump(mode="json")
        values["backbone"] = model.backbone.model_dump(mode="json")
        source = pretrain_run(experiment, run)
        values["pretrain"] = source.id if source else None
        setting = _given_setting(experiment, run)
        values["setting"] = setting.model_dump(mode="json") if setting else None
    if run.kind == "select":  # the reported split is not looked at
        del values["test_split"]
    return values


def resolve_fully(experiment: Experiment, run: Run) -> dict[str, Any]:
    """What `resolve` gives, with the setting that was chosen on the grid.

    Raises UserError when the grid has not been searched yet.
    """
    values = resolve(experiment, run.id)
    if run.kind != "pretrain":
        values["setting"] = setting_of(experiment, run).model_dump(mode="json")
    return values


def fingerprint(experiment: Experiment, run: Run) -> str:
    """SHA-256 of `resolve_fully`: equal for runs that give equal results on equal data."""
    values = resolve_fully(experiment, run)
    return sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def setting_of(experiment: Experiment, run: Run) -> Setting:
    """Setting of a fine-tuning: given, of its grid point, or chosen on the grid.

    Raises UserError when the grid has not been searched yet.
    """
    given = _given_setting(experiment, run)
    if given:
        return given
    path = chosen_path(experiment, run.name)
    if not path.exists():
        raise UserError(f"{path} is missing: run the workflow, or `d2v select {run.name}`")
    chosen = json.loads(path.read_text())[run.arm]
    return Setting.model_validate({key: chosen[key] for key in Setting.model_fields})


def _given_setting(experiment: Experiment, run: Run) -> Setting | None:
    finetune = experiment.finetune[run.name]
    if run.kind == "select":
        assert finetune.grid
        return next(s for s in finetune.grid.settings() if s.name == run.setting)
    settings = finetune.settings
    return settings[run.arm] if settings else None  # type: ignore[index]


def labels_of(finetune: Finetune, seed: int) -> str | None:
    """Name of the label list of a seed."""
    return finetune.labels.replace("{seed}", str(seed)) if finetune.labels else None


# --- files ------------------------------------------------------------------------------------


def work_folder(experiment: Experiment, run: Run) -> Path:
    """Checkpoints and logs; nothing here is declared to the workflow, so nothing is deleted."""
    return WORK / experiment.name / run.id


def result_folder(experiment: Experiment, run: Run) -> Path:
    """Predictions and metrics."""
    return RESULTS / experiment.name / "runs" / run.id


def metrics_path(experiment: Experiment, run: Run) -> Path:
    """The declared output of a run; written last."""
    return result_folder(experiment, run) / "metrics.json"


def chosen_path(experiment: Experiment, name: str) -> Path:
    """What the search over a task's grid chose, for both arms."""
    return RESULTS / experiment.name / "runs" / "select" / name / "chosen.json"


def meta_path(experiment: Experiment, dataset: str) -> Path:
    """Description of a prepared set: where the data stages and the workflow meet."""
    return Path(experiment.prepared) / dataset / "meta.json"


def table_names(experiment: Experiment) -> list[str]:
    """Tables that the experiment has a cell in, in the paper's order."""
    used = {finetune.table for finetune in experiment.finetune.values()}
    return [table for table in ("imagenet", "librispeech", "glue") if table in used]


def all_datasets(experiment: Experiment) -> Iterator[str]:
    """Every prepared set of the experiment, once."""
    names = [name for run in all_runs(experiment) for name in datasets(experiment, run)]
    yield from dict.fromkeys(names)


# --- for people -------------------------------------------------------------------------------


def describe(experiment: Experiment, run: Run) -> str:
    """What a run does, in one sentence."""
    if run.kind == "pretrain":
        p = experiment.pretrain[run.name]
        return (
            f"Pre-train {run.name}, seed {run.seed}:"
            f" {p.train.steps} steps of {p.train.batch} examples of {p.data}"
        )
    source = pretrain_run(experiment, run)
    start = f"from {source.id}" if source else "from scratch"
    setting = _given_setting(experiment, run)
    how = setting.words if setting else "with the chosen setting"
    verb = "Try on the development split: fine-tune" if run.kind == "select" else "Fine-tune"
    return f"{verb} {run.name} {start}, seed {run.seed}: {how}"


def as_lines(values: dict[str, Any], prefix: str = "") -> list[str]:
    """Nested values as `dotted.path=value`, sorted."""
    lines: list[str] = []
    for key, value in sorted(values.items()):
        if isinstance(value, dict):
            lines += as_lines(value, f"{prefix}{key}.")
        else:
            lines.append(f"{prefix}{key}={json.dumps(value)}")
    return lines
