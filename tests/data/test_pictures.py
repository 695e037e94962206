"""Views of what they show alone: torchvision's to the last bit, or from a reduced JPEG file."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_builds import IMAGE_VIEW, PATCHES, build
from torchvision.transforms import v2

from d2v import params
from d2v.cli import prepare
from d2v.data import examples, vision
from d2v.data.augment import array, crop, drawing, image
from d2v.data.readers.imagefolder import picture
from d2v.data.views import augment, draw, jittered, reduction
from d2v.model.masking import rng
from d2v.params.influence import influential

BICUBIC = v2.InterpolationMode.BICUBIC


def by_torchvision(
    pixels: np.ndarray, view: params.ImageAugment, size: int, generator: np.random.Generator
) -> np.ndarray:
    """The same view from the whole image, with torchvision's own classes one after another."""
    steps: list[Any] = []
    if view.color_jitter:
        steps.append(v2.ColorJitter(*[view.color_jitter] * 3))
    if view.random_resized_crop:
        steps.append(v2.RandomResizedCrop(size, view.random_resized_crop, interpolation=BICUBIC))
    if steps:
        with drawing(int(generator.integers(2**62))):
            pixels = array(v2.Compose(steps)(image(pixels)))
    rows, columns = generator.integers(-view.shift, view.shift + 1, 2) if view.shift else (0, 0)
    pixels = crop(pixels, size, int(rows), int(columns))
    return pixels[:, ::-1] if view.flip and generator.random() < 0.5 else pixels


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(50, 37, 3), (47, 90, 3), (20, 30, 1)])
@pytest.mark.parametrize(
    "view",
    [
        {"random_resized_crop": [0.08, 1.0], "flip": True, "color_jitter": 0.4},
        {"random_resized_crop": [0.3, 0.4], "shift": 2, "flip": True},
        {"color_jitter": 1.0, "shift": 1},
    ],
)
def test_views_are_torchvisions_to_the_last_bit(
    shape: tuple[int, ...], view: dict[str, Any]
) -> None:
    chosen = params.ImageAugment(kind="vision", **view)
    pixels = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    for n in range(150):
        expected = by_torchvision(pixels, chosen, 24, rng(5, 0, n))
        assert (augment(pixels, chosen, 24, rng(5, 0, n)) == expected).all(), n


def test_jitter_of_a_part_is_part_of_the_jitter() -> None:
    """All orders, with factors that clip, leave, blacken."""
    whole = Image.fromarray(np.random.default_rng(2).integers(0, 256, (31, 40, 3), np.uint8))
    names = ("brightness", "contrast", "saturation")
    for n in range(300):
        draws = np.random.default_rng(n)
        factors = draws.choice([0.0, 0.3, 0.77, 1.0, 1.3, 2.0], 3)
        steps = [
            (str(name), float(f)) for name, f in zip(draws.permutation(names), factors, strict=True)
        ]
        expected = whole
        for name, factor in steps:
            expected = getattr(v2.functional, f"adjust_{name}")(expected, factor)
        found = jittered(whole, tuple(steps), (3, 5, 21, 30))
        assert found.tobytes() == expected.crop((3, 5, 21, 30)).tobytes(), steps


def test_boxes_lie_in_the_image() -> None:
    view = params.ImageAugment(kind="vision", random_resized_crop=[0.08, 1.0])
    for n in range(50):
        box = draw(view, (30, 70), 24, rng(0, 0, n)).box
        assert box is not None
        assert 0 <= box.top <= box.top + box.height <= 30
        assert 0 <= box.left <= box.left + box.width <= 70


# --- reduced scale --------------------------------------------------------------------------------

SMALL = params.ImageAugment(kind="vision", random_resized_crop=[0.5, 1.0], flip=True)
JITTER = SMALL.model_copy(update={"color_jitter": 0.4})
RESIZE = params.ImageAugment(kind="vision", resize=27)
SHAPES = ((211, 177), (150, 241), (90, 75), (400, 420))


