"""The deps of data stages: all modules that a stage imports, so that none changes silently."""

import json
import os
import shutil
import subprocess
import sys
from hashlib import md5
from pathlib import Path

import official_sets
import own_builds
import own_sets
import pytest
import yaml
from small_sets import corpus_folder, image_tree, write_lines

from d2v.data.fetch.fetch import fetch
from d2v.data.ngram import write_arpa

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow
sys.path.insert(0, str(ROOT / "tools"))

import dvc_deps  # noqa: E402

# runs a command as its entry does, then tells which modules of this project it has imported
SCRIPT = """
import importlib, json, sys
importlib.import_module(sys.argv[1]).main(sys.argv[2:])
print(json.dumps(sorted(m.__file__ for n, m in sys.modules.items() if n.split(".")[0] == "d2v")))
"""
SMALL = {
    "train: 3500": "train: 200",
    "labels: [30, 100, 300, 1000]": "labels: [30, 100]",
    "    dev: 500\n    test: 1000": "    dev: 20\n    test: 20",
    "utterances: [1944, 200, 400]": "utterances: [240, 8, 8]",
    "labels: [30, 100, 300]": "labels: [30, 100]",
}
KINDS = ("imagefolder", "imagenet", "librispeech", "librilight", "audioset", "tokenizer", "corpus",
         "glue", "lm", "official-lm")  # fmt: skip
OWN = {
    "image-folder": {"kind": "image_folder", "classes": 2},
    "audio-folder": {"kind": "audio_folder"},
    "text-folder": {"kind": "text_folder", "block": 24, "vocab_size": 60},
    "text-tokenizer": {"kind": "text_folder", "block": 24, "vocab_size": 60},
    "labelled-text": {"kind": "labelled_text", "file": "a.csv", "texts": ["text"], "classes": 2},
}
LAYOUTS = ("digits", "spoken_digits", "verses")
# a model in KenLM's own format is read with flashlight; the model here is text
UNSEEN = {"official-lm": "src/d2v/evaluation/ src/d2v/params/"}


def imported(entry: str, *words: object) -> set[str]:
    """Files of this project, relative to the repository, that a command has imported."""
    command = [sys.executable, "-c", SCRIPT, entry, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    files = json.loads(done.stdout.splitlines()[-1])
    return {Path(file).relative_to(ROOT).as_posix() for file in files}


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[object]]:
    """Words behind `d2v prepare` for a small set of every kind."""
    root = tmp_path_factory.mktemp("official")
    sets = official_sets.make(root)
    found: dict[str, list[object]] = {words[0]: list(words) for words in sets.values()}
    found["imagefolder"] = ["imagefolder", image_tree(root / "folder")]
    write_lines(root / "lm" / "librispeech-vocab.txt", "ONE", "TWO")
    write_arpa(["ONE TWO"], 2, root / "lm" / "4-gram.arpa")
    found["official-lm"] = ["official-lm", root / "lm"]
    return found


def both_ways(command: str, seen: set[str]) -> None:
    """All that was imported is found in the code, and nothing else."""
    derived = set(dvc_deps.modules_of(command))
    assert seen <= derived, f"{command}: deps lack {sorted(seen - derived)}"
    unseen = tuple(UNSEEN.get(command.split()[-1], "none").split())
    assert not [path for path in derived - seen if not path.startswith(unseen)], command


@pytest.mark.parametrize("kind", KINDS)
def test_deps_are_what_preparing_imports(commands, tmp_path, small_prepared, kind):
    words = [*commands[kind], "-o", tmp_path / "set"]
    if kind in ("corpus", "glue"):
        words += ["--tokenizer", small_prepared / "tokenizer"]
    if kind not in ("tokenizer", "lm", "official-lm"):
        words += ["--workers", 1]
    both_ways(f"d2v prepare {kind}", imported("d2v.cli.prepare", *words))


@pytest.mark.parametrize("kind", OWN)
def test_deps_are_what_preparing_ones_own_imports(tmp_path, small_prepared, kind):
    source = tmp_path / "source"
    own_sets.photos(source / "images", ("train",))
    own_sets.tone(source / "a.wav")
    write_lines(source / "a.csv", "text,label", "a dog,1", "a cat,2")
    corpus_folder(source / "text")
    place = {"image_folder": "images", "text_folder": "text"}.get(OWN[kind]["kind"], "")
    splits = {"fractions": {"train": 1.0}}
    file = own_sets.params_of(
        tmp_path, "mine", source=str(source / place), splits=splits, **OWN[kind]
    )
    words = [kind, file, "mine", "-o", tmp_path / "set"]
    if kind in ("text-folder", "labelled-text"):
        words += ["--tokenizer", small_prepared / "tokenizer"]
    if kind != "text-tokenizer":
        words += ["--workers", 1]
    both_ways(f"d2v prepare {kind}", imported("d2v.cli.prepare", *words))


def test_deps_are_what_a_language_model_of_a_set_imports(tmp_path, small_prepared):
    words = ["set-lm", small_prepared / "speech", "--order", "2", "-o", tmp_path / "lm"]
    both_ways("d2v prepare set-lm", imported("d2v.cli.prepare", *words))


@pytest.mark.parametrize("name", LAYOUTS)
def test_deps_are_what_a_layout_imports(tmp_path, name):
    fetch(ROOT / "data")
    text = (ROOT / "params" / "mini.yaml").read_text()
    for old, new in SMALL.items():
        assert old in text
        text = text.replace(old, new)
    params = tmp_path / "small.yaml"
    params.write_text(text)
    both_ways(
        f"d2v layout {name}", imported("d2v.data.mini.mini", name, params, "-o", tmp_path / "out")
    )


