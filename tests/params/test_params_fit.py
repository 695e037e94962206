"""What cannot work is refused before anything runs, and what does nothing reruns nothing."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from mini_params import without_baselines

from d2v import params
from d2v.cli import commands as cli
from d2v.data.readers.audioset import SPLITS
from d2v.data.readers.glue_tasks import TASKS
from d2v.data.readers.limited import FOLDERS
from d2v.data.readers.official import OFFICIAL
from d2v.evaluation.metrics import METRICS
from d2v.experiment import runs
from d2v.params import data, prepared, tasks
from d2v.params.reading import read_params

ROOT = Path(__file__).parents[2]
MINI = ROOT / "params" / "mini.yaml"
SPAN = {"kind": "span", "prob": 0.5, "length": 2}
DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # much faster


def changed(*changes: tuple[str, Any]) -> dict[str, Any]:
    """mini.yaml without baselines, with dotted keys set to other values."""
    return set_to(without_baselines(), *changes)


def set_to(raw: dict[str, Any], *changes: tuple[str, Any]) -> dict[str, Any]:
    for dotted, value in changes:
        *path, last = dotted.split(".")
        group = raw
        for key in path:
            group = group[key]
        group[last] = value
    return raw


def load(tmp_path: Path, raw: dict[str, Any]) -> params.Experiment:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.dump(raw, Dumper=DUMPER, sort_keys=False))
    return params.load(path)


def faults(tmp_path: Path, raw: dict[str, Any]) -> list[str]:
    with pytest.raises(params.ParamsError) as caught:
        load(tmp_path, raw)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


# key, value, the one line that is said
V, S, T = "pretrain.vision", "pretrain.speech", "pretrain.text"
D, W, C = "finetune.digits", "finetune.spoken-digits", "finetune.cola"
REFUSED: list[tuple[str, Any, str]] = [
    # encoder, mask, view
    (f"{V}.mask", SPAN, f"{V}: mask.kind is span, but encoder.kind vision needs block"),
    (f"{T}.mask", {"kind": "block", "patches": 3}, "mask.kind is block, but encoder.kind"),
    (f"{V}.mask.patches", 16, "16 of the 4 x 4 = 16 patches leave none visible"),
    (f"{V}.mask.patches", 17, "17 of the 4 x 4 = 16 patches leave none visible"),
    (f"{V}.mask", {"kind": "block", "patches": 14, "min_block": 14}, "mask.min_block 14: no block"),
    (f"{S}.mask.prob", 0.0, f"{S}: mask.prob is 0, so nothing would be masked"),
    (f"{T}.mask.prob", 0.0, f"{T}: mask.prob is 0, so nothing would be masked"),
    (f"{T}.mask.prob", 0.001, f"{T}: mask.prob 0.001 masks 0.024 of the 24 positions of the"),
    (f"{T}.mask", {"kind": "token", "prob": 0.1, "keep_prob": 0.6}, "masks 0.96 of the 24"),
    (f"{T}.mask.prob", 0.05, None),
    (f"{S}.mask", {**SPAN, "prob": 0.001, "min_spans": 0}, f"{S}: mask.prob 0.001 masks 0.099 of"),
    (f"{S}.mask", {**SPAN, "prob": 0.001}, None),
    (f"{V}.mask", {"kind": "block", "patches": 8, "min_block": 9}, "is more than mask.patches 8"),
    (f"{V}.mask", {"kind": "block", "patches": 8, "min_block": 4, "max_block": 3}, "max_block 3"),
    (f"{V}.mask", {"kind": "block", "patches": 8, "min_block": 8}, None),
    (f"{T}.mask", {"kind": "token", "prob": 0.1, "random_prob": 0.5, "keep_prob": 0.5}, "leave no"),
    (f"{S}.view.max_samples", 399, "view.max_samples 399 is too small: 2 frames need 720"),
    (f"{V}.view.mixup", 0.8, "view.mixup and view.cutmix mix classes, but pre-training has"),
    (f"{S}.view.mixup", 0.5, "view.mixup mixes classes and is only for tasks of kind tag"),
    (f"{S}.view.mask", SPAN, f"{S}: view.mask is only for fine-tuning; remove it"),
    (f"{S}.view.speed", [0.9, 1.1], f"{S}: view.speed is only for fine-tuning; remove it"),
    (f"{W}.view.speed", [1.1, 0.9], "speed [1.1, 0.9] is not a range"),
    (f"{W}.view.speed", [0.1, 1.1], "view.speed.0: Input should be greater than or equal to 0.5"),
    (f"{W}.view.speed", [0.9, 1.1], None),
    (f"{V}.view.random_resized_crop", [1.0, 0.2], "random_resized_crop [1.0, 0.2] is not"),
    (f"{V}.view.resize", 20, "view.resize 20 is less than encoder.image_size 24"),
    (f"{V}.view.decode", "device", "view.decode device needs view.random_resized_crop"),
    (f"{D}.view.rand_augment", "mild-m9", f"{D}: view.rand_augment: timm has no 'mild-m9'"),
    (f"{D}.view.rand_augment", "rand-m9-mstd0.5-inc1", None),
    (f"{V}.encoder.channels", 4, "encoder.channels is 4: images have 1 or 3"),
    (f"{V}.train", {"steps": 9, "sized": {"size": 9, "micro_batches": 1}}, "have one size; give"),
    (f"{S}.train", {"steps": 9, "sized": {"size": 31999, "micro_batches": 1}}, "31999 is less"),
    # the model
    (f"{T}.encoder.absolute_positions", True, None),
    (f"{T}.backbone.position_bias", {"kind": "shared_2d", "window": [4, 4]}, "a grid of patches"),
    (f"{T}.backbone.position_bias.window", [4, 4], "window has no effect with kind per_layer_1d"),
    (f"{V}.backbone.position_bias.max_distance", 3, "max_distance has no effect with kind shared"),
    (f"{S}.backbone.layer_scale", 0.1, "backbone.layer_scale applies only to pre-norm blocks"),
    (f"{S}.encoder.position_groups", 7, "dim 96 is not a multiple of encoder.position_groups 7"),
    (f"{T}.encoder.vocab_size", 5, "encoder.vocab_size 5"),
    (f"{T}.ema.shared", ["cls"], "ema.shared: encoder.kind text has no cls"),
    (f"{T}.target.context", 3, "context cannot be combined with position_bias per_layer_1d"),
    (f"{S}.backbone.attention_dropout", 1.0, "Input should be less than 1, got 1.0"),
    # training
    (f"{V}.optimiser.betas", [0.9, 1.0], f"{V}.optimiser.betas.1: Input should be less than 1"),
    (f"{V}.optimiser.lr", float("inf"), "Input should be a finite number"),
    (f"{S}.schedule.phases", [0.1, 0.2, 0.3], "phases [0.1, 0.2, 0.3] are shares of all steps"),
    (f"{S}.schedule.phases", [0.1, 0.4, 0.6], "they must add up to 1"),
    (f"{S}.schedule.phases", [0.0, 0.0, 0.0], "they must add up to 1"),
    # tasks
    (f"{C}.task", {"kind": "ctc"}, "task.kind ctc does not fit view.kind text (which supports"),
    (f"{C}.metrics", ["pearson"], "metrics pearson do not fit a classify task"),
    (f"{C}.metrics", ["map"], "metrics map do not fit a classify task"),
    (f"{C}.decode", {"beam": 5}, "decode searches letters for words, but a classify task has none"),
    (f"{C}.task.pool", "all", f"{C}.task.pool all: examples differ in length with an encoder of"),
    (f"{C}.task.classes", 3, f"{C}.task: cola has 2 classes, but the task expects 3 classes"),
    (f"{D}.metrics", ["f1"], "metrics: f1 compares class 1 with class 0"),
    (f"{D}.encoder_dropout", 0.1, "encoder_dropout: an encoder of kind vision has no dropout"),
    (f"{D}.view.cutmix", 1.0, None),
    (f"{D}.settings.scratch.freeze", "convolutions", "freeze: convolutions, but an encoder"),
    (f"{W}.view.max_samples", 99, "view.max_samples crops waveforms, which then do not match"),
    (f"{W}.view.lengths", 9, "view.lengths crops waveforms, which then do not match"),
    (f"{W}.view.mask", {**SPAN, "prob": 0.0}, f"{W}: view.mask.prob is 0: remove view.mask"),
    (f"{C}.view.max_tokens", 4, "Input should be greater than or equal to 5"),
    # data
    ("data.digits.train", 100000, "data.digits: train + dev + test is 101500, but there are 5000"),
    ("data.digits.train", 3500, None),
    ("data.digits.labels", [30, 100, 300, 1000, 3501], "data.digits: labels: 3501 is more than"),
    ("data.spoken_digits.words", [4, 2], "data.spoken_digits: words [4, 2] is not a range"),
    ("data.spoken_digits.ngram", 1, "data.spoken_digits: ngram 1 is less than 2, the least of a"),
    ("data.spoken_digits.ngram", 2, None),
    ("data.spoken_digits.labels", [30, 100, 300, 1945], "labels: 1945 is more than the 1944"),
    ("data.verses.held_out", 0.0, "data.verses: held_out 0 leaves no verses for the tasks"),
    ("data.verses.held_out", 1.0, "data.verses: held_out 1 leaves no verses for the corpus"),
    ("data.verses.labels", [100, 300, 1001], "data.verses: labels: 1001 is more than the 1000"),
    (f"{D}.task.classes", 11, f"{D}.task.classes: digits has 10 classes, but the task expects 11"),
    (f"{D}.view.shift", 100, "view.shift 100 moves images of encoder.image_size 24 out of sight"),
    (f"{D}.view.shift", 23, None),
    # runs and data
    (f"{V}.data", "corpus", f"{V}.data: corpus contains corpus; expected images"),
    (f"{V}.split", "trian", f"{V}.split: no split trian; did you mean train?"),
    (f"{T}.view.max_tokens", 23, "23 is less than the block length of corpus, 24 tokens"),
    (f"{T}.encoder.vocab_size", 1999, "vocab_size 1999 differs from data.verses.vocab_size 2000"),
    (f"{C}.data", "digits", f"{C}.data: digits contains images; expected sentences"),
    (f"{C}.test_split", "tset", f"{C}.test_split: no split tset; did you mean test?"),
    (f"{C}.test_split", "train", f"{C}: test_split contains train, like train_split; evaluate"),
    (f"{C}.dev_split", "train", f"{C}: dev_split contains train, like train_split"),
    (f"{C}.train_split", "test", f"{C}: test_split contains test, like train_split"),
    (f"{C}.train_split", "train+test", f"{C}: test_split contains test, like train_split"),
    (f"{C}.train_split", "train+dev", f"{C}: dev_split contains dev, like train_split"),
    (f"{C}.dev_split", "dev+test", "test_split share test; confirm this with chosen_on_test"),
    (f"{C}.more", {"of training": "train"}, None),
    (f"{C}.more", {"other": "dve"}, f"{C}.more.other: no split dve; did you mean dev?"),
    (f"{D}.labels", "labels-10.{seed}", f"{D}.labels: no list labels-10.0; did you mean"),
    (f"{D}.seeds", [0, 12], f"{D}.labels: no list labels-100.12; did you mean"),
    (f"{W}.decode.lm", "corpus", f"{W}.decode.lm: corpus contains corpus; expected language model"),
    (f"{V}.start_from", "speech", f"{V}.start_from: pretrain.speech has a different encoder or"),
    (f"{C}.more", {"other": "test"}, None),
    (f"{C}.seeds", [2**63], f"{C}.seeds.0: Input should be less than 9223372036854775808, got"),
    (f"{V}.start_from", "vision", f"{V}.start_from: circular reference (vision -> vision)"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value", "said"), REFUSED, ids=[f"{k}={v}"[:60] for k, v, _ in REFUSED]
)
def test_what_cannot_work_is_one_line(
    tmp_path: Path, key: str, value: Any, said: str | None
) -> None:
    if said is None:  # accepted: the neighbour of what is refused
        load(tmp_path, changed((key, value)))
        return
    assert said in "\n".join(faults(tmp_path, changed((key, value))))


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a b", "-rf", "a\n", "é" * 51, "*"])
def test_names_of_runs_are_names_of_folders(tmp_path: Path, kind: str, name: str) -> None:
    """`..` would lead out of the experiment's folders, in which checkpoints are removed."""
    raw = changed()
    old = next(iter(raw[kind]))
    raw[kind] = {name if key == old else key: value for key, value in raw[kind].items()}
    for task in raw["finetune"].values():
        task["pretrain"] = (
            name if (kind, task["pretrain"]) == ("pretrain", old) else task["pretrain"]
        )
    (found,) = faults(tmp_path, raw)
    assert found.startswith(f"{kind}: {name!r} cannot be the name of a folder")


