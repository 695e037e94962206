"""What `pip install d2v` alone can do: every checkpoint format, features, recipes, own projects."""

import json
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import core_only
import pytest
from mangled import every_format
from own_builds import images, waves
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from d2v.util import extras, shipped

ROOT = core_only.ROOT
SOURCE = ROOT / "src"
MOST = 12  # packages beside torch and what torch requires
CLI = "import sys; from d2v.cli.commands import main; sys.exit(main({words!r}))"


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return core_only.make(tmp_path_factory.mktemp("core") / "packages")


def call(packages: Path, source: Path, folder: Path, *words: str) -> tuple[int, str]:
    done = core_only.run(packages, source, CLI.format(words=list(words)), folder)
    return done.returncode, done.stdout + done.stderr


# --- dependencies -----------------------------------------------------------------------------


def test_the_core_is_small() -> None:
    beside = core_only.core() - core_only.needed(["torch"])
    assert len(beside) <= MOST, sorted(beside)


@pytest.mark.slow
def test_every_optional_package_is_named_with_an_extra_that_has_it() -> None:
    optional = core_only.PROJECT["optional-dependencies"]
    named = {
        extra: {canonicalize_name(Requirement(line).name) for line in optional[extra]}
        for extra in ("train", "workflow", "decode", "hf")
    }
    of_module = metadata.packages_distributions()
    told: set[str] = set()
    for module, extra in extras.EXTRAS.items():
        for name in map(canonicalize_name, of_module.get(module, [])):
            told.add(name)
            assert name in core_only.needed(sorted(named[extra] - {"d2v"})), (module, extra)
    installed = {canonicalize_name(d.metadata["Name"]) for d in metadata.distributions()}
    assert (set().union(*named.values()) - {"d2v"}) & installed <= told


def test_all_has_every_extra() -> None:
    optional = core_only.PROJECT["optional-dependencies"]
    (line,) = optional["all"]
    assert Requirement(line).extras == optional.keys() - {"all"}


# --- checkpoints ------------------------------------------------------------------------------

FEATURES = """
import json, sys
import d2v, torch
from d2v.util.errors import UserError
batches = {{
    "speech": lambda e: {{"waves": torch.randn(1, 5000)}},
    "vision": lambda e: {{"images": torch.randn(1, e.channels, e.image_size, e.image_size)}},
    "text": lambda e: {{"tokens": torch.tensor([[0, 5, 6, 7, 2]])}},
}}
formats, inputs = json.loads({given!r})
without = {{}}
for name, (kind, path) in formats.items():
    model = d2v.load(path)
    hidden, _, _ = model.hidden(batches[kind](model.params.encoder))
    assert all(bool(states.isfinite().all()) for states in hidden), name
    try:
        (found,) = d2v.features(model, [inputs[kind]])
        assert all(bool(states.isfinite().all()) for states in found.hidden.values()), name
    except UserError as error:
        without[name] = str(error)
print(json.dumps([without, sorted(set({hidden!r}) & set(sys.modules))]))
"""


@pytest.mark.slow
def test_the_core_loads_every_format_and_computes_features(
    packages: Path, tmp_path: Path, small_prepared: Path
) -> None:
    pytest.importorskip("transformers")
    made = every_format(tmp_path, small_prepared / "tokenizer")
    formats = {name: (kind, str(path)) for name, (kind, path) in made.items()}
    inputs = {
        "speech": str(waves(tmp_path, (5000,))[0]),
        "vision": str(images(tmp_path, ((40, 30),))[0]),
        "text": "the cat sat",
    }
    code = FEATURES.format(given=json.dumps([formats, inputs]), hidden=sorted(extras.EXTRAS))
    done = core_only.run(packages, SOURCE, code, tmp_path)
    assert done.returncode == 0, done.stderr
    without, imported = json.loads(done.stdout)
    assert imported == []
    # texts become tokens with the package tokenizers; these files hold no tokenizer, or no colours
    assert 'pip install "d2v[hf]"' in without.pop("hf-text")
    expected = {"run-text", "fairseq-text", "roberta-text", "fairseq-vision"}
    assert without.keys() <= expected, without


