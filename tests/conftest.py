"""Prepared data of every kind, made once; options that change how all tests run."""

import gc
import os
import random
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest
from preparing import run
from small_sets import corpus_folder, glue_folder, image_tree, speech_tree

from d2v.jobs import warm
from d2v.util import verbosity


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-onednn", action="store_true", help="compute without oneDNN")
    parser.addoption("--shuffle", type=int, metavar="SEED", help="shuffle files and tests")


# rooms whose files may take minutes; one that starts last leaves a core idle
LONG = ("workflow", "jobs/slurm", "project", "experiment")


def pytest_xdist_auto_num_workers() -> int:
    """Three workers for two cores, because tests of jobs often wait for other processes."""
    return max(1, len(os.sched_getaffinity(0)) * 3 // 2)


def pytest_configure(config: pytest.Config) -> None:
    gc.disable()  # until pytest_collection_finish
    if config.pluginmanager.hasplugin("xdist"):  # would start files with few tests last
        config.option.loadscopereorder = False
    if worker := getattr(config, "workerinput", None):
        _share_cores(worker["workercount"])
    if config.getoption("no_onednn"):
        import torch

        torch.backends.mkldnn.enabled = False


def pytest_collection_finish() -> None:
    """Collect garbage from here on, rarely, and without what importing and collecting tests left.

    These objects stay, and tests make hardly any circles: looking for garbage took 15 of the 275
    CPU seconds of the tests that are not slow, and takes 4 now.
    """
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)
    gc.enable()


def _share_cores(workers: int) -> None:
    """Give each of several workers its share of the cores, unless OMP_NUM_THREADS is set.

    Workers with more threads than that, and their subprocesses, spend most of their time waiting
    for each other: six times as much in tests of the model.
    """
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    threads = os.environ.setdefault("OMP_NUM_THREADS", threads)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(int(threads))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With several processes, start with the long files; or shuffle files and tests.

    The tests of a file stay together, so that its fixtures are shared.
    """
    files = [list(tests) for _, tests in groupby(items, key=lambda item: item.path)]
    seed = config.getoption("shuffle")
    if seed is not None:
        order = random.Random(seed)
        order.shuffle(files)
        for tests in files:
            order.shuffle(tests)
    elif hasattr(config, "workerinput"):
        files = _in_turns(files)
    items[:] = [test for tests in files for test in tests]


def _in_turns(files: list[list[pytest.Item]]) -> list[list[pytest.Item]]:
    """The files of each room in LONG in turns, then the others.

    Files on Slurm wait, those of the workflow compute: they share the cores well.
    """
    seen: Counter[str] = Counter()
    placed = []
    for tests in files:
        room = tests[0].path.parent.relative_to(Path(__file__).parent).as_posix()
        seen[room] += 1
        placed.append((seen[room], LONG.index(room)) if room in LONG else (len(files), 0))
    order = sorted(range(len(files)), key=placed.__getitem__)
    return [files[index] for index in order]


@pytest.fixture(autouse=True, scope="session")
def _prepare_in_this_process() -> Iterator[None]:
    """Prepare sets without worker processes: a small set takes less time than starting them.

    Tests of several processes pass --workers.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("d2v.data.writing.cores", lambda: 1)
        yield


@pytest.fixture(autouse=True)
def _usual_verbosity() -> None:
    """Commands keep -q and -v for the whole process, in which other tests follow."""
    verbosity.choose(verbosity.USUAL)


@pytest.fixture(autouse=True, scope="session")
def _warm_jobs(request: pytest.FixtureRequest) -> Iterator[None]:
    """In long runs of the tests, start local jobs as the jobs of `d2v reproduce` are started.

    Most of the time of a small job would otherwise be the import of PyTorch.
    """
    with (
        warm.serving(hasattr(request.config, "workerinput")) as more,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in more.items():
            patch.setenv(name, value)
        yield


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
