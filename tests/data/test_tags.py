"""Tagged sounds: classes, mixing, pooling, loss, and the output layer's own rate."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tagged_sounds
import torch
import torch.nn.functional as F
from small_builds import FRAMES, SPANS, WAVE_VIEW, assert_equal, batch_of, build
from tiny import OPTIMISER

from d2v import params
from d2v.data.tags import mix
from d2v.model import heads
from d2v.model.data2vec import Student
from d2v.model.heads import tag_loss
from d2v.training import optim
from d2v.training.task import Finetuning
from d2v.util.errors import UserError

TAGS = params.Tag(kind="tag", classes=4, pool="linear_softmax")
BACKBONE = params.Backbone(dim=16, depth=2, heads=2, ffn_dim=32, norm_first=False)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tagged_sounds.write(tmp_path_factory.mktemp("prepared") / "audioset")


def tagged(sounds: Path, split: str = "balanced", **view: Any) -> Any:
    chosen = params.WaveAugment(kind="speech", **view)
    return build(sounds, chosen, FRAMES, split=split, task=TAGS)


def finetuning(**task: Any) -> Finetuning:
    """A fine-tuning of tags with a small model; what it does not need is left out."""
    p = params.Finetune.model_construct(task=TAGS.model_copy(update=task), freeze_steps=0)
    return Finetuning(p, Student(FRAMES, BACKBONE), 16, 4)


def test_clips_are_whole_and_padded_with_all_their_classes(sounds: Path) -> None:
    data = tagged(sounds, split="eval")
    batch = batch_of(data, 0, 1, 2)
    assert batch["ids"] == ["clip20", "clip21", "clip22"]
    assert batch["waves"].shape == (3, 9600)
    assert batch["samples"].tolist() == [6400, 9600, 6400]
    assert batch["labels"].tolist() == [[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert batch["labels"].dtype == torch.float32
    assert list(data.references[:3]) == ["0,2", "1", ""]
    masked = batch_of(tagged(sounds, mask=SPANS), 0, 1)
    assert masked["mask"].any(1).all()


def test_clips_are_sped_up_in_training_only(sounds: Path) -> None:
    data = tagged(sounds, speed=[1.1, 1.5])
    batch = batch_of(data, 0, 1)
    assert 6400 / 1.5 - 1 <= int(batch["samples"][0]) <= 6400 / 1.1 + 1
    assert batch["labels"].tolist() == batch_of(tagged(sounds), 0, 1)["labels"].tolist()
    assert data[1, 0]["wave"].shape != data[2, 0]["wave"].shape


def test_mixed_clips_have_classes_in_the_same_shares(sounds: Path) -> None:
    data, plain = tagged(sounds, mixup=0.7), tagged(sounds)
    mixed = 0
    for epoch in range(60):
        example, alone = data[epoch, 0], plain[epoch, 0]
        changed = bool((example["wave"] != alone["wave"]).any())
        mixed += changed
        assert example["wave"].shape == (6400,)
        assert example["wave"].dtype == np.float32
        assert 0.9 < example["wave"].std() < 1.45  # with itself more
        if not changed:
            assert example["labels"].tolist() == [1, 0, 1, 0]
        assert 0 <= example["labels"].min() <= example["labels"].max() <= 1
    assert 30 < mixed < 54  # 60 x .7, less those mixed with themselves
    assert_equal(batch_of(data, 0, 1, epoch=3), batch_of(tagged(sounds, mixup=0.7), 0, 1, epoch=3))
    evaluated = build(
        sounds,
        params.WaveAugment(kind="speech", mixup=0.7),
        FRAMES,
        split="eval",
        task=TAGS,
        train=False,
    )
    assert torch.equal(
        batch_of(evaluated, 0)["waves"], batch_of(tagged(sounds, "eval"), 0)["waves"]
    )


def test_mixing_is_that_of_between_class_learning() -> None:
    """At equal gains p = r: (r x + (1 - r) y) / sqrt(r^2 + (1 - r)^2)."""
    x, y = np.random.default_rng(0).normal(size=(2, 50)).astype(np.float32)
    expected = (0.3 * x + 0.7 * y) / (0.3**2 + 0.7**2) ** 0.5
    assert np.allclose(mix(x, y, 0.3), expected, atol=1e-6)
    short = mix(x, y[:20], 0.3)
    assert np.allclose(short[:20], expected[:20], atol=1e-6)
    assert (short[20:] == x[20:]).all()


@pytest.mark.parametrize("pool", ["mean", "linear_softmax"])
def test_pooling_of_probabilities(pool: str) -> None:
    torch.manual_seed(0)
    head = heads.TagHead(TAGS.model_copy(update={"pool": pool}), 16, 4).eval()
    x = torch.randn(2, 7, 16)
    padding = torch.zeros(2, 7, dtype=torch.bool)
    padding[1, 4:] = True
    p = head.out(x).sigmoid()
    rows = [p[0], p[1, :4]]
    means = [r.mean(0) if pool == "mean" else r.square().sum(0) / r.sum(0) for r in rows]
    assert torch.allclose(head(x, 0, padding).exp(), torch.stack(means), atol=1e-6)
    assert torch.allclose(head(x, 0, None).exp()[0], means[0], atol=1e-6)
    assert torch.allclose(head(x, 3, None).exp(), head(x[:, 3:], 0, None).exp())


def test_the_loss_is_binary_cross_entropy_and_stays_finite() -> None:
    torch.manual_seed(0)
    p, labels = torch.rand(3, 4).requires_grad_(), torch.rand(3, 4)
    expected = F.binary_cross_entropy(p, labels, reduction="sum")
    assert torch.allclose(tag_loss(p.log(), labels), expected, rtol=1e-5)
    sure = torch.tensor([[0.0, -200.0]], requires_grad=True)
    loss = tag_loss(sure, torch.tensor([[0.0, 1.0]]))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(sure.grad).all()


def test_the_task_learns_and_tells_probabilities(sounds: Path) -> None:
    torch.manual_seed(0)
    task, data = finetuning(), tagged(sounds)
    batch = batch_of(data, *range(6))
    optimiser = torch.optim.Adam(task.parameters(), lr=1e-2)
    losses = []
    for _ in range(25):
        out = task(batch)
        assert int(out["count"]) == 6
        optimiser.zero_grad()
        out["loss"].backward()
        optimiser.step()
        losses.append(out["loss"].item())
    assert losses[-1] < 0.5 * losses[0]
    task.eval()
    found = task.predict(batch)
    assert len(found) == 6
    scores = torch.tensor([f["probabilities"] for f in found])
    assert scores.shape == (6, 4)
    assert 0 <= scores.min() <= scores.max() <= 1


def test_the_output_layer_has_a_rate_of_its_own() -> None:
    scales = {
        name: group["scale"]
        for group in optim.groups(finetuning(head_lr_scale=6.5), OPTIMISER)
        for name in group["names"]
    }
    assert {scales[name] for name in scales if name.startswith("head.")} == {6.5}
    assert {scales[name] for name in scales if name.startswith("student.")} == {1.0}
    decayed = optim.groups(
        finetuning(head_lr_scale=2.0), OPTIMISER.model_copy(update={"layer_decay": 0.5})
    )
    assert sorted({group["scale"] for group in decayed}) == [0.125, 0.25, 0.5, 2.0]


def test_pretraining_reads_the_same_clips_of_several_splits(sounds: Path) -> None:
    data = build(sounds, WAVE_VIEW, FRAMES, split="unbalanced+balanced", mask=SPANS)
    assert len(data) == 12
    batch = batch_of(data, 0, 7)
    assert batch["ids"] == ["clip0", "clip11"]
    assert batch["waves"].shape == (2, 6400)
    assert batch.keys() == {"ids", "waves", "mask", "masked"}


def test_letters_need_transcripts(tmp_path: Path) -> None:
    """Libri-light is speech without them."""
    sounds = tagged_sounds.write(tmp_path / "librilight", kind="librispeech")
    for split in ("eval", "balanced+eval"):
        with pytest.raises(UserError, match=r"has no transcripts, which a ctc task needs"):
            build(sounds, WAVE_VIEW, FRAMES, split=split, task=params.CTC(kind="ctc"))


def test_what_does_not_fit_is_refused(sounds: Path, small_prepared: Path) -> None:
    other = TAGS.model_copy(update={"classes": 527})
    with pytest.raises(UserError, match=r"4 classes, but task\.classes is 527"):
        build(sounds, WAVE_VIEW, FRAMES, split="eval", task=other)
    with pytest.raises(UserError, match="prepared as librispeech, not as audioset"):
        build(small_prepared / "speech", WAVE_VIEW, FRAMES, task=TAGS)
    with pytest.raises(UserError, match="prepared as audioset, not as librispeech"):
        build(sounds, WAVE_VIEW, FRAMES, split="eval", task=params.CTC(kind="ctc"))
