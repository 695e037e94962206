"""The checkout itself: lock and pyproject agree, shipped parameters load, names stay in place."""

import os
import re
import subprocess
import tomllib
from collections import defaultdict
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from packaging.markers import Marker, default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import d2v
from d2v import params

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
MODALITIES = {"vision", "speech", "text"}


def tracked() -> list[Path]:
    """Files git has or would take, relative to the root."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [Path(line) for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


# --- requirements.lock ------------------------------------------------------------------------


class Entry(NamedTuple):
    version: str
    marker: Marker | None
    hashes: int

    def applies(self, python: str) -> bool:
        return applies(self.marker, python)


def applies(marker: Marker | None, python: str) -> bool:
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    return marker is None or marker.evaluate(environment)


def locked(text: str) -> dict[str, list[Entry]]:
    """Entries of a lock by canonical name: one package may have one entry for each Python."""
    entries = defaultdict(list)
    for block in re.split(r"\n(?=\S)", re.sub(r"^#.*\n", "", text, flags=re.M)):
        if not block.strip():
            continue
        head, *rest = [line.strip().removesuffix("\\").strip() for line in block.splitlines()]
        requirement = Requirement(head)
        (pin,) = requirement.specifier
        assert pin.operator == "==", f"{head}: not pinned"
        hashes = sum(line.startswith("--hash=sha256:") for line in rest)
        assert hashes == len(rest), f"{head}: a line that is no hash"
        entry = Entry(pin.version, requirement.marker, hashes)
        entries[canonicalize_name(requirement.name)].append(entry)
    return dict(entries)


def declared() -> list[Requirement]:
    """What pyproject.toml asks for: dependencies and every extra, of which some name others."""
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"].values()
    groups = [project["dependencies"], *extras]
    found = [Requirement(r) for group in groups for r in group]
    return [requirement for requirement in found if requirement.name != project["name"]]


def mismatches(entries: dict[str, list[Entry]], wanted: list[Requirement]) -> list[str]:
    """Requirements that the lock does not satisfy, one sentence each."""
    found = []
    for requirement in wanted:
        for python in PYTHONS:
            versions = [
                e.version for e in entries.get(canonicalize_name(requirement.name), [])
                if e.applies(python)
            ]  # fmt: skip
            if not applies(requirement.marker, python):
                if versions:
                    found.append(f"{requirement}: an entry for Python {python}")
            elif len(versions) != 1:
                found.append(f"{requirement}: {len(versions)} entries for Python {python}")
            elif not requirement.specifier.contains(versions[0], prereleases=True):
                found.append(f"{requirement}: locked is {versions[0]}")
    return found


LOCK_TEXT = (ROOT / "requirements.lock").read_text()
LOCK = locked(LOCK_TEXT)


def test_lock_has_what_pyproject_asks_for() -> None:
    pins = [Requirement(r) for r in PYPROJECT["tool"]["uv"]["constraint-dependencies"]]
    wrong = mismatches(LOCK, [*declared(), *pins])
    assert not wrong, "run `make lock`:\n  " + "\n  ".join(wrong)


def test_mismatches_are_found() -> None:
    entries = {"torch": [Entry("2.14.1", None, 1)]}
    assert not mismatches(entries, [Requirement("torch>=2.11")])
    assert len(mismatches(entries, [Requirement("torch>=3")])) == len(PYTHONS)
    assert len(mismatches(entries, [Requirement("jax")])) == len(PYTHONS)
    assert len(mismatches(entries, [Requirement("torch; python_version < '3.13'")])) == 2


@pytest.mark.slow
def test_lock_has_nothing_that_nobody_asks_for() -> None:
    """Over what is installed here: entries for other systems cannot be followed."""
    needed: set[tuple[str, str]] = set()
    todo = [(r, "") for r in declared()]
    while todo:
        requirement, extra = todo.pop()
        environment = {**default_environment(), "extra": extra}
        if requirement.marker and not requirement.marker.evaluate(environment):
            continue
        name = canonicalize_name(requirement.name)
        for wanted in {"", *requirement.extras}:
            if (name, wanted) in needed:
                continue
            needed.add((name, wanted))
            try:
                requires = metadata.requires(name) or []
            except metadata.PackageNotFoundError:
                continue
            todo += [(Requirement(r), wanted) for r in requires]
    installed = {canonicalize_name(d.metadata["Name"]) for d in metadata.distributions()}
    surplus = (LOCK.keys() & installed) - {name for name, _ in needed}
    assert not surplus, f"run `make lock`: nothing needs {', '.join(sorted(surplus))}"


def test_lock_has_hashes_and_names_no_host() -> None:
    unhashed = [name for name, entries in LOCK.items() for e in entries if e.hashes == 0]
    assert not unhashed
    assert not re.search(r"://|--(extra-)?index|--find", LOCK_TEXT)
    header = [line for line in LOCK_TEXT.splitlines() if line.startswith("#")]
    assert not [line for line in header if "/" in line], "the header names a path"


def test_lock_serves_the_pythons_of_pyproject() -> None:
    specifier = SpecifierSet(PYPROJECT["project"]["requires-python"])
    assert all(specifier.contains(python) for python in PYTHONS)


# --- files that ship --------------------------------------------------------------------------

EXPERIMENTS = [p for p in sorted((ROOT / "params").glob("*.yaml")) if p.stem != "cluster"]


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)
def test_shipped_experiment_loads(path: Path) -> None:
    assert params.load(path).finetune


@pytest.mark.slow
def test_every_tracked_yaml_is_yaml() -> None:
    # .dvc and .lock of DVC are YAML too
    names = [p for p in tracked() if p.suffix in {".yaml", ".yml", ".cff", ".dvc"}]
    names += [p for p in tracked() if p.name == "dvc.lock"]
    for name in names:
        assert yaml.safe_load((ROOT / name).read_text()), f"{name} is empty"


def test_citation_names_version_and_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == d2v.__version__
    assert "version" in PYPROJECT["project"]["dynamic"]
    (paper,) = citation["references"]
    assert "2202.03555" in paper["identifiers"][0]["value"]
    assert [a["family-names"] for a in paper["authors"]][:2] == ["Baevski", "Hsu"]


# --- one vocabulary, each word in its place ---------------------------------------------------


def test_modality_names_files_in_four_places_only() -> None:
    homes = ("src/d2v/model/encoders", "src/d2v/data", "src/d2v/params", "params", "tests")
    stray = [
        str(path)
        for path in tracked()
        if MODALITIES & set(re.findall(r"[a-z]+", path.name.lower()))
        and not path.is_relative_to("tests")
        and not any(path.is_relative_to(home) for home in homes)
    ]
    assert not stray, f"modality words as file names belong in {', '.join(homes)}"


MODALITY_WORD = re.compile(
    r"(?<![a-z])(vision|speech|text|image|audio|wave|utterance|sentence|pixel)s?(?![a-z])", re.I
)


@pytest.mark.parametrize("name", ["model/data2vec.py", "training/task.py", "training/trainer.py"])
def test_no_modality_word_in(name: str) -> None:
    """The method does not know what it trains on."""
    lines = (ROOT / "src/d2v" / name).read_text().splitlines()
    found = [
        f"{name}:{i}: {line.strip()}"
        for i, line in enumerate(lines, 1)
        if MODALITY_WORD.search(re.sub(r"\b(read|write)_text\b", "", line))
    ]
    assert not found, "\n".join(found)


BRANCH = re.compile(r"\b(if|elif|case)\b.*[\"'](vision|speech|text)[\"']|\bmodality\s*(==|in)\b")


def test_no_branch_on_modality_outside_encoders_and_data() -> None:
    found = []
    for path in tracked():
        inside = {"encoders", "data"} & set(path.parts)
        if path.suffix not in {".py", ".smk"} or inside or path.is_relative_to("tests"):
            continue
        for i, line in enumerate((ROOT / path).read_text().splitlines(), 1):
            if BRANCH.search(line):
                found.append(f"{path}:{i}: {line.strip()}")
    assert not found, "\n".join(found)


# a place on somebody's machine: absolute, and no part of a longer path
MACHINE_PATH = re.compile(r"(?<![\w.}~\"'])/(home|root|Users|work|venvs)/\w|[\"']/(home|work)/")


@pytest.mark.slow
def test_no_machine_path_in_tracked_files() -> None:
    found = []
    for path in tracked():
        data = (ROOT / path).read_bytes()
        if b"\0" in data or path.name in {".gitignore", ".dvcignore"}:
            continue
        for i, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
            if path.name != Path(__file__).name and MACHINE_PATH.search(line):
                found.append(f"{path}:{i}: {line.strip()[:100]}")
    assert not found, "\n".join(found)


def test_files_can_be_held_in_the_head() -> None:
    sources = [p for p in tracked() if p.is_relative_to("src") and p.suffix == ".py"]
    long = {str(p): n for p in sources if (n := len((ROOT / p).read_text().splitlines())) > 400}
    assert not long, f"longer than 400 lines: {long}"


def test_workers_share_the_cores(pytestconfig: pytest.Config) -> None:
    import torch

    if not hasattr(pytestconfig, "workerinput"):
        pytest.skip("no pytest-xdist worker")
    wanted = int(os.environ["OMP_NUM_THREADS"])
    # on an Intel CPU, MKL limits PyTorch to the number of cores
    assert torch.get_num_threads() in (wanted, min(wanted, os.cpu_count() or 1))
