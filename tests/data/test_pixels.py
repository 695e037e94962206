"""Images of every mode become 8-bit RGB by the rule that d2v.data.pixels states, everywhere."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from own_builds import folder
from PIL import Image
from small_sets import image_tree

import d2v
from d2v.cli import prepare
from d2v.data import inputs
from d2v.data.readers.imagefolder import decode
from d2v.data.shards import Shards, read_meta
from d2v.util.errors import UserError

RAMP = np.linspace(0, 65535, 1024).reshape(32, 32)
COLOURS = np.array([[[200, 30, 60], [0, 255, 128]], [[9, 9, 9], [255, 255, 255]]], np.uint8)


def saved(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def sixteen(values: np.ndarray, kind: str = "PNG") -> bytes:
    return saved(Image.fromarray(values.astype(np.uint16)), kind)


def thrice(grey: np.ndarray) -> np.ndarray:
    return np.stack([grey.astype(np.uint8)] * 3, -1)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_of_grey_become_eight_not_white(kind):
    found = decode(sixteen(RAMP, kind), "ramp")
    assert (found == thrice(np.round(RAMP.astype(np.uint16) / 257))).all()
    assert len(np.unique(found)) == 256
    assert (found == 255).mean() < 0.01


def test_the_limits_of_a_value_are_those_of_rounding():
    values = np.array([[0, 128, 129, 257, 385, 386, 65406, 65407, 65535]])
    assert decode(sixteen(values), "x")[0, :, 0].tolist() == [0, 0, 1, 1, 1, 2, 254, 255, 255]


def test_big_endian_files_give_the_same():
    values = RAMP.astype(">u2")
    other = Image.frombytes("I;16B", (32, 32), values.tobytes())
    assert (decode(saved(other, "TIFF"), "big") == decode(sixteen(RAMP), "little")).all()


@pytest.mark.parametrize("mode", ["I", "F"])
def test_modes_without_a_known_range_are_refused(mode):
    picture = Image.fromarray(RAMP.astype(np.int32 if mode == "I" else np.float32))
    assert picture.mode == mode
    with pytest.raises(UserError, match=rf"x\.tif: .*mode {mode} has no known range of values"):
        decode(saved(picture, "TIFF"), "x.tif")


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
def test_other_modes_are_pillows_without_transparency():
    rgb = Image.fromarray(COLOURS)
    grey = np.array([[0, 100], [200, 255]], np.uint8)
    alpha = Image.fromarray(255 - grey)
    clear = rgb.copy()
    clear.putalpha(alpha)
    assert (decode(saved(clear), "RGBA") == COLOURS).all()
    faint = Image.merge("LA", (Image.fromarray(grey), alpha))
    assert (decode(saved(faint), "LA") == thrice(grey)).all()
    assert (decode(saved(Image.fromarray(grey)), "L") == thrice(grey)).all()
    palette = rgb.quantize(4)
    assert (decode(saved(palette), "P") == np.asarray(palette.convert("RGB"))).all()
    for transparency in (0, bytes([0, 128, 255, 7])):
        found = decode(saved(palette, transparency=transparency), "P with transparency")
        assert (found == np.asarray(palette.convert("RGB"))).all()
    bits = np.array([[True, False], [False, True]])
    assert (decode(saved(Image.fromarray(bits)), "1") == thrice(255 * bits)).all()
    cmyk = rgb.convert("CMYK")
    assert (decode(saved(cmyk, "TIFF"), "CMYK") == COLOURS).all()  # without black, exactly


def test_preparing_reads_them_by_the_same_rule(tmp_path: Path):
    """A set of 16-bit images has the colours of the same set in 8 bits."""
    means = []
    for name, payload in (
        ("sixteen", sixteen(RAMP)),
        ("eight", saved(Image.fromarray(np.round(RAMP.astype(np.uint16) / 257).astype(np.uint8)))),
    ):
        source = image_tree(tmp_path / name, ("train",))
        for path in source.glob("train/*/*"):
            path.unlink()
            path.with_suffix(".png").write_bytes(payload)
        prepare.main(["imagefolder", str(source), "-o", str(tmp_path / f"{name}-set")])
        meta = read_meta(tmp_path / f"{name}-set")
        means.append((meta["mean"], meta["std"]))
        assert bytes(Shards(tmp_path / f"{name}-set" / "train").payload(0)) == payload
    assert means[0] == means[1]
    assert means[0][0][0] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("headers", [[], ["--headers"]])
def test_preparing_refuses_what_training_would(tmp_path: Path, headers: list[str]):
    source = image_tree(tmp_path / "i", ("train",))
    path = source / "train" / "n01" / "x.png"
    if headers:  # formats whose ends are not known are refused by that check
        path.write_bytes(saved(Image.fromarray(RAMP.astype(np.int32)), "TIFF") + b"IEND")
    else:
        path.write_bytes(saved(Image.fromarray(RAMP.astype(np.float32)), "TIFF"))
    with pytest.raises(
        UserError, match=r"n01/x\.png: corrupt image \(mode [IF] has no known range"
    ):
        prepare.main(["imagefolder", str(source), "-o", str(tmp_path / "set"), *headers])


def test_inference_reads_them_by_the_same_rule(tmp_path: Path):
    model = d2v.load(folder(tmp_path / "c", "vision"))
    (tmp_path / "16.png").write_bytes(sixteen(RAMP))
    eight = np.round(RAMP.astype(np.uint16) / 257).astype(np.uint8)
    (tmp_path / "8.png").write_bytes(saved(Image.fromarray(eight)))
    (tmp_path / "f.png").write_bytes(saved(Image.fromarray(RAMP.astype(np.float32)), "TIFF"))
    one, two = (
        item.value for item in inputs.read(model, [tmp_path / "16.png", tmp_path / "8.png"])
    )
    assert np.array_equal(one, two)
    assert torch.from_numpy(one).std() > 0.1
    with pytest.raises(UserError, match=r"f\.png: .*mode F has no known range"):
        list(inputs.read(model, [tmp_path / "f.png"]))
