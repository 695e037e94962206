"""view.decode device: the views of the host but for rounding, made from files beside the model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_builds import BLOCKS, PATCHES, TEXT_VIEW, TOKENS, TWO, assert_equal, batch_of, build
from torch.utils.data import DataLoader

from d2v import params
from d2v.cli import prepare
from d2v.util.errors import UserError

CPU = torch.device("cpu")
HOST = params.ImageAugment(kind="vision", random_resized_crop=[0.3, 1.0], flip=True)
JITTER = HOST.model_copy(update={"color_jitter": 0.4})


def there(view: params.ImageAugment) -> params.ImageAugment:
    return view.model_copy(update={"decode": "device"})


def photographs(root: Path, suffix: str = "JPEG") -> Path:
    """Six images of several sizes, none so large that the host reduces it, and one in CMYK."""
    draw = np.random.default_rng(0)
    folder = root / "i" / "train" / "a"
    folder.mkdir(parents=True)
    for n, shape in enumerate([(40, 44), (41, 37), (47, 30), (29, 46), (33, 33), (45, 45)]):
        coarse = Image.fromarray(draw.integers(0, 256, (5, 6, 3), np.uint8))
        whole = coarse.resize(shape[::-1], Image.Resampling.BICUBIC)
        whole = whole.convert("CMYK") if n == 5 and suffix == "JPEG" else whole
        whole.save(folder / f"{n}.{suffix}", **({"quality": 95} if suffix == "JPEG" else {}))
    prepare.main(["imagefolder", str(root / "i"), "-o", str(root / "set")])
    return root / "set"


@pytest.mark.parametrize(("view", "most"), [(HOST, 1.0), (JITTER, 2.5)])
def test_views_are_those_of_the_host(
    tmp_path: Path, view: params.ImageAugment, most: float
) -> None:
    prepared = photographs(tmp_path)
    host = build(prepared, view, PATCHES, mask=BLOCKS)
    device = build(prepared, there(view), PATCHES, mask=BLOCKS)
    scale = 255 * torch.tensor(host.meta["std"][:3]).view(3, 1, 1)
    for epoch in range(6):
        expected = batch_of(host, *range(6), epoch=epoch)
        given = batch_of(device, *range(6), epoch=epoch)
        assert "images" not in given
        found = device.finish(given, CPU)
        assert found.keys() == expected.keys()
        assert found["images"].shape == (6, 3, 24, 24)
        assert found["images"].is_contiguous()
        away = (found.pop("images") - expected.pop("images")).mul(scale).abs().mean((1, 2, 3))
        assert away.max() < most, away  # of 255, in the mean of each image
        assert_equal(found, expected)
    assert host.finish(expected, CPU) is expected


def test_workers_hand_over_files(tmp_path: Path) -> None:
    data = build(photographs(tmp_path), there(JITTER), PATCHES, mask=BLOCKS)
    places = [[(0, 0), (0, 3)], [(1, 5), (1, 1), (2, 0)]]
    loader: DataLoader[Any] = DataLoader(
        data, batch_sampler=places, collate_fn=data.collate, num_workers=1
    )
    for batch, chosen in zip(loader, places, strict=True):
        expected = data.finish(data.collate([data[place] for place in chosen]), CPU)
        assert_equal(data.finish(batch, CPU), expected)


def test_evaluation_stays_on_the_host(tmp_path: Path) -> None:
    prepared = photographs(tmp_path)
    one = TWO.model_copy(update={"classes": 1})
    batches = [
        batch_of(build(prepared, view, PATCHES, task=one, train=False), 0, 1)
        for view in (HOST, there(HOST))
    ]
    assert_equal(*batches)


def test_a_png_among_the_jpeg_files_is_decoded_on_the_host(tmp_path: Path) -> None:
    """ImageNet has one that is called JPEG."""
    prepared = photographs(tmp_path)
    path = tmp_path / "i" / "train" / "a" / "1.JPEG"
    Image.open(path).save(path, "PNG")
    prepare.main(["imagefolder", str(tmp_path / "i"), "-o", str(prepared)])
    host, device = (build(prepared, view, PATCHES) for view in (HOST, there(HOST)))
    expected = batch_of(host, *range(6))["images"]
    found = device.finish(batch_of(device, *range(6)), CPU)["images"]
    scale = 255 * torch.tensor(host.meta["std"][:3]).view(3, 1, 1)
    assert ((found - expected) * scale).abs().mean() < 1
    broken = batch_of(device, 0, 1, 2)
    start, end = broken["files"].ends[:2]
    broken["files"].payload[start + 40 : end] = 0
    with pytest.raises(UserError, match=r"train: a/1: not a readable image; replace"):
        device.finish(broken, CPU)


def test_broken_files_are_named(tmp_path: Path) -> None:
    data = build(photographs(tmp_path), there(HOST), PATCHES)
    batch = batch_of(data, 0, 1, 2)
    start = batch["files"].ends[0]
    batch["files"].payload[start + 2 : start + 300] = 0
    with pytest.raises(UserError, match=r"train: a/1: corrupt image \(.*\); replace it"):
        data.finish(batch, CPU)


@pytest.mark.parametrize(
    ("changes", "channels", "message"),
    [
        ({"shift": 2}, 3, r"view\.shift needs view\.decode host"),
        ({"rand_augment": "rand-m9"}, 3, r"view\.rand_augment needs view\.decode host"),
        ({"erase": 0.5}, 3, r"view\.erase needs view\.decode host"),
        ({"random_resized_crop": None}, 3, r"needs view\.random_resized_crop and"),
        ({}, 1, r"needs view\.random_resized_crop and encoder\.channels 3"),
    ],
)
def test_views_that_tensors_lack_are_refused(
    small_prepared: Path, changes: dict[str, Any], channels: int, message: str
) -> None:
    view = there(HOST).model_copy(update=changes)
    encoder = PATCHES.model_copy(update={"channels": channels})
    with pytest.raises(UserError, match=message):
        build(small_prepared / "images", view, encoder)


def test_other_modalities_have_nothing_to_finish(small_prepared: Path) -> None:
    data = build(small_prepared / "corpus", TEXT_VIEW, TOKENS)
    batch = batch_of(data, 0)
    assert data.finish(batch, CPU) is batch
