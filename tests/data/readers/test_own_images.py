"""Images of one's own: folders and manifests, with classes and without, and what is unusable."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from own_sets import meta, photos, prepared

from d2v import params
from d2v.data import build_dataset
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
