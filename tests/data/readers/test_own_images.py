"""Images of one's own: folders and manifests, with classes and without, and what is unusable."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from own_builds import folder as checkpoint
from own_sets import meta, photos, prepared
from PIL import Image, ImageOps
from small_builds import PATCHES, batch_of, build

import d2v
from d2v import params
from d2v.data import build_dataset, inputs, labelled_for
from d2v.data.shards import Shards
from d2v.util.errors import UserError

HEAD = ("image", "class", "split")
FOLDERS = {"folders": {"train": "train", "dev": "dev", "test": "test"}}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos(tmp_path_factory.mktemp("own") / "set")


def group(source: Path, **more: Any) -> dict[str, Any]:
    usual = {"kind": "image_folder", "source": str(source), "splits": FOLDERS, "classes": 2}
    return {**usual, **more}


def dataset(out: Path, split: str) -> Any:
    view = params.ImageAugment(kind="vision", resize=36)
    encoder = params.PatchEncoder(kind="vision", image_size=24, patch_size=6)
    task = params.Classify(kind="classify", classes=2, pool="mean")
    return build_dataset(out, split, view, encoder=encoder, seed=0, train=False, task=task)


def test_folders_give_classes_and_the_files_stay_as_they_are(source: Path, tmp_path: Path) -> None:
    out = prepared(tmp_path / "out", "--workers", 1, **group(source))
    found = meta(out)
    assert (found["kind"], found["classes"]) == ("imagefolder", ["cats", "dogs"])
    assert found["splits"]["train"] == {"examples": 8}
    assert 0.2 < found["mean"][0] < 0.8
    shards = Shards(out / "train")
    names = list(shards.texts("id"))
    assert names[0] == "train/cats/0"
    assert shards.numbers("label").tolist() == [0] * 4 + [1] * 4
    files = sorted(path for path in (source / "train").rglob("*") if path.is_file())
    assert [bytes(shards.payload(i)) for i in range(8)] == [path.read_bytes() for path in files]
    data = dataset(out, "dev")
    batch = data.collate([data[0, i] for i in range(len(data))])
    assert batch["images"].shape == (8, 3, 24, 24)
    assert batch["labels"].tolist() == [0] * 4 + [1] * 4


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_manifest_gives_classes_and_splits(source: Path, tmp_path: Path, suffix: str) -> None:
    """The same set as from folders, up to the ids."""
    files = sorted(path.relative_to(source).as_posix() for path in source.rglob("*.*"))
    rows = [(name, *name.split("/")[1::-1]) for name in files]
    folder = tmp_path / "set"
    shutil.copytree(source, folder)
    table = folder / f"list.{suffix}"
    if suffix == "csv":
        table.write_text("image,class,split\n" + "".join(f"{','.join(row)}\n" for row in rows))
    elif suffix == "jsonl":
        line = '{{"image": "{}", "class": "{}", "split": "{}"}}\n'
        table.write_text("".join(line.format(*row) for row in rows))
    else:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        columns = {name: [row[i] for row in rows] for i, name in enumerate(HEAD)}
        parquet.write_table(pyarrow.table(columns), table)
    splits = {"column": "split", "values": {"train": "train", "dev": "dev", "test": "test"}}
    out = prepared(
        tmp_path / "out", **group(folder, manifest=table.name, splits=splits, label="class")
    )
    assert meta(out)["sha256"] == meta(prepared(tmp_path / "same", **group(source)))["sha256"]


def test_images_that_no_manifest_lists_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tables of two splits share a folder, so the images of one are unlisted in the other."""
    folder = photos(tmp_path / "set", ("all",), 6)
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))
    for split, names in (("train", files[:-3:2]), ("dev", files[1:-3:2])):
        rows = (f"all/../{name},{Path(name).parent.name}\n" for name in names)
        (folder / f"{split}.csv").write_text("image,class\n" + "".join(rows))
    places = {"folders": {split: f"{split}.csv" for split in ("train", "dev")}}
    words = group(folder, splits=places, label="class")
    prepared(tmp_path / "out", **words)
    said = capsys.readouterr().err
    assert f"{folder}: 3 paths not used (images that no manifest lists): {files[-3]}, " in said
    assert said.count("not used") == 1
    (folder / "a\nb.png").touch()
    again = prepared(tmp_path / "again", **words)
    assert "rename it" in capsys.readouterr().err
    assert meta(again)["sha256"] == meta(tmp_path / "out")["sha256"]