@pytest.mark.slow
def test_a_missing_extra_is_named_with_the_command_that_installs_it(
    packages: Path, tmp_path: Path
) -> None:
    code, said = call(packages, SOURCE, tmp_path, "fetch", "cifar10")
    assert code == 2
    assert said == (
        "error: this needs the package requests, which is not installed:"
        ' pip install "d2v[workflow]"\n'
    )


# --- the wheel --------------------------------------------------------------------------------

BUILD = "from setuptools.build_meta import build_wheel; print(build_wheel({out!r}))"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked wheel of a copy of the repository."""
    folder = tmp_path_factory.mktemp("wheel")
    copy, out = folder / "copy", folder / "unpacked"
    for name in (*shipped.PARTS, "src", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        take = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        take(ROOT / name, copy / name)
    own = copy / "workflow/own/mine/dvc.yaml"  # of a user: must not ship
    own.parent.mkdir()
    own.write_text("stages: {}\n")
    built = subprocess.run(
        [sys.executable, "-c", BUILD.format(out=str(folder))],
        cwd=copy, capture_output=True, text=True,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    (file,) = folder.glob("*.whl")
    zipfile.ZipFile(file).extractall(out)
    return out


@pytest.mark.slow
def test_the_wheel_has_the_recipes_and_no_files_of_the_user(wheel: Path) -> None:
    copies = wheel / "d2v" / shipped.COPIES
    assert set(shipped.files(copies)) == set(shipped.files(ROOT))
    assert all((copies / p).read_bytes() == (ROOT / p).read_bytes() for p in shipped.files(ROOT))
    assert not (copies / "workflow/own/mine").exists()
    assert (wheel / "d2v/py.typed").exists()
    assert (wheel / "d2v/results/assets/style.css").exists()


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_folder(wheel: Path, packages: Path, tmp_path: Path) -> None:
    code, said = call(packages, wheel, tmp_path, "check", "--params", "params/paper.yaml")
    assert (code, said[:25]) == (0, "params/paper.yaml: valid;"), said
    code, said = call(packages, wheel, tmp_path, "init", "mine")
    assert code == 0, said
    mine = tmp_path / "mine"
    assert call(packages, wheel, mine, "check")[0] == 0
    code, said = call(packages, wheel, mine, "plan", "params/paper.yaml")
    assert (code, "GPU-hours" in said or "hours" in said) == (0, True), said
    code, said = call(packages, wheel, tmp_path, "init", "mine")
    assert (code, "mine: already exists" in said) == (2, True)


def test_a_project_has_the_stages_without_the_sources_of_d2v(tmp_path: Path) -> None:
    import yaml

    from d2v.cli import init

    init.write(tmp_path / "mine")
    for name in ("dvc.yaml", "workflow/public/dvc.yaml", "workflow/own/template.yaml"):
        ours, theirs = (
            yaml.safe_load((root / name).read_text())["stages"]
            for root in (ROOT, tmp_path / "mine")
        )
        assert ours.keys() == theirs.keys()
        for stage in ours:
            kept = [d for d in ours[stage].get("deps", []) if not d.startswith("src/")]
            assert theirs[stage] == {
                **{key: value for key, value in ours[stage].items() if key != "deps"},
                **({"deps": kept} if kept else {}),
            }
    assert (tmp_path / "mine/profiles/default/config.yaml").is_file()
    assert (tmp_path / "mine/slurm/config.yaml").is_file()


def test_a_recipe_of_ones_own_comes_before_the_shipped_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert shipped.recipe(Path("params/mini.yaml")) == ROOT / "params/mini.yaml"
    for name in ("mini.yaml", "params/none.yaml", "/params/mini.yaml"):
        assert shipped.recipe(Path(name)) == Path(name)
    (tmp_path / "params").mkdir()
    (tmp_path / "params/mini.yaml").touch()
    assert shipped.recipe(Path("params/mini.yaml")) == Path("params/mini.yaml")
