"""d2v.probe: scikit-learn's numbers on `features`, in memory and prepared, in every modality."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from own_builds import folder
from preparing import run
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from small_sets import image_tree

import d2v
from d2v.util.errors import UserError

Examples = list[tuple[object, str]]


@pytest.fixture(scope="module")
def vision(tmp_path_factory: pytest.TempPathFactory) -> d2v.Model:
    return d2v.load(folder(tmp_path_factory.mktemp("vision") / "c", "vision"))


def pictures(count: int, seed: int) -> Examples:
    """Noise in which one of three colours is brighter."""
    random = np.random.default_rng(seed)
    found: Examples = []
    for i in range(count):
        pixels = random.integers(0, 200, (24, 24, 3), np.uint8)
        pixels[:, :, i % 3] += 40
        found.append((pixels, ("red", "green", "blue")[i % 3]))
    return found


def sounds(count: int, seed: int) -> Examples:
    """Noise that is loud from the start, or only later; of several lengths."""
    random = np.random.default_rng(seed)
    found: Examples = []
    for i in range(count):
        wave = random.standard_normal(3000 + 100 * (i % 5)).astype(np.float32) / 10
        wave[: 1500 * (i % 2)] /= 50
        found.append((wave, ("early", "late")[i % 2]))
    return found


def by_hand(model: d2v.Model, examples: Examples, layer: int) -> tuple[np.ndarray, list[str]]:
    found = model.features([item for item, _ in examples], layers=layer, pool="mean")
    return np.stack([one.states.double().numpy() for one in found]), [c for _, c in examples]


def test_accuracies_are_those_of_scikit_learn_on_features(vision: d2v.Model) -> None:
    train, dev, test = pictures(48, 0), pictures(18, 1), pictures(18, 2)
    found = d2v.probe(vision, train, pd.DataFrame(dev), test, neighbours=5, c=[0.01, 1.0])
    for layer in (0, 1, 2):
        scaler = StandardScaler()
        x, y = by_hand(vision, train, layer)
        x = scaler.fit_transform(x)
        held = {"dev": by_hand(vision, dev, layer), "test": by_hand(vision, test, layer)}
        held = {
            split: (scaler.transform(values), labels) for split, (values, labels) in held.items()
        }
        near = KNeighborsClassifier(5, metric="cosine").fit(x, y)
        fits = [LogisticRegression(C=c, max_iter=2000).fit(x, y) for c in (0.01, 1.0)]
        best = max(fits, key=lambda fit: fit.score(*held["dev"]))
        assert found.knn[layer] == {split: near.score(*part) for split, part in held.items()}
        assert found.linear[layer] == {split: best.score(*part) for split, part in held.items()}
    assert found.linear[found.best]["dev"] == max(entry["dev"] for entry in found.linear.values())
    assert found.linear[found.best]["test"] > 0.5  # chance is a third
    assert sum(found.weights.values()) == pytest.approx(1)
    table = found.table()
    assert len(table) == 2 * (3 + 3 + 1)
    chosen = table[(table.probe == "linear") & (table.layer == 2) & (table.split == "test")]
    assert chosen.accuracy.item() == found.linear[2]["test"]


def test_recordings_of_any_length_and_chosen_layers(tmp_path: Path) -> None:
    path = folder(tmp_path / "c", "speech", task=None, outputs=None)
    found = d2v.probe(path, sounds(24, 0), sounds(12, 1), layers=[-1, 0], c=[1.0])
    assert list(found.linear) == list(found.weights) == [0, 2]
    assert found.weighted.keys() == found.knn[0].keys() == {"dev"}
    assert "test" not in found.details["examples"]
    assert found.linear[0]["dev"] > 0.5


def test_prepared_sets_give_what_the_command_and_data_in_memory_give(
    vision: d2v.Model, tmp_path: Path
) -> None:
    splits = ("train", "dev", "test")
    tree = image_tree(tmp_path / "tree", splits)
    run("imagefolder", tree, "-o", tmp_path / "set")
    found = d2v.probe(vision, tmp_path / "set", neighbours=3, positions="keep")
    given = [
        [(path, path.parent.name) for path in sorted((tree / split).glob("*/*"))]
        for split in splits
    ]
    again = d2v.probe(vision, *given, neighbours=3, positions="keep")
    assert (found.knn, found.linear, found.best) == (again.knn, again.linear, again.best)
    assert found.details["data_sha256"]


def test_texts_and_pairs(tmp_path: Path, small_prepared: Path) -> None:
    model = d2v.load(folder(tmp_path / "c", "text", small_prepared / "tokenizer"))
    pairs = [(("the cat sat", "a dog"), "one"), (("gold", "an island"), 2)] * 4
    half = d2v.load(tmp_path / "c", dtype=torch.bfloat16)
    assert d2v.probe(model, pairs, pairs, neighbours=1).knn[2]["dev"] == 1
    found = d2v.probe(half, small_prepared / "SST-2", neighbours=3, layers=-1)
    assert 0 <= found.knn[2]["dev"] <= 1
    lines = tmp_path / "texts.txt"
    lines.write_text("the cat\nthe dog\n")
    with pytest.raises(UserError, match="train: a file of several inputs"):
        d2v.probe(model, [(str(lines), "a"), ("a dog", "b")], [("gold", "a")])
    with pytest.raises(UserError, match="differ in length; use mean"):
        d2v.probe(
            model, [("the cat sat here", "a"), ("dog", "b")], [("dog", "a")], positions="keep"
        )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"train": "nowhere"}, "nowhere"),
        ({"train": "nowhere", "dev": []}, "a prepared set has its own dev and test splits"),
        ({"train": pictures(3, 0)}, "probe: give dev"),
        ({"train": pictures(1, 0), "dev": pictures(1, 0)}, "train: only one class, red"),
        ({"train": pictures(2, 0), "dev": pictures(3, 0)}, "dev: example 2 is of class blue"),
        ({"train": pictures(3, 0), "dev": pictures(3, 0), "layers": 7}, "no layer 7"),
        ({"train": pictures(3, 0), "dev": pictures(3, 0), "neighbours": 0}, "neighbours 0: "),
        ({"train": [1, 2], "dev": []}, "example 0: not a pair"),
    ],
)
def test_what_cannot_be_probed_is_one_sentence(
    vision: d2v.Model, given: dict[str, object], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        d2v.probe(vision, **given)  # type: ignore[arg-type]