@pytest.fixture(scope="module")
def smooth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared sets of the same smooth images of several sizes as JPEG and as PNG files."""
    root = tmp_path_factory.mktemp("smooth")
    draw = np.random.default_rng(0)
    for name, shape in enumerate(SHAPES):
        coarse = Image.fromarray(draw.integers(0, 256, (5, 6, 3), np.uint8))
        whole = coarse.resize(shape[::-1], Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        whole.save(buffer, "JPEG", quality=95)
        for kind in ("JPEG", "PNG"):
            folder = root / f"i{kind}" / "train" / "a"
            folder.mkdir(parents=True, exist_ok=True)
            if kind == "JPEG":
                (folder / f"{name}.JPEG").write_bytes(buffer.getvalue())
            else:
                Image.open(buffer).save(folder / f"{name}.png")
    for kind in ("JPEG", "PNG"):
        prepare.main(["imagefolder", str(root / f"i{kind}"), "-o", str(root / kind)])
    return root


@pytest.mark.slow
@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize(("view", "train"), [(SMALL, True), (JITTER, True), (RESIZE, False)])
def test_large_jpeg_files_are_decoded_smaller(
    smooth: Path,
    monkeypatch: pytest.MonkeyPatch,
    view: params.ImageAugment,
    train: bool,
    channels: int,
) -> None:
    scales: list[int] = []

    def seen(payload: Any, name: str, by: int = 1, *, upright: bool) -> Image.Image:
        scales.append(by)
        return picture(payload, name, by, upright=upright)

    monkeypatch.setattr(vision, "picture", seen)
    encoder = PATCHES.model_copy(update={"channels": channels})
    kept = build(smooth / "JPEG", view, encoder, train=train)
    whole = build(smooth / "PNG", view, encoder, train=train)
    monkeypatch.setattr(examples, "IN_MEMORY", 0)
    data = build(smooth / "JPEG", view, encoder, train=train)
    for place in [(e, i) for e in range(8 if train else 1) for i in range(len(SHAPES))]:
        pixels = data[place]["pixels"]
        exact = whole[place]["pixels"].astype(int)  # PNG: of the same pixels, at full scale
        reduced = scales[-2] > 1
        assert pixels.shape == (24, 24, channels)
        assert (kept[place]["pixels"] == pixels).all()  # whatever is kept in memory
        assert reduced or (pixels == exact).all()
        assert np.abs(pixels - exact).mean() < 2.0
    assert {2, 4, 8} <= set(scales)


@pytest.mark.parametrize(("view", "train"), [(SMALL, True), (RESIZE, False)])
def test_files_can_be_decoded_whole(smooth: Path, view: params.ImageAugment, train: bool) -> None:
    exactly = view.model_copy(update={"reduced": False})
    data = build(smooth / "JPEG", exactly, PATCHES, train=train)
    whole = build(smooth / "PNG", view, PATCHES, train=train)  # PNG has one scale only
    for place in range(len(SHAPES)):
        assert (data[0, place]["pixels"] == whole[0, place]["pixels"]).all()


def test_whole_decoding_is_another_run_and_the_default_is_not() -> None:
    paper = params.load(Path(__file__).parents[2] / "params" / "paper.yaml")
    run = paper.finetune["imagenet-base"]
    assert "reduced" not in influential(run)["view"]
    other = run.view.model_copy(update={"reduced": False})
    assert influential(run.model_copy(update={"view": other}))["view"]["reduced"] is False


def test_a_reduction_leaves_enough_pixels() -> None:
    assert [reduction(side, 24) for side in (23, 24, 47, 48, 95, 96, 191, 192, 1000)] == [
        *[1, 1, 1, 2, 2, 4, 4, 8, 8],
    ]


def test_small_images_are_decoded_whole(small_prepared: Path) -> None:
    data: Any = build(small_prepared / "images", JITTER, PATCHES)
    plain: Any = build(small_prepared / "images", IMAGE_VIEW, PATCHES)
    for index in range(len(data)):
        pixels = plain.pixels[int(data.rows[index])]
        expected = by_torchvision(pixels, JITTER, 24, rng(data.seed, 2, index))
        assert (data[2, index]["pixels"] == expected).all()
