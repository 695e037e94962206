"""d2v.finetune and d2v.pretrain: the workflow's runs bit for bit, and data in memory."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import workspace
from own_builds import folder as checkpoint_of
from own_builds import images, waves
from PIL import Image
from safetensors.torch import load_file

import d2v
from d2v import params
from d2v.experiment import execute, runs
from d2v.util.errors import UserError
from d2v.util.files import read_json

GIVEN = """\
base: tiny.yaml
name: library
finetune:
  digits:
    grid: null
    settings:
      scratch: {lr: 1e-3, steps: 4}
      data2vec: {lr: 1e-3, steps: 4}
"""
SETS = {"digits": "digits", "spoken-digits": "spoken_digits", "cola": "cola"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = workspace.make(tmp_path_factory.mktemp("library"))
    (made / "params/library.yaml").write_text(GIVEN)
    return made


def done(experiment: params.Experiment, name: str) -> dict:
    """metrics.json of a run of the workflow."""
    run = runs.parse(experiment, name)
    if not run.metrics_path.exists():
        execute.execute(run)
    found = read_json(run.metrics_path)
    assert found
    return found


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def equal(a: Path, b: Path) -> bool:
    first, second = weights(a), weights(b)
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.slow
@pytest.mark.parametrize("task", SETS)
def test_fine_tuning_is_the_workflows_bit_for_bit(place, monkeypatch, task):
    monkeypatch.chdir(place)
    experiment = params.load("params/library.yaml")
    block = experiment.finetune[task]
    start = done(experiment, f"pretrain/{block.pretrain}/seed0")
    wanted = done(experiment, f"finetune/{task}/data2vec/seed0")
    lines = []
    found = d2v.finetune(
        start["checkpoint"],
        f"prepared/tiny/{SETS[task]}",
        task=block,
        seed=0,
        out=f"out/{task}",
        callbacks=[lines.append],
    )
    assert found.metrics == wanted["metrics"]
    assert equal(found.checkpoint, Path(wanted["checkpoint"]))
    for split in found.metrics:
        theirs = place / f"results/library/runs/finetune/{task}/data2vec/seed0"
        name = f"predictions-{split}.tsv"
        assert (found.folder / name).read_bytes() == (theirs / name).read_bytes()
        assert len(found.predictions(split)) == len((theirs / name).read_text().splitlines()) - 1
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert [line["loss"] for line in found.log] == [line["loss"] for line in lines]
    with pytest.raises(UserError, match="contains a finished run"):
        d2v.finetune(start["checkpoint"], "prepared/tiny/digits", task=block, out=f"out/{task}")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vision", "speech", "text"])
def test_pre_training_is_the_workflows_bit_for_bit(place, monkeypatch, name):
    monkeypatch.chdir(place)
    wanted = done(params.load("params/library.yaml"), f"pretrain/{name}/seed0")
    found = d2v.pretrain("params/library.yaml", name=name, out=f"out/{name}")
    assert equal(found.checkpoint, Path(wanted["checkpoint"]))
    assert found.model().params.backbone.depth == 2


def shapes(count: int, seed: int) -> list[tuple[np.ndarray, str]]:
    """Pictures whose upper or lower half is bright."""
    random, found = np.random.default_rng(seed), []
    for i in range(count):
        pixels = random.integers(0, 40, (24, 24, 3), np.uint8)
        pixels[12 * (i % 2) :][:12] += 180
        found.append((pixels, ("upper", "lower")[i % 2]))
    return found


@pytest.mark.slow
def test_pictures_in_memory(tmp_path):
    start = d2v.load(checkpoint_of(tmp_path / "start", "vision", task=None, outputs=None))
    before = {k: t.clone() for k, t in start.state_dict().items()}
    train = pd.DataFrame(shapes(32, 0), columns=["image", "what"])
    found = d2v.finetune(
        start, train, shapes(12, 1), task="classify", steps=10, lr=3e-3, batch=8,
        out=tmp_path / "out",
    )  # fmt: skip
    assert found.metrics.keys() == {"dev"}
    table = found.predictions()
    assert found.metrics["dev"]["accuracy"] == (table.reference == table.prediction).mean()
    assert list(table) == ["id", "reference", "prediction"]
    tuned = found.model()
    assert tuned.classes == ["lower", "upper"]
    assert tuned.inputs.mean == pytest.approx(start.inputs.mean)  # the weights' own
    pictures = [Image.fromarray(pixels) for pixels, _ in shapes(12, 1)]
    said = [one.prediction for one in d2v.classify(tuned, pictures)]
    assert said == [tuned.classes[int(i)] for i in table.prediction]
    assert all(torch.equal(t, before[k]) for k, t in start.state_dict().items())


@pytest.mark.slow
def test_recordings_and_texts_in_memory(tmp_path, small_prepared):
    start = checkpoint_of(tmp_path / "speech", "speech", task=None, outputs=None)
    files = waves(tmp_path, (9000, 9500, 10_000, 11_000))
    said = ["a b", "b a", "ab", "ba"]
    random = np.random.default_rng(0)
    dev = [((random.standard_normal(24_000).astype(np.float32) / 10, 48_000), "a b")]
    found = d2v.finetune(
        start, list(zip(files, said, strict=True)), dev, task="ctc", steps=2, batch=2
    )
    assert found.metrics["dev"].keys() == {"wer", "cer"}
    assert {"A", "a"} & set(found.model().letters)
    text = checkpoint_of(
        tmp_path / "text", "text", small_prepared / "tokenizer", task=None, outputs=None
    )
    pairs = [("the cat sat", "good"), ("a dog", "bad"), ("no man", "good"), ("gold", "bad")]
    held = [("the dog sat", "good"), ("a cat", "bad")]
    tested = [("an island", "good"), ("a man", "bad")]
    found = d2v.finetune(text, pairs, held, tested, task="classify", steps=2, batch=2)
    assert found.metrics.keys() == {"dev", "test"}
    assert found.model().classes == ["bad", "good"]


@pytest.mark.slow
def test_pre_training_on_what_is_in_memory(place, tmp_path):
    recipes = params.load(place / "params/library.yaml").pretrain
    pictures = [pixels for pixels, _ in shapes(8, 0)]
    lines = []
    found = d2v.pretrain(recipes["vision"], pictures, callbacks=[lines.append])
    assert len(lines) == recipes["vision"].train.steps
    assert found.metrics == {}
    (features,) = found.model().features(images(tmp_path, ((24, 24),)), layers=-1)
    assert features.states.isfinite().all()
    recipe = recipes["speech"].model_dump()
    d2v.pretrain(recipe, [str(file) for file in waves(tmp_path, (8000, 9000, 10_000, 7000))])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"train": [1, 2], "dev": []}, "example 0: not a pair"),
        ({"train": [(1, 2)]}, "finetune: give dev"),
        ({"train": "nowhere"}, "nowhere: not a prepared set"),
        ({"train": "nowhere", "dev": []}, "a prepared set has its own dev and test splits"),
        ({"train": [(np.zeros(3), "a")], "dev": [], "task": "sing"}, "no examples"),
    ],
)
def test_what_cannot_be_data_is_refused(tmp_path, given, said):
    start = d2v.load(checkpoint_of(tmp_path / "start", "vision"))
    with pytest.raises(UserError, match=said):
        d2v.finetune(start, **{"task": "classify", **given})