@pytest.mark.parametrize("name", ["../../thesis", "-o", ".", "x:y", "", "a b", "a.b", "é" * 51])
def test_names_of_data_sets_are_names_of_folders_and_stages(tmp_path: Path, name: str) -> None:
    raw = changed()
    raw["data"][name] = raw["data"].pop("digits")
    (found,) = faults(tmp_path, raw)
    assert found.startswith(f"data: {name!r} cannot be the name of a folder and of a stage")


def test_points_of_a_grid_have_different_names(tmp_path: Path) -> None:
    grid = {"lr": [1e-3, 0.00100000001], "steps": [9], "seeds": [99]}
    raw = changed((f"{C}.grid", grid))
    del raw["finetune"]["cola"]["settings"]
    (found,) = faults(tmp_path, raw)
    assert "lr: 0.001 and 0.00100000001 are both 0.001 in the names of runs" in found
    grid["lr"] = [1e-3, 0.00100001]
    load(tmp_path, raw)


@pytest.mark.parametrize("name", ["vision-base.2", "10min_x", "größe", "a" * 100])
def test_usual_names_of_runs_are_accepted(tmp_path: Path, name: str) -> None:
    raw = changed()
    raw["finetune"][name] = raw["finetune"].pop("cola")
    load(tmp_path, raw)


