"""`d2v probe`: equal to transformers and scikit-learn; mistakes are reported in a sentence."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from own_builds import folder
from PIL import Image
from preparing import run
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

import d2v
from d2v.cli import commands as cli

SPLITS = {"train": 24, "dev": 16, "test": 16}  # images per class
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]  # of own_builds
C = [0.01, 1.0]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ImageFolder of noise with three classes: which colour is a little brighter."""
    root, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split, count in SPLITS.items():
        for c in range(3):
            (root / split / f"n{c}").mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 200, (4, 4, 3), np.uint8).repeat(6, 0).repeat(6, 1)
                pixels[:, :, c] += 40
                Image.fromarray(pixels).save(root / split / f"n{c}" / f"{i:02d}.png")
    return root


@pytest.fixture(scope="module")
def prepared(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "pictures"
    run("imagefolder", pictures, "-o", out)
    return out


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("checkpoint") / "c", "vision")


def by_transformers(checkpoint: Path, pictures: Path, split: str) -> tuple[np.ndarray, list[int]]:
    """Means over patches (N, layers, D) from transformers and Pillow alone, and the classes."""
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForImageClassification.from_pretrained(checkpoint).eval()
    rows, classes = [], []
    for path in sorted(pictures.joinpath(split).glob("*/*.png")):
        pixels = (np.asarray(Image.open(path), np.float32) / 255 - MEAN) / STD
        values = torch.from_numpy(pixels.transpose(2, 0, 1)[None].astype(np.float32))
        with torch.no_grad():
            states = model(pixel_values=values, output_hidden_states=True).hidden_states
        rows.append([state[0, 1:].mean(0).double().numpy() for state in states])
        classes.append(int(path.parent.name[1:]))
    return np.array(rows), classes


@pytest.mark.slow
def test_a_hugging_face_folder_scores_what_scikit_learn_gives(
    own: Path, pictures: Path, prepared: Path, tmp_path: Path, capsys
) -> None:
    checkpoint = d2v.convert(own, "hf", tmp_path / "hf")
    out = tmp_path / "probe.json"
    words = ["probe", str(checkpoint), "--data", str(prepared), "--device", "cpu"]
    assert cli.main([*words, "--c", *map(str, C), "--neighbours", "5", "-o", str(out)]) == 0
    found = json.loads(out.read_text())
    sets = {split: by_transformers(checkpoint, pictures, split) for split in SPLITS}
    assert [entry["layer"] for entry in found["layers"]] == [0, 1, 2]
    for layer, entry in enumerate(found["layers"]):
        scaler = StandardScaler().fit(sets["train"][0][:, layer])
        x = {split: scaler.transform(values[:, layer]) for split, (values, _) in sets.items()}
        y = {split: classes for split, (_, classes) in sets.items()}
        near = KNeighborsClassifier(5, metric="cosine").fit(x["train"], y["train"])
        fits = [LogisticRegression(C=c, max_iter=2000).fit(x["train"], y["train"]) for c in C]
        best = max(fits, key=lambda fit: fit.score(x["dev"], y["dev"]))
        for split in ("dev", "test"):
            assert entry["knn"][split] == near.score(x[split], y[split])
            assert entry["linear"][split] == best.score(x[split], y[split])
    scores = [entry["linear"]["test"] for entry in found["layers"]]
    assert max(scores) > 0.5  # chance is a third
    told = capsys.readouterr().out
    assert f"{100 * scores[1]:.1f}" in told
    assert "weights of the layers: " in told


def test_own_format_gives_the_same_and_layers_can_be_chosen(
    own: Path, prepared: Path, tmp_path: Path
) -> None:
    words = ["probe", str(own), "--data", str(prepared), "--device", "cpu", "--c", "1"]
    assert cli.main([*words, "-o", str(tmp_path / "all.json")]) == 0
    assert cli.main([*words, "--layers", "2,0", "-o", str(tmp_path / "two.csv")]) == 0
    assert cli.main([*words, "--layers", "-1", "-o", str(tmp_path / "two.csv")]) == 0  # its own
    whole = json.loads((tmp_path / "all.json").read_text())
    rows = list(csv.DictReader((tmp_path / "two.csv").open()))
    chosen = [row for row in rows if row["probe"] == "linear" and row["split"] == "test"]
    assert [row["layer"] for row in chosen] == ["2"]
    assert float(chosen[0]["accuracy"]) == whole["layers"][2]["linear"]["test"]
    assert whole["data_sha256"]
    assert whole["examples"] == {name: 3 * count for name, count in SPLITS.items()}


def test_texts_are_probed_and_mean_is_needed_where_lengths_differ(
    small_prepared: Path, tmp_path: Path, capsys
) -> None:
    checkpoint = folder(tmp_path / "c", "text", small_prepared / "tokenizer")
    words = ["probe", str(checkpoint), "--data", str(small_prepared / "SST-2"), "--device", "cpu"]
    assert cli.main([*words, "--neighbours", "3"]) == 0
    assert "best layer of the linear probe on dev: " in capsys.readouterr().out
    assert cli.main([*words, "--positions", "keep"]) == 2
    assert "differ in length; use mean" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--layers", "7"], "no layer 7: this model has layers 0 (the input of the first)"),
        (["--layers=-4"], "no layer -4: this model has layers 0"),
        (["--layers", "top"], "--layers top: give all"),
        (["--splits", "train", "dev", "none"], "has no split 'none'"),
        (["--labels", "none"], "none.txt: no such label list"),
        (["--neighbours", "0"], "--neighbours 0: "),
        (["-o", "out.txt"], "out.txt: give a file that ends with .json or .csv"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(
    own: Path, prepared: Path, tmp_path: Path, monkeypatch, capsys, words, told
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["probe", str(own), "--data", str(prepared), "--device", "cpu", *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert told in error
    assert not any(tmp_path.iterdir())


def test_sets_and_models_that_do_not_fit_are_named(
    own: Path, small_prepared: Path, tmp_path: Path, capsys
) -> None:
    text = folder(tmp_path / "text", "text", small_prepared / "tokenizer")
    speech = folder(tmp_path / "speech", "speech")
    for checkpoint, data, told in (
        (own, "SST-2", "prepared as glue, not as imagefolder"),
        (text, "STS-B", "its labels are no classes, which probes need"),
        (speech, "speech", "no set of classes for an encoder of kind speech"),
        (own, "none", "missing"),
    ):
        words = ["probe", str(checkpoint), "--data", str(small_prepared / data)]
        assert cli.main([*words, "--device", "cpu"]) == 2
        assert told in capsys.readouterr().err


def test_files_of_others_are_not_replaced(own: Path, prepared: Path, tmp_path: Path) -> None:
    out = tmp_path / "notes.json"
    out.write_text('{"mine": 1}')
    assert cli.main(["probe", str(own), "--data", str(prepared), "-o", str(out)]) == 2
    assert out.read_text() == '{"mine": 1}'


def test_a_file_that_appears_meanwhile_is_not_replaced(
    own: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "notes.json"
    monkeypatch.setattr("d2v.experiment.frozen.of_set", lambda *_: out.write_text("mine"))
    assert cli.main(["probe", str(own), "--data", str(prepared), "-o", str(out)]) == 2
    assert out.read_text() == "mine"