def test_fractions_divide_every_class_alike_and_do_not_depend_on_the_order(
    tmp_path: Path,
) -> None:
    folder = photos(tmp_path / "set", ("all",), 10)
    splits = {"fractions": {"train": 0.6, "dev": 0.2, "test": 0.2}}
    out = prepared(tmp_path / "out", **group(folder, splits=splits))
    labels = {s: Shards(out / s).numbers("label").tolist() for s in splits["fractions"]}
    assert {split: (v.count(0), v.count(1)) for split, v in labels.items()} == {
        "train": (6, 6),
        "dev": (2, 2),
        "test": (2, 2),
    }
    other = prepared(tmp_path / "other", **group(folder, splits={**splits, "seed": 1}))
    assert meta(other)["sha256"] != meta(out)["sha256"]


def test_images_without_classes_are_for_pre_training(source: Path, tmp_path: Path) -> None:
    splits = {"fractions": {"train": 1.0}}
    out = prepared(tmp_path / "out", **group(source, classes=None, splits=splits))
    assert meta(out)["classes"] == []
    assert meta(out)["splits"]["train"]["examples"] == 24
    view = params.ImageAugment(kind="vision")
    encoder = params.PatchEncoder(kind="vision", image_size=24, patch_size=6)
    assert len(build_dataset(out, "train", view, encoder=encoder, seed=0, train=True)) == 24