def test_metrics_of_one_split_do_not_replace_those_of_another(tmp_path: Path) -> None:
    swapped = ((f"{C}.dev_split", "test"), (f"{C}.test_split", "dev"), (f"{C}.more", {"x": "dev"}))
    found = faults(tmp_path, changed(*swapped))
    assert found == [
        f"{C}: more.x: the metrics of split dev would replace those of dev_split test; rename the"
        " split"
    ]


def test_every_fault_of_every_run_is_told_at_once(tmp_path: Path) -> None:
    raw = changed(
        (f"{V}.mask.patches", 17),
        (f"{V}.target.top_k", 9),
        (f"{S}.mask", {"kind": "token", "prob": 0.1}),
        (f"{C}.metrics", ["wer"]),
        (f"{C}.decode", {"beam": 5}),
    )
    found = faults(tmp_path, raw)
    assert len(found) == 5
    assert all(line.startswith(("pretrain.", "finetune.")) for line in found)


def test_texts_longer_than_positions_are_refused(tmp_path: Path) -> None:
    encoder = {"kind": "text", "vocab_size": 2000, "max_positions": 23, "absolute_positions": True}
    found = faults(tmp_path, changed((f"{T}.encoder", encoder)))
    assert found == [f"{T}: view.max_tokens 24 is more than encoder.max_positions 23"]
    encoder["max_positions"] = 63  # enough for the corpus, not for the tasks
    found = faults(tmp_path, changed((f"{T}.encoder", encoder)))
    assert len(found) == 3
    assert found[0].endswith(
        "max_tokens 64 is more than encoder.max_positions 63 (of pretrain.text)"
    )


