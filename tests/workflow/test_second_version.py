"""data2vec 2.0 in small, in all modalities: through the workflow to table cells and to exports.

The workflow is killed on the way.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import workspace
import yaml

import d2v
from d2v import params
from d2v.experiment import execute, runs
from d2v.interop.convert import convert
from d2v.util.errors import UserError

pytestmark = pytest.mark.slow
NAME = "params/second.yaml"
DECODER = {"layers": 2, "dim": 8, "kernel": 3, "groups": 2, "dropout": 0.1}
SECOND: dict[str, Any] = {
    "vision": {
        "encoder": {
            "cls_token": False,
            "extra_tokens": 1,
            "fixed_positions": True,
            "input_norm": True,
        },
        "backbone": {"norm_first": False, "final_norm": False, "prenet_depth": 1},
        "target": {"top_k": 1, "feature": "ffn", "layer_norm": "instance", "final_norm": "layer"},
        "loss": {"beta": 0.0, "reduction": "sum_sqrt_dim", "class_weight": 2.56},
        "mask": {"kind": "inverse_block", "prob": 0.75, "adjust": 0.1, "length": 2},
        "seeds": [0],
    },
    "speech": {
        "encoder": {"position_padding": "never", "dropout": 0.1},
        "backbone": {"position_bias": {"kind": "alibi"}, "layer_drop": 0.1},
        "mask": {"kind": "span", "prob": 0.5, "length": 2},
        "ema": {"shared": ["features"]},
    },
    "text": {
        "target": {"layer_norm": "instance"},
        "loss": {"beta": 0.0},
        "mask": {"kind": "random", "prob": 0.48},
        "ema": {"shared": ["features", "positions", "norm"]},
    },
}  # fmt: skip
ALL = {"regression": "none", "decoder": DECODER, "copies": 3}


def second(folder: Path) -> Path:
    """Parameters of the tiny experiment with version 2 in all modalities, and fewer runs."""
    raw = json.loads(json.dumps(params.read_yaml(folder / "params/tiny.yaml")))
    raw["name"] = "second"
    for name, group in raw["pretrain"].items():
        for key, value in (SECOND[name] | ALL).items():
            merged = isinstance(value, dict) and key not in ("mask", "decoder")
            group[key] = {**group[key], **value} if merged else value
        group["encoder"]["hidden"] = "removed"
        group["optimiser"]["decay"] = "dimensions"
    for task in raw["finetune"].values():
        task |= {"seeds": [0], "arms": ["data2vec"]}
        task.pop("grid", None)
        task["settings"] = {"data2vec": {"lr": 1e-3, "steps": 4}}
    raw["finetune"]["spoken-digits"]["view"] = {
        "kind": "speech", "mask": {"kind": "span", "prob": 0.3, "length": 2},
    }  # fmt: skip
    (folder / NAME).write_text(yaml.safe_dump(raw, sort_keys=False))
    return folder


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the workflow was killed in a pre-training, then finished."""
    folder = second(workspace.make(tmp_path_factory.mktemp("second")))
    command = [sys.executable, "-m", "d2v.cli", "reproduce", "--params", NAME]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=folder, start_new_session=True, **quiet)
    end = time.monotonic() + 300
    while not any((folder / "work/second").glob("pretrain/*/seed0/checkpoints/step-2")):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    ran = workspace.call(folder, *command[2:])
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return folder


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As many threads as the jobs of the workflow have: the order of sums depends on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def metrics(folder: Path, run: str) -> dict[str, Any]:
    found = json.loads((folder / "results/second/runs" / run / "metrics.json").read_text())
    for name in ("provenance", "train_s", "examples_per_s", "steps_per_s", "checkpoint"):
        found.pop(name, None)
    return dict(found)


def test_a_killed_workflow_ends_as_an_undisturbed_one(
    killed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    folder = second(workspace.make(tmp_path))
    monkeypatch.chdir(folder)
    for run in runs.all_runs(params.load(folder / NAME)):
        execute.execute(run)
        assert metrics(folder, run.id) == metrics(killed, run.id)


def test_every_table_has_the_cell(killed: Path) -> None:
    tables = killed / "results/second/tables"
    for table, column in (("imagenet", "two classes"), ("librispeech", "noise"), ("glue", "CoLA")):
        text = (tables / f"{table}.md").read_text()
        assert column in text
        rows = [line for line in text.splitlines() if line.startswith("| data2vec")]
        assert any(char.isdigit() for char in "".join(rows[:1]).removeprefix("| data2vec")), text


def checkpoint(killed: Path, run: str) -> Path:
    found = json.loads((killed / "results/second/runs" / run / "metrics.json").read_text())
    return killed / found["checkpoint"]


@pytest.mark.parametrize("name", ["vision", "speech", "text"])
def test_a_pretraining_is_exported_and_read_again(name: str, killed: Path, tmp_path: Path) -> None:
    """All parts come back equal: student, decoder, and the teacher with what it shares."""
    source = checkpoint(killed, f"pretrain/{name}/seed0")
    one = d2v.load(source)
    convert(source, "d2v", tmp_path / "out")
    other = d2v.load(tmp_path / "out")
    assert other.params == one.params
    assert other.decoder is not None
    assert other.teacher is not None
    weights = other.state_dict()
    for key, tensor in one.state_dict().items():
        assert torch.equal(weights[key], tensor), key
    assert torch.equal(_features(one), _features(other))


def _features(model: Any) -> torch.Tensor:
    torch.manual_seed(0)
    batch = {
        "vision": {"images": torch.randn(2, 1, 24, 24)},
        "speech": {"waves": torch.randn(2, 4000)},
        "text": {"tokens": torch.randint(4, 60, (2, 12))},
    }[model.params.encoder.kind]
    if model.params.encoder.kind == "vision":
        batch = {"images": torch.randn(2, model.params.encoder.channels, 24, 24)}
    with torch.no_grad():
        output, _ = model.student(batch)
    states, _, _ = model.hidden(batch)
    assert torch.equal(states[-1], output.x)
    assert len(states) == model.params.backbone.depth + 1
    return torch.cat([s.flatten() for s in states])


def test_a_fine_tuned_model_is_exported_and_predicts_the_same(killed: Path, tmp_path: Path) -> None:
    source = checkpoint(killed, "finetune/cola/data2vec/seed0")
    convert(source, "d2v", tmp_path / "out")
    tokens = {"tokens": torch.randint(4, 60, (2, 12))}
    logits = [d2v.load(path).hidden(tokens)[1] for path in (source, tmp_path / "out")]
    assert logits[0] is not None
    assert torch.equal(*logits)


def test_hugging_face_has_no_class_for_it(killed: Path, tmp_path: Path) -> None:
    for name in ("vision", "speech", "text"):
        with pytest.raises(UserError, match="Hugging Face has no class"):
            convert(checkpoint(killed, f"pretrain/{name}/seed0"), "hf", tmp_path / name)
