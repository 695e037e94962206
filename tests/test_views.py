"""Views, crops, padding, masks, labels, as functions of (seed, epoch, index)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_builds import (
    AUGMENTED,
    BLOCKS,
    CHOSEN,
    CONVS,
    CTC,
    FRAMES,
    IMAGE_VIEW,
    NUMBER,
    PATCHES,
    SPANS,
    TEXT_VIEW,
    TOKENS,
    TWO,
    WAVE_VIEW,
    assert_equal,
    batch_of,
    build,
)
from small_sets import SENTENCES

from d2v import params
from d2v.data import letters
from d2v.data.augment import augment, crop
from d2v.data.text import join
from d2v.data.tokenizer import Tokenizer
from d2v.encoders.frames import frame_count
from d2v.errors import UserError
from d2v.masking import rng

# --- images -----------------------------------------------------------------------------------


def test_images_are_standardised_centre_crops(small_prepared: Path, tmp_path: Path) -> None:
    data = build(small_prepared / "images", IMAGE_VIEW, PATCHES, task=TWO, train=False)
    batch = batch_of(data, 0, 4)
    assert batch["images"].shape == (2, 3, 24, 24)
    assert batch["images"].dtype == torch.float32
    assert batch["ids"] == ["n01/n01_train0", "n02/n02_train1"]
    assert batch["labels"].tolist() == [0, 1]
    assert "mask" not in batch
    path = small_prepared.parent / "i" / "train" / "n02" / "n02_train1.JPEG"
    pixels = np.asarray(Image.open(path))[4:28, 4:28].transpose(2, 0, 1) / 255
    mean, std = (np.array(data.meta[key][:3])[:, None, None] for key in ("mean", "std"))
    torch.testing.assert_close(
        batch["images"][1].double(), torch.from_numpy((pixels - mean) / std), rtol=0, atol=1e-5
    )
    assert list(data.references) == [0, 0, 0, 1, 1, 1]


def test_all_images_together_have_zero_mean_and_unit_variance(small_prepared: Path) -> None:
    whole = params.PatchEncoder(kind="vision", image_size=32, patch_size=8)
    images = batch_of(build(small_prepared / "images", IMAGE_VIEW, whole), *range(6))["images"]
    assert images.mean((0, 2, 3)).abs().max() < 1e-5
    torch.testing.assert_close(images.std((0, 2, 3), unbiased=False), torch.ones(3))


def test_grey_images(small_prepared: Path) -> None:
    grey = params.PatchEncoder(kind="vision", image_size=32, patch_size=8, channels=1)
    images = batch_of(build(small_prepared / "images", IMAGE_VIEW, grey), *range(6))["images"]
    assert images.shape == (6, 1, 32, 32)
    assert abs(images.mean()) < 1e-5


def test_image_masks_are_flat_grids(small_prepared: Path) -> None:
    data = build(small_prepared / "images", IMAGE_VIEW, PATCHES, mask=BLOCKS)
    mask = batch_of(data, *range(6))["mask"]
    assert mask.shape == (6, 16)
    assert mask.dtype == torch.bool
    assert 5 <= mask.sum(1).min() <= mask.sum(1).max() <= 10
    other = batch_of(data, *range(6), epoch=1)["mask"]
    assert not torch.equal(mask, other)


@pytest.mark.parametrize("view", [params.ImageAugment(kind="vision", shift=2), AUGMENTED])
def test_views_depend_on_seed_epoch_and_index_only(
    small_prepared: Path, view: params.ImageAugment
) -> None:
    data = build(small_prepared / "images", view, PATCHES, mask=BLOCKS)
    first = batch_of(data, 5, epoch=1)
    torch.rand(7)
    state = torch.get_rng_state()
    again = batch_of(build(small_prepared / "images", view, PATCHES, mask=BLOCKS), 2, 5, epoch=1)
    assert torch.equal(state, torch.get_rng_state())  # the trainer's random numbers are its own
    assert torch.equal(first["images"][0], again["images"][1])
    assert torch.equal(first["mask"][0], again["mask"][1])
    others = [data[e, 5]["pixels"] for e in range(8)]
    assert len({pixels.tobytes() for pixels in others}) > 3
    other_seed = build(small_prepared / "images", view, PATCHES, seed=4)
    assert any((other_seed[e, 5]["pixels"] != others[e]).any() for e in range(8))


def test_shifts_move_the_crop_and_fill_with_zero() -> None:
    pixels = np.arange(1, 65, dtype=np.uint8).reshape(8, 8, 1)
    assert (crop(pixels, 4) == pixels[2:6, 2:6]).all()
    assert (crop(pixels, 4, -2, 1) == pixels[0:4, 3:7]).all()
    moved = crop(pixels, 8, 2, -1)
    assert (moved[:6, 1:] == pixels[2:, :7]).all()
    assert not moved[6:].any()
    assert not moved[:, 0].any()
    view = params.ImageAugment(kind="vision", shift=2)
    seen = {augment(pixels, view, 4, rng(0, 0, i)).tobytes() for i in range(300)}
    assert seen == {pixels[r : r + 4, c : c + 4].tobytes() for r in range(5) for c in range(5)}


def test_small_and_large_images_give_the_same_size() -> None:
    for shape in ((10, 30, 3), (24, 24, 3), (100, 40, 3)):
        pixels = np.zeros(shape, np.uint8)
        assert crop(pixels, 24).shape == (24, 24, 3)
        assert augment(pixels, AUGMENTED, 24, rng(0, 0, 0)).shape == (24, 24, 3)


def test_flips_mirror_the_view() -> None:
    pixels = np.arange(16, dtype=np.uint8).reshape(4, 4, 1)
    view = params.ImageAugment(kind="vision", flip=True)
    seen = {augment(pixels, view, 4, rng(0, 0, i)).tobytes() for i in range(20)}
    assert seen == {pixels.tobytes(), pixels[:, ::-1].tobytes()}


# --- waveforms --------------------------------------------------------------------------------


def test_pretraining_waveforms_are_cropped_to_the_shortest(small_prepared: Path) -> None:
    data = build(small_prepared / "speech", WAVE_VIEW, FRAMES, mask=SPANS)
    batch = batch_of(data, 2, 1)
    assert batch["waves"].shape == (2, 6400)
    assert "samples" not in batch  # nothing is padded
    assert batch["mask"].shape == (2, frame_count(6400, CONVS))
    assert batch["mask"].sum(1).unique().numel() == 1  # equal counts
    whole = data[0, 2]["wave"]
    assert abs(whole.mean()) < 1e-6
    assert whole.var() == pytest.approx(1.0, abs=1e-3)
    starts = [_start(whole, batch_of(data, 2, 1, epoch=e)["waves"][0]) for e in range(5)]
    assert len(set(starts)) > 2  # another crop in every epoch
    assert_equal(batch, batch_of(data, 2, 1))
    still = build(small_prepared / "speech", WAVE_VIEW, FRAMES, mask=SPANS, train=False)
    assert _start(whole, batch_of(still, 2, 1)["waves"][0]) == 1600  # the middle


def _start(whole: np.ndarray, part: torch.Tensor) -> int:
    windows = np.lib.stride_tricks.sliding_window_view(whole, len(part))
    return int(np.flatnonzero((windows == part.numpy()).all(1))[0])


def test_longest_crop_and_shortest_utterance(small_prepared: Path) -> None:
    view = params.WaveAugment(kind="speech", max_samples=5000, min_samples=6400)
    data = build(small_prepared / "speech", view, FRAMES)
    assert list(data.ids) == ["2-7-0001", "2-7-0002"]
    assert batch_of(data, 0, 1)["waves"].shape == (2, 5000)
    assert len(build(small_prepared / "speech", view, FRAMES, train=False)) == 3  # evaluated whole
    with pytest.raises(UserError, match="min_samples 99999"):
        build(
            small_prepared / "speech",
            params.WaveAugment(kind="speech", min_samples=99_999),
            FRAMES,
        )


def test_labelled_utterances_are_whole_and_padded(small_prepared: Path) -> None:
    view = params.WaveAugment(kind="speech", mask=SPANS)
    data = build(small_prepared / "speech", view, FRAMES, task=CTC)
    batch = batch_of(data, 0, 2)
    assert batch["waves"].shape == (2, 9600)
    assert batch["samples"].tolist() == [3200, 9600]
    assert not batch["waves"][0, 3200:].any()
    assert batch["waves"][0, :3200].mean().abs() < 1e-6
    assert batch["letter_counts"].tolist() == [9, 8]  # "ZERO|TWO|", "TWO|TWO|"
    assert batch["letters"].shape == (2, 9)
    spelled = "".join(letters.LETTERS[i] for i in batch["letters"][1])
    assert spelled == "TWO|TWO|<pad>"
    frames = frame_count(batch["samples"], CONVS)
    assert batch["mask"].shape == (2, int(frames[1]))
    assert not batch["mask"][0, int(frames[0]) :].any()
    assert data.references[1] == "ONE TWO"
    evaluated = build(small_prepared / "speech", view, FRAMES, task=CTC, train=False)
    assert "mask" not in batch_of(evaluated, 0, 2)


def test_waveforms_that_do_not_fit_are_refused(small_prepared: Path) -> None:
    cropped = params.WaveAugment(kind="speech", max_samples=5000)
    with pytest.raises(UserError, match="max_samples"):
        build(small_prepared / "speech", cropped, FRAMES, task=CTC)
    wide = params.WaveEncoder(kind="speech", conv_layers=[[8, 5000, 5]])
    with pytest.raises(UserError, match="2-7-0000 has 3200 samples, too few"):
        build(small_prepared / "speech", WAVE_VIEW, wide)


# --- tokens -----------------------------------------------------------------------------------


def test_blocks_and_their_masks(small_prepared: Path) -> None:
    data = build(small_prepared / "corpus", TEXT_VIEW, TOKENS, mask=CHOSEN)
    batch = batch_of(data, *range(len(data)))
    tokens, masked, mask = batch["tokens"], batch["masked_tokens"], batch["mask"]
    assert tokens.dtype == masked.dtype == torch.int64
    assert tokens.shape == masked.shape == mask.shape
    assert tokens.shape[1] <= 40
    assert (tokens[:, 0] == 0).all()
    assert (masked[mask] == 69).all()
    assert (tokens != 69).all()  # uncorrupted
    assert not mask[tokens == 1].any()  # never padding
    changed = (tokens != masked) & ~mask
    assert changed.any()  # replaced by random ordinary tokens, not regressed
    assert masked[changed].min() > 2
    assert masked[changed].max() < 69
    assert_equal(batch, batch_of(data, *range(len(data))))
    alone = batch_of(data, 1)
    width = alone["tokens"].shape[1]
    assert torch.equal(alone["masked_tokens"][0], masked[1, :width])  # whatever the batch
    assert not torch.equal(mask, batch_of(data, *range(len(data)), epoch=1)["mask"])
    plain = batch_of(build(small_prepared / "corpus", TEXT_VIEW, TOKENS), 0)
    assert plain.keys() == {"ids", "tokens"}


def test_single_sentences(small_prepared: Path) -> None:
    data = build(small_prepared / "SST-2", TEXT_VIEW, TOKENS, task=TWO, split="dev", train=False)
    batch, model = batch_of(data, 1, 4), Tokenizer(small_prepared / "tokenizer")
    expected = [0, *model.encode(f'"{SENTENCES[4]}'), 2]
    assert batch["tokens"][1, : len(expected)].tolist() == expected
    assert batch["tokens"][1, len(expected) :].eq(1).all()
    assert batch["labels"].tolist() == [1, 0]
    assert batch["labels"].dtype == torch.int64
    assert batch["ids"] == ["dev-1", "dev-4"]
    assert data.references[1] == 1


def test_pairs(small_prepared: Path) -> None:
    wide = params.TokenAugment(kind="text", max_tokens=200)
    data = build(small_prepared / "MRPC", wide, TOKENS, task=TWO)
    model = Tokenizer(small_prepared / "tokenizer")
    a, b = model.encode(SENTENCES[2]), model.encode(f'"{SENTENCES[2]}" a')
    assert batch_of(data, 2)["tokens"][0].tolist() == [0, *a, 2, 2, *b, 2]
    numbers = build(small_prepared / "STS-B", wide, TOKENS, task=NUMBER)
    batch = batch_of(numbers, 1, 3)
    assert batch["labels"].tolist() == [0.5, 1.5]
    assert batch["labels"].dtype == torch.float32
    assert numbers.references[3] == 1.5


def test_the_longer_text_is_shortened_first() -> None:
    a, b = list(range(10, 20)), list(range(30, 33))
    assert join(a, b, 100) == [0, *a, 2, 2, *b, 2]
    assert join(a, b, 11) == [0, 10, 11, 12, 13, 2, 2, *b, 2]
    assert join(b, a, 11) == [0, *b, 2, 2, 10, 11, 12, 13, 2]
    for size_a in range(8):
        for size_b in range(8):
            for most in range(6, 20):
                _check_shortened(size_a, size_b, most)
    assert join(a, None, 5) == [0, 10, 11, 12, 2]
    assert join(b, None, 5) == [0, 30, 31, 32, 2]


def _check_shortened(size_a: int, size_b: int, most: int) -> None:
    """As dropping one token at a time from the longer, the second if equal."""
    keep_a, keep_b = size_a, size_b
    while keep_a + keep_b > most - 4:
        if keep_a > keep_b:
            keep_a -= 1
        else:
            keep_b -= 1
    found = join([10] * size_a, [20] * size_b, most)
    assert (found.count(10), found.count(20)) == (keep_a, keep_b)
    assert len(found) <= most