def test_pairs_are_mixed_in_even_batches(tmp_path: Path) -> None:
    odd = {"batch": 45, "micro_batch": 15}
    found = faults(tmp_path, changed((f"{D}.view.mixup", 0.8), (f"{D}.train", odd)))
    assert found == [
        f"{D}: view.mixup and view.cutmix mix pairs: train.micro_batch 15 must be even"
    ]


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("micro_batch", "auto", "micro_batch auto is only for pre-training; give a number"),
        (
            "precision",
            "bfloat16",
            "precision bfloat16 is only for pre-training; use mixed or float32",
        ),
        ("cuda_graph", True, "cuda_graph true is only for pre-training; use auto or false"),
    ],
)
def test_what_only_a_pretraining_does_is_refused_in_finetuning(
    key: str, value: object, told: str, tmp_path: Path
) -> None:
    found = faults(tmp_path, changed((f"{D}.train", {"batch": 4, "micro_batch": 2, key: value})))
    assert found == [f"{D}: train.{told}"]


def test_a_head_that_is_not_there_is_nothing_to_start_from(tmp_path: Path) -> None:
    raw = changed()
    raw["pretrain"]["second"] = {**raw["pretrain"]["vision"], "start_from": "vision"}
    load(tmp_path, raw)
    raw["pretrain"]["vision"]["released"] = {"path": "weights"}
    assert "have no head to start from" in faults(tmp_path, raw)[0]
    raw["pretrain"]["second"]["backbone"] = {**raw["pretrain"]["vision"]["backbone"], "ffn_dim": 8}
    assert "has a different encoder or backbone" in faults(tmp_path, raw)[0]


