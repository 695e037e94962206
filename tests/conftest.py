"""Prepared data of every kind, made once."""

from pathlib import Path

import pytest
from preparing import run
from small_sets import corpus_folder, glue_folder, image_tree, speech_tree


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-onednn", action="store_true", help="compute without oneDNN")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("no_onednn"):
        import torch

        torch.backends.mkldnn.enabled = False


@pytest.fixture(scope="session")
def small_prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of prepared images, speech, tokenizer, corpus, SST-2, MRPC and STS-B."""
    root = tmp_path_factory.mktemp("sets")
    corpus, out = corpus_folder(root / "c"), root / "prepared"

    run("imagefolder", image_tree(root / "i"), "-o", out / "images")
    run("librispeech", speech_tree(root / "s"), "-o", out / "speech")
    run("tokenizer", corpus, "-o", out / "tokenizer", "--vocab-size", 70)
    text = ("--tokenizer", out / "tokenizer")
    run("corpus", corpus, *text, "-o", out / "corpus", "--block", 40)
    for task in ("SST-2", "MRPC", "STS-B"):
        run("glue", task, glue_folder(root / task, task), *text, "-o", out / task)
    return out


@pytest.fixture(scope="session")
def tokenizer(small_prepared: Path) -> Path:
    return small_prepared / "tokenizer"
