"""Views, crops, padding, masks, labels, as functions of (seed, epoch, index)."""

import random
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
from timm.data.auto_augment import rand_augment_transform
from torchvision.transforms import v2

from d2v import params
from d2v.data import letters
from d2v.data.augment import crop, image, resized
from d2v.data.speech import at_speed
from d2v.data.text import join
from d2v.data.tokenizer import Tokenizer
from d2v.data.views import augment
from d2v.model.frames import frame_count
from d2v.model.masking import channel_masks, rng, span_masks
from d2v.util.errors import UserError

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


@pytest.mark.parametrize(
    ("name", "view", "encoder", "mask"),
    [
        ("images", IMAGE_VIEW, PATCHES, BLOCKS),
        ("speech", WAVE_VIEW, FRAMES, SPANS),
        ("corpus", TEXT_VIEW, TOKENS, CHOSEN),
    ],
)
def test_batches_say_where_their_masks_are_true(
    small_prepared: Path, name: str, view: params.View, encoder: params.Encoder, mask: params.Mask
) -> None:
    data = build(small_prepared / name, view, encoder, mask=mask)
    batch = batch_of(data, *range(len(data)))
    places = batch["mask"].flatten().nonzero()[:, 0]
    assert batch["masked"].dtype == torch.int64
    assert torch.equal(batch["masked"], places)
    assert len(places) > 3


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


# BEiT's fine-tuning (recipes of the paper's Table 1), of which a micro-batch is mixed as a whole
BEIT = params.ImageAugment(
    kind="vision",
    random_resized_crop=[0.08, 1.0],
    flip=True,
    rand_augment="rand-m9-mstd0.5-inc1",
    erase=0.25,
    mixup=0.8,
    cutmix=1.0,
    normalise="half",
)
SMOOTH = TWO.model_copy(update={"label_smoothing": 0.1})


def global_states() -> tuple[object, ...]:
    """Of all generators that a library might draw from."""
    words = np.random.get_state()[1].tobytes()  # noqa: NPY002 - the global one is meant
    return random.getstate(), words, torch.get_rng_state().tolist()


def test_beit_views_depend_on_their_keys_only(small_prepared: Path) -> None:
    data = build(small_prepared / "images", BEIT, PATCHES, task=SMOOTH)
    before = global_states()
    first = batch_of(data, 5, 2, epoch=1)
    assert global_states() == before  # the trainer's random numbers are its own
    random.seed(7)
    np.random.seed(7)  # noqa: NPY002 - timm uses the global one
    torch.manual_seed(7)
    again = build(small_prepared / "images", BEIT, PATCHES, task=SMOOTH)
    assert_equal(first, batch_of(again, 5, 2, epoch=1))
    assert not torch.equal(first["images"], batch_of(data, 5, 2, epoch=2)["images"])
    assert first["labels"].shape == (2, 2)
    alone = BEIT.model_copy(update={"mixup": 0.0, "cutmix": 0.0})
    one = build(small_prepared / "images", alone, PATCHES, task=SMOOTH)
    pair, single = batch_of(one, 5, 2, epoch=1), batch_of(one, 2, epoch=1)
    assert torch.equal(pair["images"][1], single["images"][0])  # whatever the batch
    assert pair["labels"].tolist() == [1, 0]  # smoothed by the loss


def test_rand_augment_is_timms_with_beits_settings() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    view = params.ImageAugment(kind="vision", rand_augment="rand-m9-mstd0.5-inc1")
    found = [augment(pixels, view, 24, rng(0, 0, i), (1, 2, 3)) for i in range(30)]
    assert len({f.tobytes() for f in found}) > 20
    seed = int(rng(0, 0, 4).integers(2**62))
    settings = {"translate_const": 10, "img_mean": (1, 2, 3), "interpolation": 3}
    change = rand_augment_transform("rand-m9-mstd0.5-inc1", settings)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    assert (found[4] == np.asarray(change(Image.fromarray(pixels)))).all()
    odd = params.ImageAugment(kind="vision", rand_augment="mild-m9")
    with pytest.raises(UserError, match="timm has no 'mild-m9'"):
        augment(pixels, odd, 24, rng(0, 0, 0))


