"""Data of one's own in a variant is prepared, or refused; never left out without a word."""

from pathlib import Path

import pytest
import yaml

from d2v import params
from d2v.cli import commands as cli
from d2v.data.own_stages import write_stages
from d2v.experiment import contents, runs
from d2v.util.errors import UserError

ROOT = Path(__file__).parents[2]
OWN = {"glue": {"source": "/datasets/plue"}, "text": {"block": 256}}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout's parameters and stages."""
    for name in ("params", "workflow", "dvc.yaml"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "own").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def variant(root: Path, **values: object) -> Path:
    path = root / "own" / "variant.yaml"
    path.write_text(yaml.safe_dump({"base": "../params/paper.yaml", "name": "variant", **values}))
    return path


def test_data_that_the_stages_do_not_read_is_refused(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = variant(root, data=OWN)
    assert cli.main(["check", "--params", str(path)]) != 0
    said = capsys.readouterr().err
    assert "data.glue.source: /datasets/plue, but the stages prepare it with /datasets" in said
    assert "data.text.block: 256, but the stages prepare it with 512 (params/paper.yaml)" in said
    assert said.count("data.") == 2


def test_a_variant_of_the_miniature_is_compared_with_its_stages(root: Path) -> None:
    path = root / "own" / "mini.yaml"
    own = {"digits": {"train": 1000}}
    path.write_text(yaml.safe_dump({"base": "../params/mini.yaml", "data": own}))
    with pytest.raises(params.ParamsError, match=r"data\.digits\.train: 1000, but .* with 3500"):
        params.check_stages(params.load(path))


def test_other_runs_on_the_same_data_are_a_variant(root: Path) -> None:
    path = variant(root, pretrain={"speech-base": {"target": {"top_k": 6}}})
    params.check_stages(params.load(path))


def test_data_and_stages_of_ones_own_are_not_compared_with_others(root: Path) -> None:
    stages = (root / "workflow/paper/dvc.yaml").read_text()
    ours = stages.replace("../../params/paper.yaml", "variant.yaml").replace("/paper/", "/own/")
    (root / "own" / "dvc.yaml").write_text(ours)
    own = {"stages": "own/dvc.yaml", "prepared": "prepared/own", "data": OWN}
    params.check_stages(params.load(variant(root, **own)))
    params.check_stages(params.load(variant(root, prepared="elsewhere", data=OWN)))


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "params").glob("*.yaml")), ids=lambda p: p.name)
def test_shipped_experiments_are_what_their_stages_prepare(path: Path, root: Path) -> None:
    if "pretrain" in params.read_params(path):
        params.check_stages(params.load(path))


def photographs(path: Path, name: str) -> Path:
    """An experiment on photographs of one's own, whose data set has the given name."""
    text = (ROOT / "params/own/photographs.yaml").read_text()
    text = text.replace("  photographs:\n    kind", f"  {name}:\n    kind")
    text = text.replace("data: photographs", f"data: {name}")
    path.write_text(text.replace("../recipes", str(ROOT / "params/recipes")))
    return path


@pytest.fixture
def own(root: Path) -> Path:
    """A checkout in which the stages of one's own can be written."""
    (root / "workflow").unlink()
    (root / "workflow/own").mkdir(parents=True)
    (root / "workflow/own/template.yaml").symlink_to(ROOT / "workflow/own/template.yaml")
    return root


def test_a_data_set_of_ones_own_can_be_renamed(own: Path) -> None:
    path = photographs(own / "own" / "x.yaml", "photographs")
    write_stages(path, params.load(path))
    photographs(path, "renamed")
    assert cli.main(["check", str(path)]) == 0
    assert cli.main(["data", str(path), "--list", "renamed"]) == 0


def test_a_missing_set_names_the_command_that_prepares_it(own: Path) -> None:
    experiment = params.load(photographs(own / "own" / "x.yaml", "renamed"))
    run = next(run for run in runs.all_runs(experiment) if "renamed" in run.datasets)
    with pytest.raises(UserError, match="run `d2v data FILE` with the parameter"):
        contents.contents(run)


def test_a_set_that_no_stage_of_ones_own_writes_is_refused(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = photographs(own / "own" / "x.yaml", "photographs")
    digits = yaml.safe_load((ROOT / "params/mini.yaml").read_text())["data"]["digits"]
    raw = {"base": "x.yaml", "data": {"digits": digits}}
    raw["finetune"] = {"photographs": {"data": "digits", "task": {"classes": 10}}}
    (own / "own" / "y.yaml").write_text(yaml.safe_dump(raw))
    assert path.exists()
    assert cli.main(["check", "own/y.yaml"]) == 2
    assert "no stage of workflow/own/photographs/dvc.yaml writes" in capsys.readouterr().err