def test_a_set_that_two_groups_make_is_refused(tmp_path: Path) -> None:
    glue = {"kind": "glue", "source": "x"}
    found = "\n".join(faults(tmp_path, changed(("data.glue", glue))))
    assert "data.glue: another group already prepares cola" in found


@pytest.mark.parametrize("key", ["optimiser.lr", "train.steps"])
def test_keys_that_have_moved_say_where_the_value_stands_now(tmp_path: Path, key: str) -> None:
    (found,) = faults(tmp_path, changed((f"{D}.{key}", 1)))
    what = "learning rate" if key == "optimiser.lr" else "number of steps"
    assert found.startswith(f"{D}.{key}: the {what} of a task belongs")
    assert "in settings or grid; remove this key" in found


def test_names_are_those_of_the_readers() -> None:
    """Parameters import no reader, so that data stages do not depend on each other's."""
    made = {name: holds for kind in (data.Glue, data.Verses) for name, holds in kind.makes.items()}
    for task in TASKS.values():
        assert data.Glue.makes[task.dataset].splits == tuple(task.splits)
        assert made[task.dataset].classes == (len(task.classes) if task.classes else None)
    assert data.ImageNet.makes["imagenet"].splits == tuple(OFFICIAL["imagenet"])
    splits = (*OFFICIAL["librispeech"], "limited")  # and the small labelled subsets, as one split
    assert data.LibriSpeech.makes["librispeech"].splits == splits
    assert data.LibriSpeech.listed == list(FOLDERS)
    assert data.AudioSet.makes["audioset"].splits == tuple(SPLITS)
    assert {name for names in tasks.TASK_METRICS.values() for name in names} == set(METRICS)