def test_erasing_fills_a_quarter_of_the_images_with_noise(small_prepared: Path) -> None:
    view = params.ImageAugment(kind="vision", erase=0.25)
    erased = build(small_prepared / "images", view, PATCHES)
    plain = build(small_prepared / "images", IMAGE_VIEW, PATCHES)
    shares = []
    for epoch in range(100):
        a, b = (batch_of(data, *range(6), epoch=epoch)["images"] for data in (erased, plain))
        changed = (a != b).any(1)  # (B, H, W)
        shares += changed.float().mean((1, 2)).tolist()
        for noise in (a[i][:, changed[i]] for i in range(6) if changed[i].sum() > 60):
            assert abs(noise.mean()) < 0.6
            assert 0.5 < noise.std() < 1.5
    hit = [share for share in shares if share]
    assert 0.18 < len(hit) / len(shares) < 0.32
    assert 0.01 < min(hit) < max(hit) < 0.4
    evaluated = build(small_prepared / "images", view, PATCHES, train=False)
    assert torch.equal(batch_of(evaluated, 0)["images"], batch_of(plain, 0)["images"])


def test_mixed_images_have_classes_in_the_same_shares(small_prepared: Path) -> None:
    view = params.ImageAugment(kind="vision", mixup=0.8)
    plain = batch_of(build(small_prepared / "images", IMAGE_VIEW, PATCHES), 0, 4)["images"]
    data = build(small_prepared / "images", view, PATCHES, task=SMOOTH)
    for epoch in range(5):
        batch = batch_of(data, 0, 4, epoch=epoch)
        share = (batch["labels"][0, 0] - 0.05) / 0.9  # without smoothing
        assert torch.allclose(batch["labels"].sum(1), torch.ones(2))
        mixed = share * plain + (1 - share) * plain.flip(0)
        assert torch.allclose(batch["images"], mixed, atol=1e-4)
    cut = params.ImageAugment(kind="vision", cutmix=1.0)
    batch = batch_of(build(small_prepared / "images", cut, PATCHES, task=TWO), 0, 4, epoch=3)
    same = (batch["images"][0] == plain[0]).all(0).float().mean()
    assert batch["labels"][0, 0] == pytest.approx(float(same), abs=1e-6)


def test_views_that_do_not_fit_are_refused(small_prepared: Path) -> None:
    def built(task: params.Classify | None = TWO, channels: int = 3, **view: object) -> object:
        encoder = PATCHES.model_copy(update={"channels": channels})
        chosen = params.ImageAugment(kind="vision", **view)
        return build(small_prepared / "images", chosen, encoder, task=task)

    with pytest.raises(UserError, match="mix classes, and there are none"):
        built(None, mixup=0.8)
    with pytest.raises(UserError, match=r"a micro-batch has 3 images: .*must be even"):
        batch_of(built(mixup=0.8), 0, 1, 2)
    for view in ({"normalise": "imagenet"}, {"rand_augment": "rand-m9"}):
        with pytest.raises(UserError, match=r"need encoder\.channels 3"):
            built(channels=1, **view)
    assert built(channels=1, normalise="half").mean.shape == (1, 1, 1)


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("imagenet", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ("half", [0.5] * 3, [0.5] * 3),
    ],
)
def test_known_means_are_torchvisions(
    small_prepared: Path, name: str, mean: list[float], std: list[float]
) -> None:
    view = params.ImageAugment(kind="vision", normalise=name)
    data = build(small_prepared / "images", view, PATCHES, train=False)
    pixels = torch.from_numpy(data[0, 3]["pixels"].copy()).permute(2, 0, 1) / 255
    expected = v2.Normalize(mean, std)(pixels)
    assert torch.allclose(batch_of(data, 3)["images"][0], expected, atol=1e-5)


def test_evaluation_resizes_before_the_centre_crop(small_prepared: Path) -> None:
    view = params.ImageAugment(kind="vision", resize=27)
    data = build(small_prepared / "images", view, PATCHES, train=False)
    path = small_prepared.parent / "i" / "train" / "n02" / "n02_train1.JPEG"
    steps = [v2.Resize(27, v2.InterpolationMode.BICUBIC), v2.CenterCrop(24)]
    with Image.open(path) as picture:
        expected = np.asarray(v2.Compose(steps)(picture.convert("RGB")))
    assert (data[0, 4]["pixels"] == expected).all()
    wide = np.random.default_rng(0).integers(0, 256, (40, 90, 3), np.uint8)
    assert resized(image(wide), 27, 24, (40, 90)).shape == (24, 24, 3)


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


