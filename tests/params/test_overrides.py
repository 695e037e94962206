"""`--set KEY=VALUE`: validated like the file, and never under the file's own name."""

from pathlib import Path

import pytest
from workspace import ROOT

from d2v import params
from d2v.experiment import runs
from d2v.params import overrides

TINY = ROOT / "tests/params/tiny.yaml"
LR = "pretrain.vision.optimiser.lr=5e-3"


def test_an_override_replaces_the_value_and_nothing_else() -> None:
    ours, theirs = overrides.load_overridden(TINY, [LR]), params.load(TINY)
    assert ours.pretrain["vision"].optimiser.lr == 0.005 != theirs.pretrain["vision"].optimiser.lr
    a, b = ours.model_dump(), theirs.model_dump()
    a["pretrain"]["vision"]["optimiser"]["lr"] = b["pretrain"]["vision"]["optimiser"]["lr"]
    assert {key for key in a if a[key] != b[key]} == {"name", "title"}
    assert ours.title == "tiny (pretrain.vision.optimiser.lr=0.005)"


def test_the_fingerprint_contains_it_and_the_name_a_hash() -> None:
    run = "pretrain/vision/seed0"
    ours, theirs = overrides.load_overridden(TINY, [LR]), params.load(TINY)
    assert runs.parse(ours, run).fingerprint() != runs.parse(theirs, run).fingerprint()
    assert ours.name.startswith("tiny-set-")
    other = overrides.load_overridden(TINY, [LR.replace("5e-3", "2e-3")])
    assert len({ours.name, other.name, theirs.name}) == 3
    same = overrides.load_overridden(TINY, [LR.replace("5e-3", "0.005")])
    assert same.name == ours.name
    assert runs.parse(ours, run).results != runs.parse(theirs, run).results


def test_null_removes_a_run_and_lists_are_yaml() -> None:
    found = overrides.load_overridden(TINY, ["finetune.cola=null", "finetune.digits.seeds=[4, 5]"])
    assert "cola" not in found.finetune
    assert found.finetune["digits"].seeds == [4, 5]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pretrain.vision.optimiser.lrr=1"], "lrr=1: unknown key; did you mean lr?"),
        (["pretrain.vison.optimiser.lr=1"], "no pretrain.vison; did you mean pretrain.vision?"),
        (["pretrian.vision.seeds=[1]"], "unknown key; did you mean pretrain?"),
        (["pretrain.vision.optimiser.lr=fast"], "should be a valid number, got 'fast'"),
        (["pretrain.vision.train.steps=-1"], "steps=-1: Input should be greater than 0, got -1"),
        (["pretrain.vision.train.steps.x=1"], "pretrain.vision.train.steps is 6, which has no"),
        (["data.digits.train=3"], "cannot be overridden; write a parameter file with `base:`"),
        (["base=mini.yaml"], "base=mini.yaml: unknown key"),
        (["steps"], "expected KEY=VALUE"),
        (["=3"], "expected KEY=VALUE"),
        (["title="], "has no value; write title=null for none"),
        (["title=[1"], "not valid YAML"),
        ([LR, LR], "set more than once"),
        (["pretrain.vision.seeds=[1]", "pretrain.vision={}"], "keys below pretrain.vision are set"),
        (["name=tiny"], "choose another one"),
        (["name=A b"], "--set name=A b: String should match"),
        (["finetune.nope=null"], "no finetune.nope"),
        (["finetune.digits.seeds=[1, 1]"], "1 is given more than once"),
    ],
)
def test_a_wrong_override_is_one_sentence(words: list[str], said: str) -> None:
    with pytest.raises(params.ParamsError) as caught:
        overrides.load_overridden(TINY, words)
    told = str(caught.value)
    assert told.startswith("--set ")
    assert said in told
    assert "\n" not in told


def test_the_name_of_another_file_is_refused(tmp_path: Path) -> None:
    for name in ("tiny", "other"):
        text = TINY.read_text().replace("name: tiny", f"name: {name}")
        (tmp_path / f"{name}.yaml").write_text(text)
    with pytest.raises(params.ParamsError, match="choose another"):
        overrides.load_overridden(tmp_path / "tiny.yaml", ["name=other", LR])
    assert overrides.load_overridden(tmp_path / "tiny.yaml", ["name=mine", LR]).name == "mine"


def test_errors_of_the_file_itself_come_first(tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text(TINY.read_text().replace("title: tiny", "titel: tiny"))
    with pytest.raises(params.ParamsError, match=r"wrong\.yaml: 2 errors"):
        overrides.load_overridden(tmp_path / "wrong.yaml", [LR])
