"""Recipes of data2vec 2.0: sizes, batches and schedules of the released files."""

import math
from pathlib import Path

import pytest
import torch

from d2v import params
from d2v.model.data2vec import Data2Vec
from d2v.training import optim

PARAMS = Path(__file__).parents[2] / "params"
# updates, warm-up updates, copies, K, shared blocks, blocks before them, updates of annealing
RELEASED = {
    "vision-base": (375_300, 50_040, 16, 10, 10, 2, 100_000),
    "vision-large": (375_300, 50_040, 16, 18, 24, 0, 150_000),
    "speech-base": (400_000, 8_000, 8, 8, 12, 0, 75_000),
    "speech-large": (600_000, 10_000, 12, 16, 16, 8, 300_000),
    "text-base": (1_000_000, 4_000, 8, 12, 12, 0, 100_000),
    "text-large": (600_000, 4_000, 8, 24, 24, 0, 100_000),
}
# parameters of the student's blocks, of the decoder: from the shapes of the released files' layers
BLOCK = 12 * 768**2 + 13 * 768


@pytest.fixture(scope="module")
def second() -> params.Experiment:
    return params.load(PARAMS / "paper2.yaml")


@pytest.mark.parametrize("name", RELEASED)
def test_schedules_copies_and_blocks_are_those_of_the_files(
    name: str, second: params.Experiment
) -> None:
    p = second.pretrain[name]
    steps, warmup, copies, top_k, shared, before, anneal = RELEASED[name]
    assert p.train.steps == steps
    assert isinstance(p.schedule, params.Cosine)
    assert round(p.schedule.warmup * steps) == pytest.approx(warmup, abs=15)
    assert (p.copies, p.target.top_k, p.ema.anneal_steps) == (copies, top_k, anneal)
    assert (p.backbone.depth - before, p.backbone.prenet_depth) == (shared, before)
    rate = optim.schedule(p.schedule, p.optimiser.lr, steps)
    assert rate(steps - 1) == pytest.approx(0, abs=1e-9)


def test_batches_are_those_of_the_files(second: params.Experiment) -> None:
    p = {name: pretrain.train for name, pretrain in second.pretrain.items()}
    assert p["vision-base"].batch == 16 * 16
    assert p["vision-large"].batch == 512  # the paper's; file: 16 x 8
    assert p["text-base"].batch == 16 * 4
    assert p["text-large"].batch == 32 * 2
    for name, (gpus, samples) in {"base": (8, 1_000_000), "large": (48, 320_000)}.items():
        sized = p[f"speech-{name}"].sized
        assert sized is not None
        assert (sized.micro_batches, sized.size) == (gpus, samples)


def test_visible_positions_are_those_of_the_reference(second: params.Experiment) -> None:
    for name, visible in {"vision-base": 39, "vision-large": 49}.items():
        mask = second.pretrain[name].mask
        assert isinstance(mask, params.InverseBlockMask)
        assert int(196 * (1 - mask.prob)) == visible


def test_the_class_loss_has_the_references_weight(second: params.Experiment) -> None:
    """cls_loss .01, times images per GPU, times copies."""
    assert second.pretrain["vision-base"].loss.class_weight == pytest.approx(0.01 * 16 * 16)
    assert second.pretrain["vision-large"].loss.class_weight == pytest.approx(0.01 * 8 * 16)


@pytest.mark.parametrize(
    ("name", "decoder"),
    [
        ("vision-base", 6 * (768 * 48 * 9 + 768) + 768**2 + 768),
        ("speech-base", 384 * 48 * 7 + 3 * 384 * 24 * 7 + 4 * 384 + 384 * 768 + 768),
        ("text-base", 5 * (768**2 * 9 + 768) + 768 * 1536 + 1536 + 1536 * 768 + 768),
    ],
)
def test_models_have_the_released_sizes(name: str, decoder: int, second: params.Experiment) -> None:
    with torch.device("meta"):
        model = Data2Vec(second.pretrain[name])
    assert model.decoder is not None
    assert sum(p.numel() for p in model.decoder.parameters()) == decoder
    # the key biases that BEiT lacks included
    assert sum(p.numel() for p in model.student.backbone.blocks.parameters()) == 12 * BLOCK


def test_fine_tuning_starts_from_the_pretrainings_of_its_file(second: params.Experiment) -> None:
    for name, task in second.finetune.items():
        assert task.row.startswith("data2vec 2.0"), name
        large = "large" in name
        assert ("large" in task.pretrain) == large, name
    image = second.finetune["imagenet-base"]
    assert isinstance(image.view, params.ImageAugment)
    assert (image.view.mixup, image.view.mix_prob) == (0.7, 0.9)
    assert image.settings is not None
    setting = image.settings["data2vec"]
    assert math.isclose(setting.steps * 512 / 1_281_167, 100, rel_tol=1e-3)
