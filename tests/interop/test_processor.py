"""Pixels are those of Hugging Face's image processors, whatever their fields say."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

transformers = pytest.importorskip("transformers")

from closeness import LIMIT, apart  # noqa: E402
from hf_builds import model, save  # noqa: E402
from own_builds import content  # noqa: E402

import d2v  # noqa: E402
from d2v.data.inputs import read  # noqa: E402
from d2v.interop import hf_export  # noqa: E402
from d2v.util.errors import UserError  # noqa: E402

SIDE = 24
CROP = {"do_center_crop": True, "crop_size": {"height": SIDE, "width": SIDE}}
SQUARE = {"size": {"height": SIDE, "width": SIDE}}
SETTINGS: dict[str, dict[str, Any]] = {
    "square": SQUARE,
    "a number": {"size": SIDE},
    "resized, then cropped": {"size": {"height": 32, "width": 32}, **CROP},
    "oblong, then cropped": {"size": {"height": 40, "width": 33}, **CROP},
    "shorter side": {"size": {"shortest_edge": 31}, **CROP},
    "shorter side, a number": {"size": 29, "default_to_square": False, **CROP, "crop_size": SIDE},
    "too small to crop": {"size": {"height": 15, "width": 30}, **CROP},
    "cropped only": {"do_resize": False, **CROP},
    "nearest": {**SQUARE, "resample": 0},
    "bilinear": {"size": {"shortest_edge": 30}, **CROP, "resample": 2},
    "not rescaled": {**SQUARE, "do_rescale": False, "image_mean": 99.0, "image_std": 50.0},
    "rescaled to 0 ... 2": {**SQUARE, "rescale_factor": 1 / 127.5, "image_mean": [1, 1, 1]},
    "rescaled only": {**SQUARE, "do_normalize": False},
    "as they are": {**SQUARE, "do_normalize": False, "do_rescale": False},
    "of channels": {**SQUARE, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 24 x 24 pixels, and images of several shapes."""
    root = tmp_path_factory.mktemp("processor")
    made = save(model("vision", "shared-bias", 5), root / "hf")
    random = np.random.default_rng(0)
    for number, (height, width) in enumerate([(30, 41), (57, 38), (24, 24), (36, 36), (100, 51)]):
        small = random.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), np.uint8)
        pixels = small.repeat(4, 0).repeat(4, 1)[:height, :width]
        Image.fromarray(pixels).save(root / f"{number}.png")
    return made


def images(folder: Path) -> list[Path]:
    return sorted(folder.parent.glob("*.png"))


def ours(folder: Path, processor: dict[str, Any]) -> list[np.ndarray]:
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return [found.value for found in read(d2v.load(folder), images(folder))]


def theirs(folder: Path, processor: Any) -> list[np.ndarray]:
    found = [processor(Image.open(path), return_tensors="pt") for path in images(folder)]
    return [inputs["pixel_values"][0].numpy() for inputs in found]


@pytest.mark.parametrize("name", SETTINGS)
def test_pixels_are_those_of_the_processor(folder: Path, name: str) -> None:
    processor = transformers.BeitImageProcessor(**SETTINGS[name])
    found = ours(folder, processor.to_dict())
    for a, b in zip(found, theirs(folder, processor), strict=True):
        assert a.shape == b.shape == (3, SIDE, SIDE)
        assert np.abs(a - b).max() <= 1e-5 * np.abs(b).max()