def test_fine_tuning_hides_spans_of_channels_and_of_frames(small_prepared: Path) -> None:
    spans = params.ChannelMask(prob=0.5, length=4)
    view = params.WaveAugment(kind="speech", mask=SPANS, mask_channels=spans)
    data = build(small_prepared / "speech", view, FRAMES, task=CTC, dim=32)
    batch = batch_of(data, 0, 2)
    hidden = batch["channel_mask"]
    assert hidden.shape == (2, 32)
    assert hidden.dtype == torch.bool
    assert 4 <= hidden.sum(1)[0] == hidden.sum(1)[1] <= 20  # equal counts
    assert torch.equal(hidden, batch_of(data, 0, 2)["channel_mask"])
    assert not torch.equal(hidden, batch_of(data, 0, 2, epoch=1)["channel_mask"])
    alone = build(
        small_prepared / "speech", view.model_copy(update={"mask": None}), FRAMES, task=CTC, dim=32
    )
    assert torch.equal(hidden, batch_of(alone, 0, 2)["channel_mask"])
    assert "mask" not in batch_of(alone, 0, 2)
    evaluated = build(small_prepared / "speech", view, FRAMES, task=CTC, train=False, dim=32)
    assert not {"mask", "channel_mask"} & batch_of(evaluated, 0).keys()


def test_spans_of_channels_are_drawn_as_frames_are_but_on_their_own() -> None:
    rows = [[(0, e, i) for i in range(4)] for e in range(150)]
    drawn = params.ChannelMask(prob=0.25, length=64)
    same = params.SpanMask(kind="span", prob=0.25, length=64, min_spans=0)
    channels = np.stack([channel_masks(drawn, 768, keys) for keys in rows])
    frames = np.stack([span_masks(same, [768] * 4, keys) for keys in rows])
    assert (channels != frames).any((1, 2)).all()
    assert channels.mean() == pytest.approx(frames.mean(), abs=0.01)
    assert (channels.sum(2) == channels.sum(2)[:, :1]).all()  # fairseq's require_same_masks
    keys = rows[0]
    off = channel_masks(params.ChannelMask(prob=0.0, length=64), 768, keys)
    assert not off.any()


def test_sizes_are_those_of_the_batches(small_prepared: Path) -> None:
    whole = build(small_prepared / "speech", WAVE_VIEW, FRAMES)
    assert whole.sizes.tolist() == [3200, 6400, 9600]
    cropped = build(
        small_prepared / "speech", params.WaveAugment(kind="speech", max_samples=5000), FRAMES
    )
    assert cropped.sizes.tolist() == [3200, 5000, 5000]
    few = params.WaveAugment(kind="speech", lengths=2)
    cropped = build(small_prepared / "speech", few, FRAMES, mask=SPANS)
    assert cropped.sizes.tolist() == [3200, 6400, 6400]
    assert batch_of(cropped, 2)["waves"].shape == (1, 6400)
    assert batch_of(cropped, 2, 0)["waves"].shape == (2, 3200)
    corpus = build(small_prepared / "corpus", TEXT_VIEW, TOKENS)
    assert corpus.sizes.tolist() == [len(corpus[0, i]["tokens"]) for i in range(len(corpus))]
    for most in (12, 200):
        view = params.TokenAugment(kind="text", max_tokens=most)
        for name, task in (("SST-2", TWO), ("MRPC", TWO)):
            data = build(small_prepared / name, view, TOKENS, task=task)
            assert data.sizes.tolist() == [len(data[0, i]["tokens"]) for i in range(len(data))]
    with pytest.raises(UserError, match=r"these examples have one size; give train\.batch"):
        build(small_prepared / "images", IMAGE_VIEW, PATCHES).sizes  # noqa: B018


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


