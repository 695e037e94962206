"""What `--json` prints is what the schemas say; an independent validator compares them."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from workspace import ROOT

from d2v.cli import commands as cli
from d2v.cli import schemas

TINY = str(ROOT / "tests/params/tiny.yaml")
REPORTS = {
    "check": schemas.CheckReport,
    "plan": schemas.PlanReport,
    "status": schemas.StatusReport,
    "verify": schemas.VerifyReport,
    "compare": schemas.CompareReport,
    "doctor": schemas.DoctorReport,
}


def report(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict[str, Any]:
    """The report that a command prints, valid under its schema and without NaN."""
    capsys.readouterr()
    assert cli.main([*words, "--json"]) == code
    said = capsys.readouterr()
    assert said.err == ""
    found: dict[str, Any] = json.loads(said.out, parse_constant=pytest.fail)
    schema = REPORTS[words[0]].model_json_schema()
    jsonschema.validate(found, schema)
    assert set(found) == set(schema["properties"])
    assert found["format"] == f"d2v.{words[0]}/1"
    return found


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_check_counts_or_lists_errors(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = report(capsys, "check", TINY)
    assert found["valid"]
    assert found["runs"] == {"pretrain": 4, "select": 4, "finetune": 12, "decode": 0}
    wrong = (ROOT / "tests/params/tiny.yaml").read_text().replace("title: tiny", "titel: tiny")
    (here / "wrong.yaml").write_text(wrong)
    found = report(capsys, "check", "wrong.yaml", code=2)
    assert not found["valid"]
    assert found["experiment"] is None
    assert sorted(found["errors"]) == ["titel: unknown key; did you mean title?", "title: missing"]
    found = report(capsys, "check", TINY, "--set", "pretrain.x.seeds=[1]", code=2)
    assert found["overrides"] == ["pretrain.x.seeds=[1]"]
    assert found["errors"][0].startswith("--set pretrain.x.seeds=[1]: no pretrain.x")


def test_plan_lists_every_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = report(capsys, "plan", TINY)
    assert len(found["jobs"]) == 20
    assert set(found["speed"]["flops"]) == {"vision", "speech", "text"}


def test_status_has_numbers(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = here / "work/tiny/pretrain/vision/seed0"
    folder.mkdir(parents=True)
    line = {"step": 3, "loss": float("nan"), "target_std": 0.5, "examples_per_s": 2.0}
    (folder / "log.jsonl").write_text(json.dumps(line) + "\n")
    found = report(capsys, "status", TINY)
    assert found["counts"] == {"missing": 20}
    run = found["runs"][0]
    assert run["run"] == "pretrain/vision/seed0"
    assert (run["step"], run["loss"], run["target_std"]) == (3, None, 0.5)
    assert run["job"] is None


def write_run(folder: Path, *predictions: int, metric: float = 0.0) -> str:
    folder.mkdir(parents=True)
    metrics = {"metrics": {"test": {"accuracy": metric}}, "name": folder.name}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    rows = "".join(f"t{i}\t{i % 2}\t{p}\n" for i, p in enumerate(predictions))
    (folder / "predictions-test.tsv").write_text("id\treference\tprediction\n" + rows)
    return str(folder)


def test_compare_names_the_better_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write_run(here / "good", *[0, 1] * 50)
    bad = write_run(here / "bad", *[0, 0] * 50)
    found = report(capsys, "compare", bad, good)
    assert (found["of"], found["better"], found["examples"]) == ("runs", "b", 100)
    assert (found["a"]["value"], found["b"]["value"]) == (0.5, 1.0)
    assert found["difference"]["value"] == 0.5
    assert found["changes"] == {"name": ["bad", "good"]}


def test_compare_of_arms_has_their_seeds(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arm, values in {"a": (0.5, 0.52, 0.51), "b": (0.5, 0.53, 0.49)}.items():
        for seed, value in enumerate(values):
            write_run(here / arm / f"seed{seed}", 0, metric=value)
    found = report(capsys, "compare", "a", "b")
    assert (found["of"], found["better"], found["examples"]) == ("arms", None, None)
    assert found["b"]["seeds"] == [0.5, 0.53, 0.49]
    assert found["a"]["low"] is None


def test_verify_lists_what_differs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(here / "results/tiny/runs/finetune/digits/scratch/seed0", 0, 1, 0, 0, metric=1.0)
    (here / "params").symlink_to(ROOT / "params")
    found = report(capsys, "verify", "results/tiny", "--params", TINY, code=2)
    assert not found["valid"]
    assert (found["runs"], found["numbers"]) == (1, 1)
    assert "accuracy is 1.0, its predictions give 0.75" in found["errors"][0]