# --- YAML -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 010\n", "line 1: 010 is an octal number in YAML"),
        ("a: 08\n", "line 1: 08 is an octal number in YAML"),
        ("b: 0\na: 1:30\n", "line 2: 1:30 is a base-60 number in YAML"),
        ("a: 1:30.5\n", "1:30.5 is a base-60 number in YAML"),
        ("a: 2024-13-45\n", "not valid YAML: month must be in 1..12"),
        ("a: !!int ''\n", "not valid YAML"),
        ("base: p.yaml\n", "base: circular reference (p.yaml -> p.yaml)"),
        ("base: [5]\n", "base: expected a file or a list of files"),
        ("base: .\n", "cannot be read: Is a directory"),
        ("base: none.yaml\n", "none.yaml: no such parameter file"),
        ("a: &a {b: *a}\n", "groups contain themselves"),
        ("templates: 3\n", "templates: expected a mapping of names to groups"),
        ("templates: {x: 3}\na: {like: x}\n", "a: template x is not a mapping"),
        ("a: {like: [x]}\n", "a: no template ['x']"),
    ],
)
def test_odd_yaml_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(params.ParamsError) as caught:
        params.read_params(path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["title", "data", "stages"])
@pytest.mark.parametrize("depth", [300, 900, 2000])
def test_values_nested_deeply_are_one_line(tmp_path: Path, key: str, depth: int) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(f"base: {MINI}\n{key}: {'[' * depth}{']' * depth}\n")
    with pytest.raises(params.ParamsError) as caught:
        params.load(path)
    assert f"{key}: " in str(caught.value) or "nested too deeply" in str(caught.value)
    assert str(caught.value).count("\n") <= 1


def test_files_that_name_each_other_as_base_are_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    with pytest.raises(params.ParamsError, match=r"reference \(a.yaml -> b.yaml -> a.yaml\)"):
        params.read_params(tmp_path / "a.yaml")
    (tmp_path / "c.yaml").write_text("x: 1\n")  # the same file twice is no circle
    (tmp_path / "d.yaml").write_text("base: [c.yaml, c.yaml]\n")
    assert params.read_params(tmp_path / "d.yaml") == {"x": 1}


def test_a_folder_and_another_encoding_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("title: résumé\n".encode("latin-1"))
    for path, said in ((tmp_path, "cannot be read: Is a directory"), (latin, "not UTF-8")):
        assert cli.main(["check", "--params", str(path)]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {path}: {said}")
        assert error.count("\n") == 1


def test_decimal_and_hexadecimal_numbers_are_read(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("a: 10\nb: 0\nc: 0.5\nd: '010'\ne: 1_000\nf: -0.0\ng: 0x10\n")
    values = {"a": 10, "b": 0, "c": 0.5, "d": "010", "e": 1000, "f": 0.0, "g": 16}
    assert params.read_yaml(path) == values


# --- prepared data ----------------------------------------------------------------------------


def test_prepared_data_that_no_stage_writes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.yaml").write_text(f"base: {MINI}\nprepared: prepared/mni\n")
    assert cli.main(["check", "--params", "p.yaml"]) == 0  # nobody can tell
    (tmp_path / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    capsys.readouterr()
    assert cli.main(["check", "--params", "p.yaml"]) == 2
    said = capsys.readouterr().err
    assert said == (
        "error: p.yaml: 1 error\n  prepared: no stage of dvc.yaml writes into prepared/mni; did"
        " you mean prepared/mini?; set prepared or stages\n"
    )
    for name in runs.all_datasets(params.load("p.yaml")):  # prepared by hand
        (tmp_path / "prepared/mni" / name).mkdir(parents=True)
        (tmp_path / "prepared/mni" / name / "meta.json").write_text("{}")
    assert cli.main(["check", "--params", "p.yaml"]) == 0


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ("missing.yaml", "missing.yaml not found; name an existing DVC file"),
        (".", ".: cannot be read (Is a directory); name a DVC file"),
        ("p.yaml", "p.yaml: has no stages; name a DVC file, such as dvc.yaml"),
        ("odd.yaml", "odd.yaml: a is not a stage, which has a cmd; correct the file"),
    ],
)
def test_a_file_that_has_no_stages_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stages: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    (tmp_path / "odd.yaml").write_text("stages: {a: 1}")
    (tmp_path / "p.yaml").write_text(f"base: {MINI}\nstages: {stages}\n")
    experiment = params.load("p.yaml")
    (found,) = prepared.unwritten(experiment, runs.all_datasets(experiment))
    assert found.startswith(f"stages: {said}")


@pytest.mark.parametrize("text", ["{a: {outs: 3, wdir: 3}}", "{a: {outs: [1, {}]}}", "{a: {}}"])
def test_odd_stages_write_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "dvc.yaml").write_text(f"vars: 3\nstages: {text}\n")
    assert prepared.outputs(tmp_path, "dvc.yaml") == set()


