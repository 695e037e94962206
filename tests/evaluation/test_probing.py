"""Probes: equal to an independent scikit-learn script on features of a loop of its own."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from tiny_models import BACKBONE, SPECIAL

from d2v import params
from d2v.evaluation import probing
from d2v.model.data2vec import Student

P = params.Probe(positions="keep", neighbours=3, c=[0.01, 1.0])


class Drawn:
    """Images whose class is the bright quarter."""

    def __init__(self, count: int, seed: int) -> None:
        random = torch.Generator().manual_seed(seed)
        self.references = torch.randint(0, 4, (count,), generator=random).tolist()
        self.images = torch.randn(count, 3, 12, 12, generator=random)
        for image, quarter in zip(self.images, self.references, strict=True):
            top, left = 6 * (quarter // 2), 6 * (quarter % 2)
            image[:, top : top + 6, left : left + 6] += 0.4

    def __len__(self) -> int:
        return len(self.references)

    def __getitems__(self, places: list[tuple[int, int]]) -> list[torch.Tensor]:
        return [self.images[index] for _, index in places]

    def collate(self, examples: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"images": torch.stack(examples)}

    def finish(self, batch: dict, device: torch.device) -> dict:
        return batch


@pytest.fixture(scope="module")
def student() -> Student:
    torch.manual_seed(0)
    return Student(SPECIAL["vision"]["encoder"], BACKBONE.model_copy(update={"dropout": 0.3}))


def by_hand(student: Student, data: Drawn) -> list[np.ndarray]:
    """Outputs of every block, image by image, all positions side by side."""
    rows = []
    with torch.no_grad():
        for image in data.images:
            x, _ = student.eval().encoder.local_features({"images": image[None]})
            x, _ = student.encoder(x, None)
            layers = [x[0, 1:].flatten().numpy()]
            for block in student.backbone.blocks:
                x = block(x, None, None)
                x = x[0] if isinstance(x, tuple) else x
                layers.append(x[0, 1:].flatten().numpy())
            rows.append(layers)
    return [np.stack([row[layer] for row in rows]) for layer in range(len(rows[0]))]


def test_features_are_those_of_the_blocks(student: Student) -> None:
    data = Drawn(10, 1)
    found = probing.features(student.train(), data, "keep")
    first = by_hand(student, data)[0]
    assert found.values.shape == (10, 4, 9 * 16)
    assert np.allclose(found.values[:, 0], first, atol=1e-5)
    assert found.classes.tolist() == data.references
    mean = probing.features(student, data, "mean").values
    assert np.allclose(mean[:, 2], found.values[:, 2].reshape(10, 9, 16).mean(1), atol=1e-5)


@pytest.mark.slow
def test_probes_equal_scikit_learns(student: Student) -> None:
    sets = [Drawn(n, seed) for seed, n in enumerate((80, 60, 60))]
    train, dev, test = (probing.features(student, data, "keep") for data in sets)
    found = probing.probe(P, train, dev, test)
    for layer, entry in enumerate(found["layers"]):
        scaler = StandardScaler().fit(train.values[:, layer])
        x, on_dev, on_test = (scaler.transform(f.values[:, layer]) for f in (train, dev, test))
        near = KNeighborsClassifier(3, metric="cosine").fit(x, sets[0].references)
        assert entry["knn"]["test"] == near.score(on_test, sets[2].references)
        fits = [LogisticRegression(C=c, max_iter=2000).fit(x, sets[0].references) for c in P.c]
        scores = [fit.score(on_dev, sets[1].references) for fit in fits]
        chosen = fits[int(np.argmax(scores))]
        assert entry["linear"]["dev"] == max(scores)
        assert entry["linear"]["test"] == chosen.score(on_test, sets[2].references)
    assert sum(found["weighted"]["weights"]) == pytest.approx(1)
    assert found["layers"][found["best"]]["linear"]["dev"] == max(
        entry["linear"]["dev"] for entry in found["layers"]
    )


def test_layers_with_the_classes_get_the_weight() -> None:
    random = np.random.default_rng(0)
    classes = random.integers(0, 2, 200)
    values = random.normal(size=(200, 3, 5))
    values[:, 1] += 4 * classes[:, None]
    weights = probing.layer_weights(probing.Features(values, classes))
    assert weights.argmax() == 1
    assert weights[1] > 0.5


def test_share_of_variance_that_position_explains() -> None:
    torch.manual_seed(0)
    place = torch.randn(1, 7, 5).expand(400, 7, 5)
    noise = torch.randn(400, 7, 5)
    assert probing.position_share([place]) == pytest.approx(1, abs=1e-6)
    assert probing.position_share([noise]) < 0.01
    between = place.flatten(0, 1).var(0, correction=0).sum()
    expected = between / (between + noise.flatten(0, 1).var(0, correction=0).sum())
    assert probing.position_share([place + noise]) == pytest.approx(float(expected), abs=0.02)