def spoil(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:400])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (spoil, "corrupt image"),
        (lambda path: path.write_text("no image"), "not a readable image"),
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (
            lambda path: shutil.copy(path.parents[2] / "dev/dogs/0.jpg", path),
            "a leak: it has the same content as .*dev/dogs/0.jpg of split dev",
        ),
    ],
)
def test_an_unusable_image_is_named_and_can_be_left_out(
    change: Any, message: str, source: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "set"
    shutil.copytree(source, folder)
    change(folder / "train/dogs/0.jpg")
    with pytest.raises(UserError, match=rf"train/dogs/0\.jpg: {message}") as caught:
        prepared(tmp_path / "out", **group(folder))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    out = prepared(tmp_path / "out", **group(folder, skip_bad=True))
    assert meta(out)["splits"]["train"] == {"examples": 7, "left_out": 1}
    assert "train/dogs/0.jpg" in (out / "left_out.tsv").read_text()


def without_dogs(folder: Path) -> None:
    shutil.rmtree(folder / "train/dogs")


def beside(folder: Path) -> None:
    shutil.copy(folder / "train/dogs/0.jpg", folder / "train/other.jpg")


def third(folder: Path) -> None:
    shutil.move(folder / "dev/dogs", folder / "dev/wolves")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_dogs, "no image of the train split has the class 'dogs', which split dev has"),
        (beside, r"train/other\.jpg: not in a class folder"),
        (third, r"3 classes \('cats', 'dogs', 'wolves'\), but classes is 2"),
        (lambda folder: shutil.rmtree(folder / "test"), "test: no such folder; it is named in"),
    ],
)
def test_a_wrong_tree_is_refused(change: Any, message: str, source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    shutil.copytree(source, folder)
    change(folder)
    with pytest.raises(UserError, match=message) as caught:
        prepared(tmp_path / "out", **group(folder))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("train/cats/9.jpg,cats", r"train/cats/9\.jpg: no such file \(.*list\.csv:2\)"),
        ("train/cats/0.jpg,", r"list\.csv:2: column 'label' is empty"),
        ("train/cats/0.jpg", r"list\.csv:2: 1 cells, but the header has 2 columns"),
    ],
)
def test_a_wrong_row_is_named(row: str, message: str, source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    shutil.copytree(source, folder)
    files = sorted(path.relative_to(source).as_posix() for path in source.rglob("*.*"))[1:]
    rows = [row, *(f"{name},{name.split('/')[1]}" for name in files)]
    (folder / "list.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    splits = {"fractions": {"train": 0.5, "dev": 0.5}}
    with pytest.raises(UserError, match=message):
        prepared(tmp_path / "out", **group(folder, manifest="list.csv", splits=splits))
    assert not (tmp_path / "out").exists()


def turned_set(folder: Path) -> None:
    """Photographs in two sets: with every EXIF orientation, and as they are seen."""
    draw = np.random.default_rng(0)
    for split, first in (("train", 0), ("dev", 100)):
        for number in range(1, 9):
            pixels = draw.integers(0, 256, (5, 7, 3), np.uint8).repeat(6, 0).repeat(6, 1)
            exif = Image.Exif()
            exif[0x0112] = number
            name = f"{split}/{'ab'[number % 2]}/{first + number}"
            for kind in ("stored", "seen"):
                (folder / kind / name).parent.mkdir(parents=True, exist_ok=True)
            stored = folder / "stored" / f"{name}.{'png' if number % 3 else 'jpg'}"
            Image.fromarray(pixels).save(stored, exif=exif, quality=95)
            with Image.open(stored) as picture:
                ImageOps.exif_transpose(picture).save(folder / "seen" / f"{name}.png")


def test_photographs_are_upright_in_preparation_training_evaluation_and_inference(
    tmp_path: Path,
) -> None:
    """Every orientation gives what a file gives that is stored upright; decoded anywhere."""
    turned_set(tmp_path)
    splits = {"folders": {"train": "train", "dev": "dev"}}
    sets = {
        kind: prepared(tmp_path / f"{kind}-set", **group(tmp_path / kind, splits=splits))
        for kind in ("stored", "seen")
    }
    stored, seen = (meta(folder) for folder in sets.values())
    assert stored["upright"] is True
    assert (stored["mean"], stored["std"]) == (seen["mean"], seen["std"])
    sizes = {k: Shards(v / "dev").numbers("height").tolist() for k, v in sets.items()}
    assert sizes["stored"] == sizes["seen"]
    assert len(set(sizes["seen"])) == 2  # some photographs lie on their side
    crops = params.ImageAugment(kind="vision", random_resized_crop=[0.3, 1.0], flip=True)
    shifts = params.ImageAugment(kind="vision", shift=2)
    for view in (crops, shifts):
        images = [batch_of(build(s, view, PATCHES), *range(8))["images"] for s in sets.values()]
        assert torch.equal(*images)
    on_device = build(sets["stored"], crops.model_copy(update={"decode": "device"}), PATCHES)
    given = on_device.finish(batch_of(on_device, *range(8)), torch.device("cpu"))["images"]
    expected = batch_of(build(sets["seen"], crops, PATCHES), *range(8))["images"]
    assert (given - expected).abs().mean() < 0.02  # as without orientations: rounding
    evaluated = [batch_of(dataset(s, "dev"), *range(8))["images"] for s in sets.values()]
    assert torch.equal(*evaluated)
    model = d2v.load(checkpoint(tmp_path / "model", "vision"))
    read = [
        [item.value for item in inputs.read(model, sorted((tmp_path / k / "dev/a").iterdir()))]
        for k in ("stored", "seen")
    ]
    assert all(np.array_equal(a, b) for a, b in zip(*read, strict=True))
    probed = [labelled_for(model, s, "dev")[0] for s in sets.values()]
    assert torch.equal(*(batch_of(data, *range(8))["images"] for data in probed))


def test_damaged_exif_data_are_no_reason_to_fail(source: Path, tmp_path: Path) -> None:
    """Files of cameras are like that: no such orientation, a type that is no number, half a tag."""
    folder = tmp_path / "set"
    shutil.copytree(source, folder)
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "maker", 6
    good = exif.tobytes()
    place = good.index(b"\x01\x12")
    for split, damaged in {
        "train": good[: place + 9] + b"\x09" + good[place + 10 :],  # orientation 9
        "dev": good[: place + 2] + b"\x00\x02" + good[place + 4 :],  # a text
        "test": good[: place + 6],
    }.items():
        for name in ("0.jpg", "1.png"):
            path = folder / split / "cats" / name
            with Image.open(path) as picture:
                kept = picture.copy()
            if name.endswith("jpg"):
                kept.save(path, exif=good)
                path.write_bytes(path.read_bytes().replace(good, damaged.ljust(len(good), b"\0")))
            else:
                with path.open("wb") as file:
                    kept.save(file, "PNG", exif=damaged)
    out = prepared(tmp_path / "out", **group(folder))
    view = params.ImageAugment(kind="vision", random_resized_crop=[0.3, 1.0], decode="device")
    for split in ("train", "dev", "test"):
        assert Shards(out / split).numbers("height").tolist() == [40] * 8
        data = build(out, view, PATCHES, split=split)
        given = data.finish(batch_of(data, *range(8)), torch.device("cpu"))
        assert given["images"].isfinite().all()