@pytest.mark.parametrize("name", ["mini", "mini-full", "paper", "ablations", "released"])
def test_stages_write_all_that_a_shipped_experiment_reads(name: str) -> None:
    experiment = params.load(ROOT / "params" / f"{name}.yaml")
    sets = [*runs.all_datasets(experiment)]
    assert not [*prepared.unwritten(experiment, sets, ROOT)]
    without = [*prepared.unwritten(experiment, [*sets, "none"], ROOT)]
    folder = experiment.prepared
    assert without == [f"prepared: no stage of {experiment.stages} writes {folder}/none"]


# --- influence --------------------------------------------------------------------------------

# of a pre-training and a fine-tuning: what may be changed without a run going again
IDLE = [
    (f"{V}.collapse.after", 7),
    (f"{V}.train.rebound", {"factor": 2.0, "steps": 3}),
    (f"{D}.validate_every", 7),
    (f"{D}.more", {}),
    (f"{D}.note", "other"),
]
BUSY = [
    (f"{V}.ema.start", 0.5),
    (f"{V}.loss.beta", 1.0),
    (f"{D}.schedule.warmup", 0.2),
    (f"{D}.settings.data2vec.steps", 7),
    (f"{W}.decode.beam", 7),
    (f"{D}.more", {"other": "dev"}),
]


def concerned(tmp_path: Path, before: dict[str, Any], *changes: tuple[str, Any]) -> set[str]:
    """Runs whose fingerprint a change of mini.yaml changes."""
    one = load(tmp_path, before)
    other = load(tmp_path, set_to(copy.deepcopy(before), *changes))
    then, now = runs.by_id(one), runs.by_id(other)
    return {id for id in then if then[id].fingerprint() != now[id].fingerprint()}


@pytest.mark.parametrize(("key", "value"), IDLE)
def test_what_does_nothing_reruns_nothing(tmp_path: Path, key: str, value: Any) -> None:
    assert concerned(tmp_path, changed(), (key, value)) == set()


@pytest.mark.parametrize(("key", "value"), BUSY)
def test_what_does_something_reruns_its_runs(tmp_path: Path, key: str, value: Any) -> None:
    found = concerned(tmp_path, changed(), (key, value))
    assert found
    name = key.split(".")[1]
    assert {run.split("/")[1] for run in found} <= {name, "digits"}


def test_validation_chooses_where_the_best_checkpoint_is_kept(tmp_path: Path) -> None:
    best = changed((f"{D}.keep", "best"))
    assert concerned(tmp_path, best, (f"{D}.validate_every", 7))


def test_a_constant_decay_has_no_start(tmp_path: Path) -> None:
    constant = changed((f"{V}.ema.anneal_steps", 0))
    assert not concerned(tmp_path, constant, (f"{V}.ema.start", 0.5))
    assert concerned(tmp_path, constant, (f"{V}.ema.end", 0.5))