@pytest.mark.parametrize("kind", ["ViT", "DeiT", "Beit"])
def test_fields_that_are_left_out_have_the_defaults_of_their_kind(
    tmp_path: Path, kind: str
) -> None:
    """As of a model of 224 x 224, whose file names nothing but the processor."""
    config = transformers.Data2VecVisionConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    transformers.Data2VecVisionModel(config).save_pretrained(tmp_path / "hf")
    pixels = np.random.default_rng(0).integers(0, 256, (250, 301, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "0.png")
    processor = getattr(transformers, f"{kind}ImageProcessor")()
    (found,) = ours(tmp_path / "hf", {"image_processor_type": f"{kind}ImageProcessor"})
    (expected,) = theirs(tmp_path / "hf", processor)
    assert np.abs(found - expected).max() < 1e-5


def test_logits_after_resizing_and_cropping(folder: Path) -> None:
    """What BeitImageProcessor() of transformers 4 writes: 256 x 256, then the centre 224."""
    processor = transformers.BeitImageProcessor(**SETTINGS["resized, then cropped"])
    processor.save_pretrained(folder)
    made = transformers.Data2VecVisionForImageClassification.from_pretrained(folder).eval()
    pixels = torch.from_numpy(np.stack(theirs(folder, processor)))
    with torch.no_grad():
        expected = made(pixel_values=pixels).logits
    found = [f.logits for f in d2v.features(d2v.load(folder), images(folder))]
    assert apart(torch.stack(found), expected) < LIMIT


def test_an_older_file_is_read(folder: Path) -> None:
    """Names and numbers as transformers 4.16 wrote them."""
    old = {
        "feature_extractor_type": "BeitFeatureExtractor",
        "do_resize": True,
        "size": SIDE,
        "do_center_crop": False,
        "crop_size": 224,
        "resample": 2,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "reduce_labels": False,
    }
    processor = transformers.BeitImageProcessor(size=SIDE, resample=2)
    for a, b in zip(ours(folder, old), theirs(folder, processor), strict=True):
        assert np.abs(a - b).max() < 1e-5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"size": {"height": 32, "width": 32}}, "size gives images of 32 x 32, but the model"),
        ({**CROP, "crop_size": 20}, "crop_size gives images of 20 x 20, but the model takes 24"),
        ({"size": {"shortest_edge": 24}}, "size.shortest_edge 24 without do_center_crop"),
        ({"size": {"longest_edge": 24}, **CROP}, "size with longest_edge is not supported"),
        (
            {"size": {"shortest_edge": 24, "longest_edge": 30}, **CROP},
            "size with shortest_edge, longest_edge is not supported",
        ),
        ({"size": "24"}, "size"),
        ({"size": 0}, "size: 0 is not a valid side"),
        ({"resample": 5}, r"resample 5 \(hamming\) is not supported"),
        ({"resample": 9}, "resample 9 is not supported"),
        ({"do_pad": True}, "do_pad True is not supported"),
        ({"do_flip_channel_order": True}, "do_flip_channel_order True is not supported"),
        ({"crop_pct": 0.875}, "crop_pct 0.875 is not supported"),
        ({"image_processor_type": "CLIPImageProcessor"}, "image_processor_type 'CLIPImage"),
        ({"data_format": "channels_last"}, "data_format 'channels_last'"),
        ({"image_mean": [0.5, 0.5]}, "image_mean has 2 values, but the model takes 3 channels"),
        ({"image_std": 0}, "image_std"),
        ({"image_mean": "a"}, "image_mean"),
        ({"rescale_factor": 0}, "rescale_factor 0"),
        ({"do_resize": "yes"}, "do_resize"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(
    folder: Path, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said) as error:
        ours(folder, {**SQUARE, **change})
    assert str(error.value).startswith(f"{folder / 'preprocessor_config.json'}: ")
    assert "\n" not in str(error.value)


def test_without_a_processor_nothing_is_taken_for_granted(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink(missing_ok=True)
    assert d2v.load(folder).inputs.mean is None
    with pytest.raises(UserError, match=r"needs its preprocessor_config\.json"):
        list(d2v.features(d2v.load(folder), images(folder)))


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_an_export_says_the_same(folder: Path, tmp_path: Path, name: str) -> None:
    processor = transformers.BeitImageProcessor(**SETTINGS[name])
    expected = ours(folder, processor.to_dict())
    again = d2v.convert(d2v.convert(folder, "d2v", tmp_path / "d2v"), "hf", tmp_path / "hf")
    written = transformers.AutoImageProcessor.from_pretrained(again)
    for a, b in zip(expected, theirs(folder, written), strict=True):
        assert np.abs(a - b).max() <= 1e-5 * np.abs(a).max()
    found = [value.value for value in read(d2v.load(again), images(folder))]
    assert all(np.abs(a - b).max() <= 1e-5 for a, b in zip(expected, found, strict=True))


@pytest.mark.parametrize(
    "change", [{}, {"resize": 29}, {"stretch": [24, 24]}, {"stretch": [30, 33]}]
)
def test_our_own_pixels_are_close_to_those_of_our_export(
    folder: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    """Centres that need no rounding; Pillow and torchvision's tensors are a few of 255 apart."""
    made = content("vision")
    made.inputs = made.inputs.model_copy(update=change)
    assert hf_export.write(made, tmp_path / "hf") == []
    written = transformers.AutoImageProcessor.from_pretrained(tmp_path / "hf")
    paths = [path for path in images(folder) if path.stem in ("2", "3")]
    module = d2v.load(tmp_path / "hf")
    module.content.inputs = made.inputs
    for path, found in zip(paths, read(module, paths), strict=True):
        b = written(Image.open(path), return_tensors="pt")["pixel_values"][0].numpy()
        assert np.abs(found.value - b).mean() < 0.02


def test_an_export_without_mean_and_deviation_has_no_processor(tmp_path: Path) -> None:
    made = content("vision")
    made.inputs = made.inputs.model_copy(update={"mean": None, "std": None})
    (note,) = hf_export.write(made, tmp_path / "hf")
    assert note == "mean and deviation of pixels are not known: no preprocessor_config.json"
    assert not (tmp_path / "hf" / "preprocessor_config.json").exists()
