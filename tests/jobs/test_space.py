"""Disk space of prepared sets: what is there is measured, the rest follows from what is read."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from own_sets import params_of, photos, prepared, sentences

from d2v import params
from d2v.jobs import plan, space

ROOT = Path(__file__).parents[2]


def sizes(name: str) -> dict[str, tuple[float | None, bool]]:
    experiment = params.load(ROOT / "params" / f"{name}.yaml")
    return plan.disk(experiment, plan.plan(experiment, plan.speed_of("a100", 0.3, None)))


@pytest.mark.slow
def test_the_public_sets_need_what_their_stages_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three subsets of LibriSpeech and WikiText-103, not all of LibriSpeech and Wikipedia."""
    monkeypatch.chdir(ROOT)
    found = sizes("public")
    assert found["librispeech"] == (pytest.approx(6.3 + 0.34 + 0.35 + 0.3), False)
    assert found["corpus"] == (pytest.approx(0.27), False)
    assert sum(size or 0.0 for size, _ in found.values()) < 13
    paper = sizes("paper")
    assert paper["librispeech"] == (pytest.approx(60.6, abs=0.1), False)
    assert paper["corpus"] == (7, False)


def own(root: Path, name: str, group: dict[str, Any]) -> params.Experiment:
    path = params_of(root / "params", name, **group)
    return params.load(path)


def test_own_sets_are_estimated_from_their_files_until_they_are_prepared(tmp_path: Path) -> None:
    splits = {"folders": {"train": "train", "dev": "dev", "test": "test"}}
    files = photos(tmp_path / "files")
    group = {"kind": "image_folder", "source": str(files), "splits": splits, "classes": 2}
    experiment = own(tmp_path, "pictures", group)
    total = sum(f.stat().st_size for f in files.rglob("*.*")) / 1e9
    assert space.prepared(experiment, ["pictures", "absent"], tmp_path) == {
        "pictures": (pytest.approx(total), False),
        "absent": (None, False),
    }
    out = prepared(tmp_path / experiment.prepared / "pictures", **group)
    measured = sum(f.stat().st_size for f in out.rglob("*") if f.is_file()) / 1e9
    found = space.prepared(experiment, ["pictures", "pictures"], tmp_path)
    assert found == {"pictures": (pytest.approx(measured), True)}


def test_a_set_without_an_estimate_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from d2v.cli import plan as command

    monkeypatch.chdir(ROOT)
    values = yaml.safe_load((ROOT / "params/own/sentences.yaml").read_text())
    values["base"] = str(ROOT / "params/recipes/text.yaml")
    values["data"]["sentences"]["source"] = str(sentences(tmp_path / "files"))
    path = tmp_path / "sentences.yaml"
    path.write_text(yaml.safe_dump(values))
    command.main([str(path)])
    assert "prepared sets 0 B (unknown: sentences), checkpoints" in capsys.readouterr().out
