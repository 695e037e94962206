"""CIFAR-10's binary version: every pixel, the splits and lists; planted faults are named."""

from pathlib import Path

import numpy as np
import pytest
from public_sets import CLASSES, IMAGES, cifar10

from d2v.cli import prepare
from d2v.data.readers.cifar10 import RECORD, TEST, prepare_cifar10
from d2v.data.readers.imagefolder import decode
from d2v.data.shards import Shards, hash_of, read_meta
from d2v.util.errors import UserError


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return cifar10(tmp_path / "cifar-10-batches-bin")


def test_images_labels_splits_and_lists_are_those_of_the_files(
    source: Path, tmp_path: Path
) -> None:
    prepare_cifar10(source, tmp_path / "a", 1, images=IMAGES, dev=20)
    meta = read_meta(tmp_path / "a")
    counts = {split: found["examples"] for split, found in meta["splits"].items()}
    assert counts == {"train": 5 * IMAGES - 20, "dev": 20, "test": IMAGES}
    assert meta["classes"] == CLASSES
    records = np.fromfile(source / TEST, np.uint8).reshape(-1, RECORD)
    shards = Shards(tmp_path / "a" / "test")
    assert shards.numbers("label").tolist() == records[:, 0].tolist()
    assert shards.texts("id")[13] == f"{CLASSES[3]}/test_batch-0013"
    for row in (0, 13, IMAGES - 1):
        planes = records[row, 1:].reshape(3, 32, 32)
        assert (decode(shards.payload(row), "x") == planes.transpose(1, 2, 0)).all()
    dev = Shards(tmp_path / "a" / "dev").texts("id")
    assert dev[0] == f"{CLASSES[0]}/data_batch_5-{IMAGES - 20:04d}"
    train = set(Shards(tmp_path / "a" / "train").texts("id"))
    lists = [(tmp_path / "a" / "lists" / f"labels-1000.{k}.txt").read_text() for k in range(5)]
    assert len(set(lists)) == 5
    for text in lists:
        names = text.split()
        assert set(names) < train
        assert {sum(n.startswith(f"{c}/") for n in names) for c in CLASSES} == {len(names) // 10}
    prepare_cifar10(source, tmp_path / "b", 2, images=IMAGES, dev=20)
    assert hash_of(tmp_path / "a") == hash_of(tmp_path / "b")


def test_faults_are_named_and_nothing_is_written(source: Path, tmp_path: Path) -> None:
    def fails(message: str) -> None:
        with pytest.raises(UserError, match=message):
            prepare_cifar10(source, tmp_path / "out", 1, images=IMAGES, dev=20)
        assert not (tmp_path / "out").exists()
        assert not (tmp_path / "out.tmp").exists()

    batch = source / "data_batch_2.bin"
    whole = batch.read_bytes()
    batch.write_bytes(whole[:-7])
    fails(r"data_batch_2\.bin: 184,373 bytes instead of 184,380 \(60 records of 3,073\)")
    batch.write_bytes(whole[: 5 * RECORD] + b"\x0b" + whole[5 * RECORD + 1 :])
    fails(r"data_batch_2\.bin: record 5 has label 11, not 0 to 9")
    batch.unlink()
    fails(r"data_batch_2\.bin: no such file; get the binary version \(`d2v fetch cifar10`\)")
    batch.write_bytes(whole)
    (source / "batches.meta.txt").write_text("cat\ndog\n")
    fails(r"batches\.meta\.txt: 2 class names; ten different ones are expected")
    (source / "batches.meta.txt").write_text("\n".join(CLASSES))
    with pytest.raises(UserError, match="bytes instead of 30,730,000"):
        prepare.main(["cifar10", str(source), "-o", str(tmp_path / "out")])
