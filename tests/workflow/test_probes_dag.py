"""Probes as runs of the workflow: in the table, on the page, and recomputed by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import workspace
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

import d2v
from d2v.cli import commands as cli

pytestmark = pytest.mark.slow
C = [0.1, 10.0]
PARAMS: dict[str, Any] = {
    "base": "tiny.yaml",
    "name": "probed",
    "pretrain": {"speech": None, "text": None, "vision": {"train": {"probe_every": 3}}},
    "finetune": {
        "spoken-digits": None,
        "cola": None,
        "digits": {
            "seeds": [0],
            "labels": "labels-2.{seed}",
            "grid": None,
            "settings": {arm: {"lr": 1e-3, "steps": 2} for arm in ("scratch", "data2vec")},
            "probe": {"positions": "keep", "neighbours": 1, "c": C},
        },
    },
}
RUNS = Path("results/probed/runs")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which an experiment with probes was run, a probe by the workflow."""
    folder = workspace.make(tmp_path_factory.mktemp("probed"))
    path = folder / "params/probed.yaml"
    path.write_text(json.dumps(PARAMS))
    by_workflow = ("probe/digits/data2vec",)
    kinds = ("pretrain", "finetune", "probe")
    workspace.carry_out(folder, "params/probed.yaml", kinds, by_workflow)
    ran = workspace.snakemake(folder, file="params/probed.yaml")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return folder


def probe(folder: Path, arm: str) -> dict[str, Any]:
    return json.loads((folder / RUNS / f"probe/digits/{arm}/seed0/metrics.json").read_text())[
        "probe"
    ]


def by_hand(folder: Path, split: str) -> tuple[np.ndarray, list[int], list[str]]:
    """All patches side by side (N, layers, TD), from the image files; classes and names."""
    checkpoint = next((folder / "work/probed/pretrain/vision/seed0/checkpoints").glob("step-*"))
    files = sorted((folder / "layouts/images" / split).glob("*/*.JPEG"))
    found = d2v.features(d2v.load(checkpoint), files)
    values = np.array([[h[1:].flatten().numpy() for h in f.hidden.values()] for f in found])
    names = [f"{file.parent.name}/{file.stem}" for file in files]
    return values.astype(float), [int(file.parent.name == "n02") for file in files], names


def test_probes_of_the_workflow_are_what_scikit_learn_gives(done: Path) -> None:
    values, classes, names = by_hand(done, "train")
    listed = (done / "layouts/images/lists/labels-2.0.txt").read_text().split()
    rows = [names.index(name) for name in listed]
    found = probe(done, "data2vec")
    assert found["examples"]["train"] == len(rows) == 2
    assert len(found["layers"]) == 3
    y = [classes[row] for row in rows]
    for layer, entry in enumerate(found["layers"]):
        scaler = StandardScaler().fit(values[rows, layer])
        x = scaler.transform(values[rows, layer])
        near = KNeighborsClassifier(1, metric="cosine").fit(x, y)
        fits = [LogisticRegression(C=c, max_iter=2000).fit(x, y) for c in C]
        parts = {split: by_hand(done, split) for split in ("dev", "test")}
        scaled = {split: scaler.transform(part[0][:, layer]) for split, part in parts.items()}
        best = max(fits, key=lambda fit: fit.score(scaled["dev"], parts["dev"][1]))
        for split, part in parts.items():
            assert entry["knn"][split] == near.score(scaled[split], part[1])
            assert entry["linear"][split] == best.score(scaled[split], part[1])


def test_the_command_gives_what_the_run_gave(done: Path, monkeypatch) -> None:
    monkeypatch.chdir(done)
    checkpoint = next(Path("work/probed/pretrain/vision/seed0/checkpoints").glob("step-*"))
    words = ["probe", str(checkpoint), "--data", "prepared/tiny/digits", "--labels", "labels-2.0"]
    words += ["--positions", "keep", "--neighbours", "1", "--c", *map(str, C)]
    assert cli.main([*words, "--device", "cpu", "-o", "probe.json"]) == 0
    found, wanted = json.loads(Path("probe.json").read_text()), probe(done, "data2vec")
    assert {key: found[key] for key in wanted} == wanted


def test_table_and_page_show_them(done: Path) -> None:
    table = (done / "results/probed/tables/imagenet.md").read_text()
    assert "## Probes of frozen features" in table
    section = table.split("## Probes of frozen features")[1]
    scores = [100 * entry["linear"]["test"] for entry in probe(done, "data2vec")["layers"]]
    told = ", ".join(f"{score:.1f}" for score in scores)
    assert f"data2vec (this run), linear by layer, from the input of the first block: {told}." in (
        section
    )
    assert "| random weights " in section
    page = (done / "results/probed/index.html").read_text()
    assert 'id="digits-layers"' in page
    assert "Linear probe by layer: two classes" in page


def test_pre_training_logged_a_probe(done: Path) -> None:
    log = (done / "work/probed/pretrain/vision/seed0/log.jsonl").read_text().splitlines()
    validations = [json.loads(line).get("validation") for line in log]
    shown = [v for v in validations if v]
    assert len(shown) == 2
    assert all(0 <= v["position_share"] <= 1 and 0 <= v["knn"] <= 1 for v in shown)