def test_deps_are_what_converting_a_tokenizer_imports(tmp_path, small_prepared):
    source = own_builds.folder(tmp_path / "a", "text", small_prepared / "tokenizer")
    words = (source, "--to", "tokenizer", "-o", tmp_path / "out")
    seen = imported("d2v.interop.convert", *words)
    assert seen <= set(dvc_deps.modules_of("d2v convert a --to tokenizer"))


@pytest.mark.parametrize("kind", KINDS)
def test_preparing_data_waits_for_no_model_or_trainer(kind):
    found = set(dvc_deps.modules_of(f"d2v prepare {kind}"))
    heavy = ("trainer", "model", "task", "transformer", "execute", "cli", "encoders/__init__")
    assert not found & {f"src/d2v/{name}.py" for name in heavy}


def test_the_files_of_stages_have_the_derived_deps():
    done = subprocess.run([sys.executable, ROOT / "tools" / "dvc_deps.py", "--check"])
    assert done.returncode == 0, "run `python tools/dvc_deps.py`"


@pytest.mark.parametrize("name", dvc_deps.FILES)
def test_a_missing_and_a_surplus_dependency_are_found_and_mended(name):
    text = (ROOT / name).read_text()
    stages = yaml.safe_load(text)["stages"]
    derived = {stage: dvc_deps.modules_of(found["cmd"]) for stage, found in stages.items()}
    stale = text.replace("      - src/d2v/util/errors.py\n", "", 1)
    stale = stale.replace(
        "      - src/d2v/util/locks.py\n", "      - src/d2v/training/trainer.py\n", 1
    )
    assert stale != text
    assert dvc_deps.rewritten(stale, derived) == text


def test_imports_are_followed_where_the_command_reaches_them(tmp_path):
    """Lazy ones count in functions that are called, and not in branches of other commands."""
    for name in ("data", "cli"):
        (tmp_path / "d2v" / name).mkdir(parents=True)
    for name in ("", "data/", "cli/"):
        (tmp_path / "d2v" / name / "__init__.py").touch()
    modules = {
        "cli/prepare": "def main():\n  if args.command == 'a':\n    from d2v.data.a import go\n"
        "    go()\n  elif args.command == 'b':\n    from d2v import b\n    b.go()\n"
        "  else:\n    from d2v import other\n",
        "data/a": "from typing import TYPE_CHECKING\nfrom d2v.used import Used\n"
        "if TYPE_CHECKING:\n  from d2v import typed\n"
        "def go():\n  return helper(Used)\ndef helper(x):\n  import d2v.deep\n"
        "def never():\n  import d2v.far\n",
        "b": "import d2v.deep\ndef go():\n  import d2v.far\n",
        "used": "from d2v.based import Base\nclass Used(Base):\n"
        "  def run(self):\n    import d2v.run\n"
        "if __name__ == '__main__':\n  import d2v.far\n",
    }
    for name in ("typed", "deep", "far", "other", "run"):
        modules[name] = ""
    modules["based"] = "class Base: pass\n"
    for name, text in modules.items():
        (tmp_path / "d2v" / f"{name}.py").write_text(text)

    def found(command: str) -> set[str]:
        paths = dvc_deps.modules_of(command, tmp_path)
        return {Path(path).stem for path in paths} - {"__init__", "prepare"}

    assert found("d2v prepare a x") == {"a", "used", "based", "run", "deep"}
    assert found("d2v prepare b x") == {"b", "deep", "far"}
    assert found("d2v prepare c x") == {"other"}


# --- what a change of a reader does -------------------------------------------------------------


def flipped(copy: Path) -> None:
    """Exchange the classes of all binary tasks in the reader of GLUE."""
    path = copy / "src" / "d2v" / "data" / "readers" / "glue_tasks.py"
    text = path.read_text()
    assert text.count('BINARY = ("0", "1")') == 1
    path.write_text(text.replace('BINARY = ("0", "1")', 'BINARY = ("1", "0")'))


def test_flipped_labels_change_the_deps_of_the_tasks_and_of_nothing_else(tmp_path):
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    flipped(tmp_path)
    tasks = {"cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb"}
    for name in dvc_deps.FILES:
        stages = yaml.safe_load((ROOT / name).read_text())["stages"]
        changed = {
            stage
            for stage, found in stages.items()
            for dep in found["deps"]
            if dep.startswith("src/") and hash_of(tmp_path / dep) != hash_of(ROOT / dep)
        }
        assert changed == tasks & set(stages), name


def hash_of(path: Path) -> str:
    return md5(path.read_bytes()).hexdigest()


def test_dvc_says_that_flipped_labels_are_out_of_date(tmp_path):
    """A copy with one stage, as DVC left it after a run."""
    stage = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["sst2"]
    outs = [next(iter(out)) if isinstance(out, dict) else out for out in stage["outs"]]
    for dep in (*stage["deps"], *outs):
        target = tmp_path / dep
        target.parent.mkdir(parents=True, exist_ok=True)
        if dep.startswith("src/"):
            shutil.copy(ROOT / dep, target)
        else:
            corpus_folder(target)
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"sst2": stage}}))

    def dvc(*words: str) -> str:
        command = [sys.executable, "-m", "dvc", *words]
        env = os.environ | {"DVC_NO_ANALYTICS": "1"}
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout

    dvc("init", "--no-scm")
    dvc("commit", "--force")
    assert json.loads(dvc("status", "--json")) == {}
    flipped(tmp_path)
    assert "src/d2v/data/readers/glue_tasks.py" in dvc("status", "--json")
