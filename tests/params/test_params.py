"""Parameter files: every shipped one loads; faults are told all at once, by name."""

from pathlib import Path

import pytest
import yaml
from mini_params import without_baselines

from d2v import params

ROOT = Path(__file__).parents[2]
MINI = ROOT / "params" / "mini.yaml"


def faults(tmp_path: Path, *changes: tuple[str, object]) -> str:
    """What is said of mini.yaml with dotted keys set to other values (None deletes a key)."""
    raw = without_baselines()
    for dotted, value in changes:
        *path, last = dotted.split(".")
        group = raw
        for key in path:
            group = group[key]
        if value is None:
            del group[last]
        else:
            group[last] = value
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(params.ParamsError) as caught:
        params.load(path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("pretrain.speech.target", [1], "kind: teacher or kind: input is expected, got [1]"),
        ("pretrain.speech.target", {"kind": {}}, "kind: teacher or kind: input is expected"),
        ("data.digits.kind", {1: 2}, "data.digits: no kind {1: 2} (known: audio_folder,"),
        ("data.digits.kind", "digts", "data.digits: no kind digts; did you mean digits?"),
        ("data.digits.kind", None, "data.digits: missing key kind"),
    ],
)
def test_a_kind_that_is_none_is_told(tmp_path: Path, key: str, value: object, message: str) -> None:
    assert message in faults(tmp_path, (key, value))


@pytest.mark.parametrize("name", ["mini", "mini-full"])
def test_experiments_load(name: str) -> None:
    experiment = params.load(ROOT / "params" / f"{name}.yaml")
    assert experiment.name == name


def test_a_base_file_is_overridden_key_by_key() -> None:
    mini, full = (params.load(ROOT / "params" / f"{n}.yaml") for n in ("mini", "mini-full"))
    assert full.pretrain["text"].backbone == mini.pretrain["text"].backbone
    assert full.pretrain["text"].seeds == [0, 1, 2]
    assert full.finetune["cola"].grid is not None
    assert full.finetune["cola"].settings is None


def test_all_faults_at_once_with_path_and_nearest_name(tmp_path: Path) -> None:
    said = faults(
        tmp_path,
        ("pretrain.vision.backbone.dept", 4),
        ("pretrain.speech.train.steps", "many"),
        ("pretrain.text.optimiser.lr", -1.0),
        ("finetune.digits.view.shft", 12),
    )
    assert "pretrain.vision.backbone.dept: unknown key; did you mean depth?" in said
    assert "pretrain.speech.train.steps: Input should be a valid integer, got 'many'" in said
    assert "pretrain.text.optimiser.lr: Input should be greater than 0, got -1.0" in said
    assert "finetune.digits.view.shft: unknown key; did you mean shift?" in said
    assert len(said.splitlines()) == 5


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("pretrain.text.target.top_k", 9, "target.top_k 9 is more than backbone.depth 2"),
        ("pretrain.text.train.batch", 41, "batch 41 is not a multiple of micro_batch 40"),
        ("pretrain.vision.encoder.patch_size", 5, "image_size 24 is not a multiple of"),
        ("pretrain.vision.backbone.position_bias.window", [3, 4], "window is [3, 4], but the"),
        ("pretrain.speech.backbone.heads", 5, "dim 96 is not a multiple of heads 5"),
        ("pretrain.speech.backbone.norm_first", True, "norm_first: true is not available for"),
        ("pretrain.text.optimiser.eps_before_correction", True, "needs missing_gradients: zero"),
        ("finetune.cola.pretrain", "txt", "no pretrain.txt; did you mean text?"),
        ("finetune.cola.data", "cla", "finetune.cola.data: no data set cla; did you mean cola?"),
        ("finetune.cola.test_split", "dev", "dev_split and test_split are the same"),
        ("finetune.cola.settings", None, "give either settings (one for each arm) or grid"),
        ("finetune.cola.table", "glu", "finetune.cola.table: Input should be"),
        ("name", None, "name: missing"),
    ],
)
def test_values_that_do_not_fit(tmp_path: Path, key: str, value: object, message: str) -> None:
    assert message in faults(tmp_path, (key, value))


def test_reported_seeds_never_choose_settings(tmp_path: Path) -> None:
    said = faults(
        tmp_path,
        ("finetune.cola.settings", None),
        ("finetune.cola.grid", {"lr": [0.001], "steps": [10], "seeds": [2, 10]}),
    )
    assert "settings must not be chosen on reported seeds" in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "duplicate key a"),
        ("a: [1\n", "not valid YAML"),
        ("- 1\n", "expected a mapping of keys to values"),
    ],
)
def test_files_that_are_no_parameters(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    with pytest.raises(params.ParamsError, match=message):
        params.load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(params.ParamsError, match=r"absent\.yaml: no such parameter file"):
        params.load(tmp_path / "absent.yaml")


def test_exponents_without_a_point_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "n.yaml"
    path.write_text("a: 1e-3\nb: 5\nc: 1.5\nd: -2E4\n")
    assert params.read_yaml(path) == {"a": 0.001, "b": 5, "c": 1.5, "d": -20000.0}
    assert isinstance(params.read_yaml(path)["b"], int)


def test_the_hash_follows_the_values() -> None:
    one = params.load(MINI).pretrain["vision"]
    other = one.model_copy(update={"seeds": [7]})
    assert params.hash_of(one) == params.hash_of(params.load(MINI).pretrain["vision"])
    assert params.hash_of(one) != params.hash_of(other)