def test_a_waveform_is_sped_up_with_its_pitch() -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000).astype(np.float32)
    for factor in (0.8, 1.0, 1.25):
        heard = at_speed(tone, factor)
        assert heard.dtype == np.float32
        assert abs(len(heard) - 16_000 / factor) <= 1
        loudest = np.abs(np.fft.rfft(heard)).argmax() * 16_000 / len(heard)
        assert abs(loudest - 440 * factor) < 1


def test_training_utterances_have_speeds_of_their_own(small_prepared: Path) -> None:
    view = params.WaveAugment(kind="speech", speed=[0.8, 1.25], mask=SPANS)
    data = build(small_prepared / "speech", view, FRAMES, task=CTC)
    lengths = np.array([batch_of(data, 0, 2, epoch=k)["samples"].tolist() for k in range(40)])
    for samples, found, slowest in zip((3200, 9600), lengths.T, data.sizes[[0, 2]], strict=True):
        assert samples / 1.25 - 1 <= found.min() < 0.9 * samples
        assert 1.1 * samples < found.max() <= samples / 0.8 + 1
        assert len(set(found)) > 30
        assert slowest == samples / 0.8
    speeds = np.array([3200, 9600]) / lengths
    assert abs(np.corrcoef(speeds.T)[0, 1]) < 0.5
    batch = batch_of(data, 0, 2, epoch=5)
    assert_equal(batch, batch_of(data, 0, 2, epoch=5))
    assert batch["letter_counts"].tolist() == [9, 8]
    frames = frame_count(batch["samples"], CONVS)
    assert batch["mask"].shape == (2, int(frames.max()))
    plain = params.WaveAugment(kind="speech")
    evaluated, without = (
        build(small_prepared / "speech", v, FRAMES, task=CTC, train=False) for v in (view, plain)
    )
    assert_equal(batch_of(evaluated, 0, 2), batch_of(without, 0, 2))
    assert evaluated.sizes.tolist() == without.sizes.tolist()


def test_speeds_are_not_drawn_from_the_stream_of_the_masks(small_prepared: Path) -> None:
    view = params.WaveAugment(kind="speech", speed=[0.8, 1.25], mask=SPANS)
    data = build(small_prepared / "speech", view, FRAMES, task=CTC)
    for epoch in range(5):
        of_masks = rng(data.seed, epoch, 2).uniform(0.8, 1.25)
        assert abs(len(data[epoch, 2]["wave"]) - 9600 / of_masks) > 2


def test_waveforms_that_do_not_fit_are_refused(small_prepared: Path) -> None:
    cropped = params.WaveAugment(kind="speech", max_samples=5000)
    with pytest.raises(UserError, match="max_samples"):
        build(small_prepared / "speech", cropped, FRAMES, task=CTC)
    few = params.WaveAugment(kind="speech", lengths=2)
    with pytest.raises(UserError, match=r"view\.lengths crops waveforms"):
        build(small_prepared / "speech", few, FRAMES, task=CTC)
    with pytest.raises(UserError, match=r"view\.mixup .* task of kind tag"):
        build(small_prepared / "speech", params.WaveAugment(kind="speech", mixup=0.5), FRAMES)
    wide = params.WaveEncoder(kind="speech", conv_layers=[[8, 5000, 5]])
    with pytest.raises(UserError, match="2-7-0000 has 3200 samples, too few"):
        build(small_prepared / "speech", WAVE_VIEW, wide)
    wide = params.WaveEncoder(kind="speech", conv_layers=[[8, 2500, 5]])
    fast = params.WaveAugment(kind="speech", speed=[1.0, 1.5])
    build(small_prepared / "speech", fast, wide, task=CTC, train=False)
    with pytest.raises(UserError, match=r"3200 samples, too few .* at the highest view\.speed"):
        build(small_prepared / "speech", fast, wide, task=CTC)


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


def test_posterizing_to_no_bits_gives_black():
    """RandAugment's full magnitude asks for it, in one of a thousand views."""
    from d2v.data.augment import _posterize

    picture = Image.fromarray(np.full((4, 4, 3), 200, np.uint8))
    assert np.asarray(_posterize(picture, 0)).max() == 0
    assert np.asarray(_posterize(picture, 1)).max() == 128
    assert _posterize(picture, 8) is picture
