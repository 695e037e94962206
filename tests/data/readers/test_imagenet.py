"""ImageNet from archives or folders: the same shards; planted faults are named."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from d2v.cli import prepare
from d2v.data.shards import Shards, hash_of
from d2v.util.errors import UserError

SYNSETS = ["n01440764", "n01443537", "n01484850"]
IDS = {"n01440764": 2, "n01443537": 3, "n01484850": 1}  # not in the order of the synsets
TRUTH = [1, 3, 2, 2, 1, 3]  # of val
DEVKIT = "ILSVRC2012_devkit_t12"


def picture(seed: int, mode: str = "RGB", kind: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 15, len(mode)), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(), mode).save(buffer, kind)
    return buffer.getvalue()


def name_of(number: int) -> str:
    return f"ILSVRC2012_val_{number:08d}.JPEG"


def add(tar: tarfile.TarFile, name: str, payload: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(payload)
    tar.addfile(info, io.BytesIO(payload))


def test_a_part_may_lack_val_if_that_is_said(tree, tmp_path):
    shutil.copytree(tree / "train", tmp_path / "part" / "train")
    words = ["imagenet", str(tmp_path / "part"), "-o", str(tmp_path / "out"), "--workers", "1"]
    with pytest.raises(UserError, match=r"neither ILSVRC2012_img_val\.tar nor a folder val"):
        prepare.main([*words, "--partial", "false"])
    prepare.main([*words, "--partial", "true"])
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    assert (meta["complete"], list(meta["splits"])) == (False, ["train"])


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """The extracted layout: train and val in folders of synsets."""
    root = tmp_path_factory.mktemp("tree")
    synset_of = {number: synset for synset, number in IDS.items()}
    for at, synset in enumerate(SYNSETS):
        (root / "train" / synset).mkdir(parents=True)
        (root / "val" / synset).mkdir(parents=True)
        for k in range(4):
            path = root / "train" / synset / f"{synset}_{k + 10}.JPEG"
            path.write_bytes(picture(10 * at + k))
    # the official set has one PNG and some CMYK images among its JPEG files
    (root / "train" / SYNSETS[0] / f"{SYNSETS[0]}_10.JPEG").write_bytes(picture(1, kind="PNG"))
    (root / "train" / SYNSETS[1] / f"{SYNSETS[1]}_11.JPEG").write_bytes(picture(2, "CMYK"))
    for number, truth in enumerate(TRUTH, 1):
        path = root / "val" / synset_of[truth] / name_of(number)
        path.write_bytes(picture(100 + number))
    return root


@pytest.fixture
def archives(tree, tmp_path) -> Path:
    """The same as it is handed out."""
    root = tmp_path / "archives"
    root.mkdir()
    with tarfile.open(root / "ILSVRC2012_img_train.tar", "w") as outer:
        for synset in SYNSETS:
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w") as inner:
                for path in sorted((tree / "train" / synset).iterdir()):
                    add(inner, path.name, path.read_bytes())
            add(outer, f"{synset}.tar", buffer.getvalue())
    with tarfile.open(root / "ILSVRC2012_img_val.tar", "w") as val:
        for path in sorted((tree / "val").rglob("*.JPEG"), key=lambda p: p.name):
            add(val, path.name, path.read_bytes())
    devkit(root)
    return root


def devkit(root: Path, ids: dict[str, int] = IDS) -> None:
    rows = np.array(
        [(number, synset) for synset, number in ids.items()],
        dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O")],
    )
    buffer = io.BytesIO()
    savemat(buffer, {"synsets": rows.reshape(-1, 1)})
    with tarfile.open(root / f"{DEVKIT}.tar.gz", "w:gz") as tar:
        add(tar, f"{DEVKIT}/data/meta.mat", buffer.getvalue())
        truth = "".join(f"{number}\n" for number in TRUTH).encode()
        add(tar, f"{DEVKIT}/data/ILSVRC2012_validation_ground_truth.txt", truth)


def run(source: Path, out: Path, *options: str) -> None:
    prepare.main(["imagenet", str(source), "-o", str(out), *options])


def fails(source: Path, tmp_path: Path, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        run(source, tmp_path / "set", "--allow-partial", "--workers", "1")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "set").exists()
    assert not (tmp_path / "set.tmp").exists()


def test_archives_and_folders_give_the_same_shards(tree, archives, tmp_path, capsys):
    run(tree, tmp_path / "a", "--allow-partial")
    assert "train has 12 of 1,281,167; val has 6 of 50,000" in capsys.readouterr().err
    run(archives, tmp_path / "b", "--allow-partial", "--workers", "2")
    assert hash_of(tmp_path / "a") == hash_of(tmp_path / "b")
    meta = json.loads((tmp_path / "b" / "meta.json").read_text())
    assert (meta["kind"], meta["classes"], meta["complete"]) == ("imagefolder", SYNSETS, False)
    val = Shards(tmp_path / "b" / "val")
    labels = dict(zip(val.texts("id"), val.numbers("label").tolist(), strict=True))
    assert labels[f"{SYNSETS[2]}/ILSVRC2012_val_00000001"] == 2  # ID 1
    assert labels[f"{SYNSETS[1]}/ILSVRC2012_val_00000002"] == 1  # ID 3
    train = Shards(tmp_path / "b" / "train")
    assert bytes(train.payload(0))[:4] == b"\x89PNG"
    assert train.texts("id")[5] == f"{SYNSETS[1]}/{SYNSETS[1]}_11"


def test_a_flat_val_folder_takes_its_labels_from_the_devkit(tree, tmp_path):
    flat = tmp_path / "flat"
    shutil.copytree(tree / "train", flat / "train")
    (flat / "val").mkdir()
    for path in (tree / "val").rglob("*.JPEG"):
        shutil.copy(path, flat / "val")
    fails(flat, tmp_path, f"not in synset folders, so {DEVKIT}.tar.gz is needed")
    devkit(flat)
    run(flat, tmp_path / "a", "--allow-partial")
    run(tree, tmp_path / "b", "--allow-partial")
    assert hash_of(tmp_path / "a") == hash_of(tmp_path / "b")


def test_the_official_counts_are_asked_for(tree, tmp_path):
    with pytest.raises(UserError, match="train has 3 of 1000 synsets; add what is missing"):
        run(tree, tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def truncate(path: Path, share: float) -> None:
    payload = path.read_bytes()
    path.write_bytes(payload[: int(share * len(payload))])


def test_truncated_archives_are_named(archives, tmp_path):
    for share in (0.2, 0.5, 0.75):
        shutil.copytree(archives, tmp_path / f"cut{share}")
        truncate(tmp_path / f"cut{share}" / "ILSVRC2012_img_train.tar", share)
        fails(
            tmp_path / f"cut{share}", tmp_path, r"img_train\.tar.*(truncated|incomplete or damaged)"
        )
    truncate(archives / "ILSVRC2012_img_val.tar", 0.5)
    fails(archives, tmp_path, r"img_val\.tar: truncated archive")


def test_a_truncated_inner_archive_is_named(archives, tmp_path):
    with tarfile.open(archives / "ILSVRC2012_img_train.tar", "w") as outer:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as inner:
            add(inner, "n01440764_1.JPEG", picture(0) * 20)
        add(outer, "n01440764.tar", buffer.getvalue()[:3000])
    fails(archives, tmp_path, r"img_train\.tar: n01440764\.tar: truncated archive")


def test_missing_parts_are_named(tree, archives, tmp_path):
    (archives / f"{DEVKIT}.tar.gz").unlink()
    fails(archives, tmp_path, f"{DEVKIT}.tar.gz is needed")
    devkit(archives, {"n01440764": 2})
    fails(archives, tmp_path, "the devkit's tables are unreadable .no synset 1.")
    (archives / "ILSVRC2012_img_val.tar").unlink()
    fails(tmp_path / "nowhere", tmp_path, "no such folder")
    shutil.copytree(tree, tmp_path / "t")
    shutil.rmtree(tmp_path / "t" / "train" / SYNSETS[1])
    fails(tmp_path / "t", tmp_path, f"train has no synset {SYNSETS[1]} .1 missing.")
    (tmp_path / "t" / "train" / SYNSETS[1]).mkdir()
    fails(tmp_path / "t", tmp_path, f"train/{SYNSETS[1]}: contains no images")


def test_a_broken_image_is_named_in_a_folder_and_in_an_archive(tree, archives, tmp_path):
    shutil.copytree(tree, tmp_path / "t")
    broken = tmp_path / "t" / "train" / SYNSETS[2] / f"{SYNSETS[2]}_12.JPEG"
    truncate(broken, 0.5)
    fails(tmp_path / "t", tmp_path, f"{SYNSETS[2]}_12.JPEG: corrupt image")
    with tarfile.open(archives / "ILSVRC2012_img_val.tar", "w") as val:
        add(val, name_of(1), b"no image")
    fails(archives, tmp_path, r"img_val\.tar: ILSVRC2012_val_00000001\.JPEG: not a readable image")
    (tree / "val" / "notes.txt").unlink(missing_ok=True)


def test_a_stray_file_is_named(tree, tmp_path):
    shutil.copytree(tree, tmp_path / "t")
    (tmp_path / "t" / "train" / SYNSETS[0] / "notes.txt").write_text("x")
    fails(tmp_path / "t", tmp_path, "notes.txt: not a JPEG file of ImageNet")
