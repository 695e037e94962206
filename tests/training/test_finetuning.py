"""The paper's recipes, scaled down: second stages, BEiT's and wav2vec 2.0's fine-tuning, tags.

Real runs of an experiment with tiny models on the small sets, with every option of the recipes on.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import preparing
import pytest
import small_sets
import tagged_sounds
import torch
import yaml
from safetensors.torch import load_file
from small_builds import CONVS

from d2v import params
from d2v.data.letters import LETTERS
from d2v.evaluation import metrics
from d2v.evaluation.ctc import greedy
from d2v.evaluation.predictions import read_predictions, score
from d2v.experiment import execute, runs
from d2v.experiment.run import PretrainRun
from d2v.model.data2vec import Student
from d2v.training import checkpoint, log
from d2v.training.task import Finetuning, Pretraining
from d2v.util.errors import UserError

pytestmark = pytest.mark.slow

TUNER = {"betas": [0.9, 0.98], "eps": 1e-8, "weight_decay": 0.01}
OPTIMISER = {**TUNER, "lr": 1e-3}
BACKBONE = {"dim": 16, "depth": 2, "heads": 2, "ffn_dim": 32, "norm_first": False}
COMMON: dict[str, Any] = {
    "seeds": [0],
    "backbone": BACKBONE,
    "regression": "linear",
    "target": {"top_k": 2, "feature": "ffn", "layer_norm": "layer"},
    "loss": {"beta": 0.0, "reduction": "mean"},
    "ema": {"start": 0.9, "end": 0.99, "anneal_steps": 4},
    "optimiser": OPTIMISER,
    "schedule": {"kind": "cosine", "warmup": 0.1},
    "train": {"steps": 3, "batch": 4, "micro_batch": 4, "log_every": 1},
}
WAVES = {
    "kind": "speech", "conv_layers": CONVS,
    "position_kernel": 9, "position_depth": 1, "position_groups": 4,
}  # fmt: skip
PRETRAIN: dict[str, Any] = {
    "first": {
        "data": "digits",
        "encoder": {"kind": "vision", "image_size": 24, "patch_size": 6},
        "backbone": {**BACKBONE, "norm_first": True, "final_norm": True},
        "mask": {"kind": "block", "patches": 8, "min_block": 2},
        "view": {"kind": "vision", "normalise": "imagenet"},
    },
    "speech": {
        "data": "spoken_digits",
        "encoder": WAVES,
        "mask": {"kind": "span", "prob": 0.5, "length": 2},
        "view": {"kind": "speech", "max_samples": 8000},
        "train": {"steps": 3, "sized": {"size": 13000, "micro_batches": 2}, "log_every": 1},
    },
    "sounds": {
        "data": "audioset",
        "split": "unbalanced+balanced",
        "encoder": WAVES,
        "backbone": {**BACKBONE, "deep_norm": True},
        "mask": {"kind": "span", "prob": 0.5, "length": 2},
        "view": {"kind": "speech"},
        "train": {"steps": 2, "sized": {"size": 20000, "micro_batches": 2}, "log_every": 1},
    },
}
PRETRAIN["second"] = {**PRETRAIN["first"], "start_from": "first"}
SIZED = {"sized": {"size": 13000, "micro_batches": 1}, "log_every": 1}
FINETUNE: dict[str, Any] = {
    "imagenet": {
        "table": "imagenet",
        "pretrain": "second",
        "data": "digits",
        "dev_split": "dev",
        "test_split": "dev",
        "chosen_on_test": True,
        "metrics": ["accuracy"],
        "task": {
            "kind": "classify", "classes": 2, "pool": "mean", "norm": True,
            "label_smoothing": 0.1, "init_scale": 0.001,
        },
        "drop_path": 0.2,
        "view": {
            "kind": "vision", "random_resized_crop": [0.08, 1.0], "flip": True, "resize": 27,
            "rand_augment": "rand-m9-mstd0.5-inc1", "erase": 0.25, "mixup": 0.8, "cutmix": 1.0,
            "normalise": "half",
        },
        "settings": {"data2vec": {"lr": 1e-3, "steps": 3}},
        "optimiser": {**TUNER, "decay": "matrices", "layer_decay": 0.65},
        "train": {"batch": 4, "micro_batch": 2, "log_every": 1},
    },
    "letters": {
        "table": "librispeech",
        "pretrain": "speech",
        "data": "spoken_digits",
        "dev_split": "dev",
        "test_split": "test",
        "more": {"of development": "dev"},
        "metrics": ["wer", "cer"],
        "task": {"kind": "ctc"},
        "decode": {"search": {"trials": 2}},
        "freeze_steps": 2,
        "layer_drop": 0.1,
        "activation_dropout": 0.1,
        "view": {
            "kind": "speech", "mask": {"kind": "span", "prob": 0.65, "length": 2, "min_spans": 2},
            "mask_channels": {"prob": 0.25, "length": 2},
        },
        "settings": {"data2vec": {"lr": 1e-3, "steps": 4, "freeze": "convolutions"}},
        "schedule": {"kind": "tri_stage", "phases": [0.1, 0.4, 0.5], "end_scale": 0.05},
        "train": SIZED,
        "validate_every": 2,
        "keep": "best",
    },
    "tags": {
        "table": "audioset",
        "pretrain": "sounds",
        "data": "audioset",
        "train_split": "balanced",
        "dev_split": "eval",
        "test_split": "eval",
        "chosen_on_test": True,
        "metrics": ["map"],
        "task": {"kind": "tag", "classes": 4, "pool": "linear_softmax", "head_lr_scale": 6.0},
        "view": {
            "kind": "speech", "mixup": 0.7, "mask": {"kind": "span", "prob": 0.45, "length": 4},
        },
        "settings": {"data2vec": {"lr": 1e-3, "steps": 3}},
        "train": {**SIZED, "workers": 1},
    },
}  # fmt: skip
FILLED = {"column": "c", "arms": ["data2vec"], "seeds": [0], "optimiser": TUNER}
FILLED |= {"schedule": COMMON["schedule"]}
SETS = ("digits", "spoken_digits")  # their names are those of tests/params/tiny.yaml


@pytest.fixture(scope="module")
def folder(small_prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with the experiment, run from beginning to end, and prepared sets."""
    root = tmp_path_factory.mktemp("recipes")
    (root / "prepared").mkdir()
    _partial(small_prepared / "images", root / "prepared" / "digits")
    tree = small_sets.speech_tree(root / "tree", ("dev", "test", "train"))
    preparing.run("librispeech", tree, "-o", root / "prepared" / "spoken_digits")
    tagged_sounds.write(root / "prepared" / "audioset")
    tiny = yaml.safe_load((Path(__file__).parents[1] / "params" / "tiny.yaml").read_text())
    data = {name: tiny["data"][name] for name in SETS}
    data["audioset"] = {"kind": "audioset", "source": "none"}
    written = {
        "name": "recipes", "title": "recipes", "scale": "paper", "prepared": "prepared",
        "data": data,
        "pretrain": {name: {**COMMON, **p} for name, p in PRETRAIN.items()},
        "finetune": {name: {**FILLED, **p} for name, p in FINETUNE.items()},
    }  # fmt: skip
    (root / "recipes.yaml").write_text(yaml.safe_dump(written, sort_keys=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for name in ("first", "second", "speech", "sounds"):
            execute.execute(runs.load(Path("recipes.yaml"), f"pretrain/{name}/seed0"))
        for name in FINETUNE:
            execute.execute(runs.load(Path("recipes.yaml"), f"finetune/{name}/data2vec/seed0"))
        yield root


def _partial(source: Path, target: Path) -> None:
    """A prepared set that was made with --allow-partial."""
    target.mkdir()
    for path in source.iterdir():
        if path.name != "meta.json":
            (target / path.name).symlink_to(path)
    meta = json.loads((source / "meta.json").read_text())
    (target / "meta.json").write_text(json.dumps(meta | {"complete": False}))


def found(folder: Path, run: str) -> dict[str, Any]:
    return json.loads((folder / "results/recipes/runs" / run / "metrics.json").read_text())


def weights(folder: Path, run: str) -> dict[str, torch.Tensor]:
    return checkpoint.load_weights(folder / found(folder, run)["checkpoint"])


def predictions(folder: Path, run: str, split: str) -> Path:
    return folder / "results/recipes/runs" / run / f"predictions-{split}.tsv"


# --- sets that are not whole ------------------------------------------------------------------


def test_a_run_says_what_its_data_or_that_of_its_pretraining_lacks(folder: Path) -> None:
    lacks = {"digits": "not the whole official set"}
    for run in ("pretrain/first", "pretrain/second", "finetune/imagenet/data2vec"):
        assert found(folder, f"{run}/seed0")["partial_data"] == lacks, run
    for run in ("pretrain/speech", "finetune/letters/data2vec"):
        assert "partial_data" not in found(folder, f"{run}/seed0"), run


# --- second stage -----------------------------------------------------------------------------


def test_a_second_stage_starts_from_the_firsts_student(folder: Path) -> None:
    """The teacher is its copy, the rest afresh; what it started from is part of its identity."""
    experiment = params.load(folder / "recipes.yaml")
    first, second = (PretrainRun(experiment, name, 0) for name in ("first", "second"))
    kept, *_ = execute._pretrained(first)
    assert not any(name.startswith("teacher.") for name in kept)
    model = Pretraining(second.params).model
    model.start_from(kept)
    now = model.state_dict()
    assert all(torch.equal(now[name], kept[name]) for name in kept)
    for name, tensor in now.items():
        if name.startswith("teacher."):
            assert torch.equal(tensor, now[name.replace("teacher.", "student.")]), name
    meta = checkpoint.read_meta(folder / found(folder, second.id)["checkpoint"])
    assert meta["params"]["start_from"] == first.id
    before = checkpoint.read_meta(folder / found(folder, first.id)["checkpoint"])
    assert meta["params"]["weights_sha256"] == before["sha256"][checkpoint.MODEL]
    assert before["params"]["weights_sha256"] is None
    rates = [[x["lr"] for x in lines(folder, run.id)] for run in (first, second)]
    assert rates[0] == rates[1]  # the schedule starts afresh
    assert found(folder, second.id)["pretrain_run"] == first.id


def lines(folder: Path, run: str) -> list[dict[str, Any]]:
    return log.read(folder / "work/recipes" / run / "log.jsonl")


# --- images -----------------------------------------------------------------------------------


def test_mixed_images_are_fine_tuned_on_and_plain_ones_scored(folder: Path) -> None:
    run = "finetune/imagenet/data2vec/seed0"
    scores = found(folder, run)["metrics"]
    assert scores["dev"] == scores["test"]  # one split under two names, read once
    files = [predictions(folder, run, split).read_bytes() for split in ("dev", "test")]
    assert files[0] == files[1]
    assert score(predictions(folder, run, "test"), ["accuracy"]) == scores["test"]
    # near-zero outputs and soft targets: the first loss is that of guessing
    assert lines(folder, run)[0]["loss"] == pytest.approx(0.693, abs=0.01)


# --- letters ----------------------------------------------------------------------------------

LETTERS_RUN = "finetune/letters/data2vec/seed0"


def test_outputs_are_kept_for_a_search_of_decoding_weights(folder: Path) -> None:
    scores = found(folder, LETTERS_RUN)["metrics"]
    assert scores.keys() == {"dev", "test"}
    for split, entry in scores.items():
        assert entry.keys() == {"greedy_wer", "greedy_cer"}  # wer is the search's to say
        path = folder / "work/recipes" / LETTERS_RUN / f"emissions-{split}.safetensors"
        emissions = load_file(path)
        rows = read_predictions(predictions(folder, LETTERS_RUN, split))
        assert sorted(emissions) == sorted(row.id for row in rows)
        for row in rows:
            assert emissions[row.id].dtype == torch.float32
            assert emissions[row.id].shape[1] == len(LETTERS)
            assert torch.allclose(emissions[row.id].exp().sum(1), torch.tensor(1.0), atol=1e-5)
            assert greedy(emissions[row.id]) == row.prediction == row.greedy
    lengths = {len(e) for e in emissions.values()}
    assert len(lengths) == 3  # without the padding of their batch


def test_the_best_greedy_reading_is_kept(folder: Path) -> None:
    logged = {x["step"]: x["validation"] for x in lines(folder, LETTERS_RUN) if "validation" in x}
    assert logged.keys() == {2, 4}
    best = min(logged.values(), key=lambda scores: scores["greedy_wer"])
    assert found(folder, LETTERS_RUN)["metrics"]["dev"]["greedy_wer"] == best["greedy_wer"]
    assert metrics.greedy(["wer", "cer"]) == list(best)


def test_convolutions_stay_and_the_head_trains_first(folder: Path) -> None:
    """feature_grad_mult 0 and freeze_finetune_updates of wav2vec 2.0's recipe."""
    before = weights(folder, "pretrain/speech/seed0")
    steps = sorted((folder / "work/recipes" / LETTERS_RUN / "checkpoints").glob("step-*"))
    after = {step.name: checkpoint.load_weights(step) for step in steps}
    trained = "student.encoder.features.projection.weight"
    fixed = [n for n in after["step-4"] if ".features.convs." in n or ".features.norms." in n]
    assert len(fixed) == 3 * len(CONVS)
    for name in fixed:
        assert torch.equal(after["step-4"][name], before[f"model.{name}"])
    assert not torch.equal(after["step-4"][trained], before[f"model.{trained}"])
    if "step-2" in after:  # kept if it was the best
        assert torch.equal(after["step-2"][trained], before[f"model.{trained}"])


def test_freezing_says_what_it_freezes() -> None:
    setting = params.Setting(lr=1e-3, steps=4, freeze="convolutions")
    assert setting.name == "lr0.001-steps4-frozen-convolutions"
    assert setting.words == "4 steps, learning rate 0.001, convolutions frozen"
    assert params.Setting(lr=1e-3, steps=4).name == "lr0.001-steps4"
    encoder = params.PatchEncoder(kind="vision", image_size=8, patch_size=4)
    student = Student(encoder, params.Backbone(**BACKBONE))
    p = params.Finetune.model_construct(
        task=params.Classify(kind="classify", classes=2, pool="mean"), freeze_steps=0
    )
    with pytest.raises(
        UserError, match=r"setting\.freeze: convolutions, but this encoder has none"
    ):
        Finetuning(p, student, 16, 2, "convolutions")
    Finetuning(p, student, 16, 2, freeze=True)
    assert not student.encoder.features.weight.requires_grad


def test_masks_of_channels_zero_features_in_every_frame() -> None:
    torch.manual_seed(0)
    student = Student(params.WaveEncoder(**WAVES), params.Backbone(**BACKBONE))
    x = torch.randn(2, 7, 16)
    mask = torch.zeros(2, 7, dtype=torch.bool)
    mask[:, 3] = True
    channels = torch.zeros(2, 16, dtype=torch.bool)
    channels[0, 2:5] = channels[1, 9:11] = True
    both = {"mask": mask, "channel_mask": channels}
    seen, _ = student.encoder.mask_features(x, None, both)
    expected = torch.where(mask[..., None], student.encoder.mask_embedding, x)
    assert torch.equal(seen, expected * ~channels[:, None, :])  # after the mask of frames
    only, _ = student.see(x, None, {"channel_mask": channels})
    plain, _ = student.see(x * ~channels[:, None, :], None, {})
    assert torch.equal(only.x, plain.x)


# --- tags -------------------------------------------------------------------------------------


def test_tags_are_scored_from_their_file(folder: Path) -> None:
    run = "finetune/tags/data2vec/seed0"
    scores = found(folder, run)["metrics"]
    again = score(predictions(folder, run, "test"), ["map"])
    assert scores == {"dev": again, "test": again}
    assert 0 < again["map"] <= 1
    rows = read_predictions(predictions(folder, run, "test"))
    assert [row.reference for row in rows] == [labels for _, labels in tagged_sounds.CLIPS]
    assert all(len(row.prediction.split(" ")) == 4 for row in rows)