@pytest.mark.slow
def test_released_weights_are_not_trained(tmp_path: Path) -> None:
    raw = changed((f"{V}.released", {"path": "weights"}))
    for key, value in (("loss.beta", 1.0), ("mask.patches", 9), ("released.url", "x")):
        assert not concerned(tmp_path, raw, (f"{V}.{key}", value)), key
    assert concerned(tmp_path, raw, (f"{V}.released.path", "other"))
    tuned = {"arms": ["data2vec"], "seeds": [0], "released": {"path": "weights"}}
    raw = changed(*((f"{D}.{key}", value) for key, value in tuned.items()))
    raw["finetune"]["digits"]["settings"].pop("scratch")
    for key, value in (("optimiser.eps", 1.0), ("labels", None), ("dropout", 0.5)):
        assert not concerned(tmp_path, raw, (f"{D}.{key}", value)), key
    assert concerned(tmp_path, raw, (f"{D}.more", {"other": "dev"}))


def test_cases_of_the_check(tmp_path: Path) -> None:
    """A file of a base alone that changes one value of it is checked as a whole."""
    path = tmp_path / "p.yaml"
    path.write_text(
        f"base: {MINI}\npretrain:\n  text:\n"
        "    encoder: {max_positions: 10, absolute_positions: true}\n"
    )
    assert read_params(path)["pretrain"]["text"]["encoder"]["max_positions"] == 10
    with pytest.raises(params.ParamsError, match=r"is more than encoder\.max_positions 10"):
        params.load(path)


# --- baselines --------------------------------------------------------------------------------


def twins(*changes: tuple[str, Any]) -> dict[str, Any]:
    """mini-full.yaml, which has baselines, with dotted keys set to other values."""
    return set_to(json.loads(json.dumps(read_params(MINI.with_name("mini-full.yaml")))), *changes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            ("pretrain.vision-input.mask.patches", 9),
            "differs from pretrain.vision in mask, so that",
        ),
        (("pretrain.vision-input.train.steps", 9), "differs from pretrain.vision in train.steps,"),
        (("pretrain.vision-input.backbone.depth", 2), "in backbone, so that a comparison"),
        (("finetune.digits.baseline", "vison-input"), "did you mean vision-input?"),
        (("finetune.digits.baseline", "vision"), "pretrain.vision has a teacher"),
        (("finetune.digits.baseline", None), "arms has input, but no baseline names"),
        (("finetune.digits.arms", ["scratch", "data2vec"]), "no effect without input in arms"),
    ],
)
def test_arms_differ_in_nothing_but_the_target(
    tmp_path: Path, change: tuple[str, Any], said: str
) -> None:
    found = faults(tmp_path, twins(change))
    assert any("finetune.digits" in line and said in line for line in found)


def test_null_leaves_out_an_arm_of_the_template(tmp_path: Path) -> None:
    path = tmp_path / "few.yaml"
    few = "{like: spoken-digits, column: few, arms: [input, data2vec], settings: {scratch: null}}"
    path.write_text(f"base: {MINI.resolve()}\nname: few\nfinetune: {{few: {few}}}\n")
    task = params.load(path).finetune["few"]
    assert task.arms == ["input", "data2vec"]
    assert task.settings is not None
    assert task.settings.keys() == {*task.arms}


def test_an_arm_of_the_input_reruns_no_other() -> None:
    """Fingerprints of the other arms are those of an experiment without a baseline."""
    with_it = params.load(MINI.with_name("mini-full.yaml"))
    tasks = {
        name: task.model_copy(
            update={"baseline": None, "arms": [arm for arm in task.arms if arm != "input"]}
        )
        for name, task in with_it.finetune.items()
    }
    without = with_it.model_copy(update={"finetune": tasks})
    for run in runs.all_runs(without):
        assert run.defining() == runs.parse(with_it, run.id).defining()
