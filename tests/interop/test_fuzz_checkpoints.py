"""Whatever is wrong with a checkpoint, the command line says so in a sentence and exits with 2."""

import itertools
import resource
import shutil
import signal
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from fuzzing import seconds
from mangled import Kinds, every_format, mangled
from own_builds import images, waves

from d2v.cli import commands as cli

pytest.importorskip("transformers")
LONGEST = 60  # seconds of a command, on a busy machine
MEMORY = 4 * 2**30  # bytes that commands may take more than there are in use
COMMANDS = {
    "speech": ("features", "transcribe", "to d2v", "to hf"),
    "vision": ("features", "classify", "to d2v", "to hf"),
    "text": ("features", "classify", "to d2v", "to hf", "to tokenizer"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, small_prepared: Path) -> Kinds:
    return every_format(tmp_path_factory.mktemp("formats"), small_prepared / "tokenizer")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One input of each kind."""
    root = tmp_path_factory.mktemp("inputs")
    wave, image = waves(root, (5000,))[0], images(root, ((40, 30),))[0]
    return {"speech": str(wave), "vision": str(image), "text": "the cat sat"}


@pytest.fixture
def bounded() -> Iterator[None]:
    """Limits of time and memory, so that one command cannot end the whole test."""

    def late(*_: object) -> None:
        raise TimeoutError(f"more than {LONGEST} s")

    before, limits = signal.signal(signal.SIGALRM, late), resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)
    signal.signal(signal.SIGALRM, before)


def words_of(command: str, path: Path, given: str, out: Path) -> list[str]:
    if command.startswith("to "):
        return ["convert", str(path), "--to", command.removeprefix("to "), "-o", str(out)]
    extra = ["-o", str(out)] if command == "features" else []
    return [command, str(path), given, *extra]


@pytest.mark.slow
def test_whole_checkpoints_work(
    made: Kinds, inputs: dict[str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Or the faults below would be found in checkpoints that have others."""
    for name, (kind, path) in made.items():
        words = words_of("to d2v", path, inputs[kind], tmp_path / name)
        assert cli.main(words) == 0, capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.fuzz
def test_a_fault_is_one_sentence(
    made: Kinds,
    inputs: dict[str, str],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    bounded: None,
) -> None:
    until = time.monotonic() + seconds()
    found: list[str] = []
    ended = {0: 0, 2: 0}
    for seed in itertools.count():
        if time.monotonic() > until or len(found) > 60:
            break
        random = Random(seed)
        name = random.choice(sorted(made))
        kind, source = made[name]
        path = tmp_path / "mangled" / source.name
        path.parent.mkdir()
        done = mangled(source, path, random)
        command = random.choice(COMMANDS[kind])
        out = path.parent / "out"
        fault, code = called(words_of(command, path, inputs[kind], out), capfd)
        if fault is None and code == 2:
            left = {p.name for p in path.parent.iterdir()} - {source.name}
            fault = f"left behind: {left}" if left else None
        if fault is not None:
            found.append(f"seed {seed}, {name}, {command}, {done}: {fault}")
        else:
            ended[code] += 1
        shutil.rmtree(path.parent)
    assert not found, f"{len(found)} faults\n" + "\n".join(found)
    assert ended[2], ended


def called(words: list[str], capfd: pytest.CaptureFixture[str]) -> tuple[str | None, int]:
    """What is wrong with how a command ended, and its exit code."""
    signal.alarm(LONGEST)
    try:
        code = cli.main(words)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        lines = traceback.format_exception(error)
        return "".join(lines[-3:]), -1
    finally:
        signal.alarm(0)
    said = capfd.readouterr()
    if code not in (0, 2):
        return f"exit code {code}", code
    if code == 2:
        first, *others = said.err.rstrip("\n").split("\nerror:")[-1].split("\n")
        if "error: " not in said.err or "Traceback" in said.err:
            return f"said {said.err[:300]!r}", code
        if any(not line.startswith("  ") for line in others):
            return f"said in several lines: {said.err[:500]!r}", code
        if len(first) > 700:
            return f"said at length: {first[:300]!r} ({len(first)} characters)", code
    return None, code
