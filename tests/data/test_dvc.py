"""The data pipeline, in a copy of the repository: what runs, what does not, what stays clean."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from hashlib import md5
from pathlib import Path

import pytest
import yaml

from d2v import params
from d2v.cli import prepare
from d2v.data.dvc import repro
from d2v.data.fetch.fetch import WHEELS, fetch
from d2v.data.ngram import write_arpa
from d2v.experiment import runs
from d2v.interop import convert
from d2v.jobs.staleness import remedy
from d2v.util import verbosity
from d2v.util.errors import UserError
from d2v.util.locks import held

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def run(root: Path, *command: str) -> str:
    env = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """The tracked files as they are now, committed, with fetched sources and nothing prepared."""
    root = tmp_path_factory.mktemp("clone") / "repo"
    for name in run(ROOT, "git", "ls-files").splitlines():
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    run(root, "git", "init", "-q")
    run(root, "git", "add", "--all")
    author = ["-c", "user.name=test", "-c", "user.email=test@example.invalid"]
    run(root, "git", *author, "commit", "-q", "-m", "copy")
    fetch(ROOT / "data")
    shutil.copytree(ROOT / "data", root / "data")
    return root


def changed(root: Path) -> str:
    return run(root, "git", "status", "--porcelain").strip()


def stages(root: Path) -> dict[str, dict]:
    return yaml.safe_load((root / "dvc.yaml").read_text())["stages"]


def edit(root: Path, old: str, new: str) -> None:
    path = root / "params" / "mini.yaml"
    assert path.read_text().count(old) == 1
    path.write_text(path.read_text().replace(old, new))


# --- the files in git, without running anything -----------------------------------------------


@pytest.mark.slow
def test_data_dvc_pins_the_wheels_that_fetch_gets():
    fetch(ROOT / "data")
    entries = [
        {"md5": md5((ROOT / "data" / w.file).read_bytes()).hexdigest(), "relpath": w.file}
        for w in sorted(WHEELS, key=lambda w: w.file)
    ]
    pinned = yaml.safe_load((ROOT / "data.dvc").read_text())["outs"][0]
    assert pinned["md5"] == md5(json.dumps(entries).encode()).hexdigest() + ".dir"


def test_lock_belongs_to_this_code_and_these_parameters():
    """Cheap part of `dvc status`: modules and parameters; the slow test makes the data anew."""
    lock = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"]
    params = yaml.safe_load((ROOT / "params" / "mini.yaml").read_text())
    assert lock.keys() == stages(ROOT).keys()
    for name, stage in lock.items():
        listed = [dep["path"] for dep in stage.get("deps", [])]
        assert sorted(listed) == sorted(stages(ROOT)[name]["deps"]), f"run `dvc repro {name}`"
        for dep in stage.get("deps", []):
            if dep["path"].startswith("src/"):
                now = md5((ROOT / dep["path"]).read_bytes()).hexdigest()
                assert dep["md5"] == now, f"{dep['path']} changed: run `dvc repro {name}`, commit"
        for key, value in stage.get("params", {}).get("params/mini.yaml", {}).items():
            found = params
            for part in key.split("."):
                found = found[part]
            assert found == value, f"{key} changed: run `dvc repro {name}`, commit dvc.lock"


def test_every_data_parameter_belongs_to_a_stage():
    listed = [
        key
        for stage in stages(ROOT).values()
        for group in stage.get("params", [])
        for key in group["params/mini.yaml"]
    ]
    data = yaml.safe_load((ROOT / "params" / "mini.yaml").read_text())["data"]
    for dataset, group in data.items():
        for key in group.keys() - {"kind"}:
            assert {f"data.{dataset}", f"data.{dataset}.{key}"} & set(listed), (dataset, key)


def test_unknown_set_and_wrong_folder_are_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"spoken_digit: no such .*did you mean spoken_digits\?"):
        repro(["spoken_digit"], ROOT)
    with pytest.raises(UserError, match=r"dvc\.yaml not found"):
        repro([], tmp_path)


@pytest.mark.slow
def test_an_unpacked_archive_without_git_is_told_the_remedy(tmp_path):
    for name in ("dvc.yaml", "params/mini.yaml", ".dvc/config"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    with pytest.raises(UserError, match=r"git repository.* `git init`, or `dvc config --local"):
        repro(["lm"], tmp_path)


# --- the official sets -------------------------------------------------------------------------

OFFICIAL = Path("workflow/paper/dvc.yaml")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["paper", "released", "public"])
def test_every_official_set_has_a_stage_and_a_bare_repro_leaves_them_alone(name):
    experiment = params.load(ROOT / "params" / f"{name}.yaml")
    made = {name for key, group in experiment.data.items() for name in params.sets_of(key, group)}
    official = yaml.safe_load((ROOT / "workflow" / name / "dvc.yaml").read_text())["stages"]
    needed = set(runs.all_datasets(experiment)) | {"tokenizer"}
    assert set(official) == (needed if name == "public" else made)  # five of GLUE's tasks
    for made_name, stage in official.items():
        (out,) = stage["outs"]
        assert list(out) == [f"${{prepared}}/{made_name}"]
        assert stage["wdir"] == "../.."
        assert all((ROOT / dep).exists() for dep in stage["deps"] if dep.startswith("src/"))
        command = re.sub(r"\$\{data\.text\.(vocab_size|block)\}", "9", stage["cmd"])
        command = re.sub(r"\$\{data\.\w+\.partial\}", "false", command)
        words = command.split()
        assert words[0] == "d2v"
        commands = {"prepare": prepare.parser, "convert": convert.parser}
        commands[words[1]]().parse_args(words[2:])
    listed = run(ROOT, "dvc", "stage", "list", "--names-only")
    assert name not in listed


@pytest.mark.parametrize("name", ["paper", "released", "public"])
def test_paths_with_spaces_stay_one_word(name):
    official = yaml.safe_load((ROOT / "workflow" / name / "dvc.yaml").read_text())["stages"]
    for stage in official.values():
        command = re.sub(r"\$\{data\.\w+\.(source|limited)\}", "/my sets/x", stage["cmd"])
        words = shlex.split(command)
        assert "my" not in words
        assert sum(word.startswith("/my sets/x") for word in words) == command.count("/my sets")


# --- what stages say, and waiting -----------------------------------------------------------------


def stage_file(root: Path, *commands: str) -> None:
    """A repository of DVC with a stage for each command."""
    run(root, "dvc", "init", "--no-scm")
    stages = {f"s{n}": {"cmd": command} for n, command in enumerate(commands)}
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))


@pytest.mark.slow
def test_warnings_and_progress_of_a_stage_are_told(tmp_path, capfd):
    said = "warning: 2 of 9 clips are missing"
    stage_file(
        tmp_path, f"echo '{said}' >&2; echo 'train: 5/9 items'", "echo 'error: broken'; exit 1"
    )
    with pytest.raises(UserError, match=r"^s1: broken$"):
        repro(root=tmp_path)
    out, err = capfd.readouterr()
    assert out.splitlines() == ["data: s0", "data: s1"]
    assert err.splitlines() == [said, "train: 5/9 items"]


@pytest.mark.slow
def test_a_failed_stage_does_not_stop_the_others_and_all_are_named(tmp_path, capfd):
    stage_file(tmp_path, "echo 'error: no a'; exit 1", "echo made", "echo 'error: no b'; exit 1")
    with pytest.raises(UserError, match=r"^2 stages failed\n  s0: no a\n  s2: no b$"):
        repro(root=tmp_path)
    assert "made" in capfd.readouterr().err


def test_waiting_for_another_call_is_told(tmp_path, capsys):
    path = tmp_path / "lock"
    with held(path, "waiting"):
        assert capsys.readouterr().err == ""
        code = "import sys; from pathlib import Path; from d2v.util.locks import held\n"
        code += "with held(Path(sys.argv[1]), 'waiting for its end'): print('mine')"
        command = [sys.executable, "-c", code, str(path)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        second = subprocess.Popen(command, **pipes)
        assert second.stderr is not None
        assert second.stderr.readline() == "waiting for its end\n"
        assert second.poll() is None
    assert second.communicate() == ("mine\n", "")


def test_the_remedy_for_stale_data_names_its_stages():
    assert remedy(["digits"], Path("dvc.yaml")) == "run `d2v data` to prepare it again"
    told = remedy([f"{OFFICIAL}:imagenet", f"{OFFICIAL}:rte"], OFFICIAL)
    assert f"`d2v data imagenet rte --stages {OFFICIAL}`" in told
    assert f"`dvc commit --force {OFFICIAL}:imagenet {OFFICIAL}:rte`" in told


@pytest.mark.slow
def test_an_official_set_is_prepared_from_where_its_parameters_say(clone, tmp_path):
    source = tmp_path / "my lm"  # paths of sets may have spaces
    source.mkdir()
    write_arpa(["HELLO HELLO"], 2, source / "4-gram.arpa")
    (source / "librispeech-vocab.txt").write_text("HELLO\nTHERE\n")
    path = clone / "params" / "paper.yaml"
    elsewhere = tmp_path / "big disk"  # `prepared:` may be a folder on another disk
    text = path.read_text().replace("/datasets/librispeech-lm", str(source))
    path.write_text(text.replace("prepared: prepared/paper", f"prepared: {elsewhere}"))
    assert repro(["lm"], clone, OFFICIAL) == [f"{OFFICIAL}:lm"]
    made = elsewhere / "lm"
    assert (made / "lexicon.txt").read_text() == "HELLO\tH E L L O |\nTHERE\tT H E R E |\n"
    assert repro(["lm"], clone, OFFICIAL) == []
    with pytest.raises(UserError, match=r"librilight: /datasets/librilight: no such folder"):
        repro(["librilight"], clone, OFFICIAL)
    path.write_text(path.read_text().replace(str(source), "/typo"))
    before = {file.name: file.read_bytes() for file in made.iterdir()}
    with pytest.raises(UserError, match=r"lm: /typo: contains none of"):
        repro(["lm"], clone, OFFICIAL)
    assert {file.name: file.read_bytes() for file in made.iterdir()} == before
    run(clone, "git", "checkout", "-q", "params")
    (clone / OFFICIAL).with_name("dvc.lock").unlink()


# --- for real, in this order ------------------------------------------------------------------


@pytest.mark.slow
def test_everything_from_nothing_gives_the_bytes_of_the_lock(clone):
    assert set(repro(root=clone)) == stages(clone).keys()
    assert changed(clone) == ""
    for stage in stages(clone).values():
        for out in stage["outs"]:
            assert any((clone / (out if isinstance(out, str) else next(iter(out)))).iterdir())


@pytest.mark.slow
def test_a_second_time_nothing_runs_and_all_is_clean(clone):
    assert repro(root=clone) == []
    assert json.loads(run(clone, "dvc", "status", "--json", "dvc.yaml")) == {}
    assert changed(clone) == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("ngram: 3", "ngram: 2", {"lm"}),
        (
            "labels: [30, 100, 300, 1000]\n    lists: 12\n    seed: 0\n  spoken",
            "labels: [30, 100, 300]\n    lists: 12\n    seed: 0\n  spoken",
            {"layout_digits", "digits"},
        ),
    ],
)
def test_a_changed_parameter_runs_its_stage_and_what_needs_it(clone, old, new, expected):
    edit(clone, old, new)
    assert set(repro(root=clone)) == expected
    assert changed(clone).split("\n") == ["M dvc.lock", " M params/mini.yaml"]
    assert json.loads(run(clone, "dvc", "status", "--json", "dvc.yaml")) == {}
    edit(clone, new, old)
    repro(root=clone)
    assert changed(clone) == ""


@pytest.mark.slow
def test_a_failing_stage_says_why_in_one_sentence(clone):
    edit(clone, "train: 3500", "train: 4500")
    with pytest.raises(
        UserError, match=r"layout_digits: params/mini.yaml: 1 error\n  data"
    ) as error:
        repro(["digits"], clone)
    assert "data.digits: train + dev + test is 6000, but there are 5000" in str(error.value)
    edit(clone, "train: 4500", "train: 3500")
    repro(["digits"], clone)
    assert changed(clone) == ""


@pytest.mark.slow
def test_killed_in_the_middle_and_run_again(clone):
    shutil.rmtree(clone / "layouts" / "mini" / "imagenet")
    command = [sys.executable, "-m", "d2v.cli.data", "digits"]
    process = subprocess.Popen(command, cwd=clone, stdout=subprocess.PIPE, start_new_session=True)
    partial = clone / "layouts" / "mini" / "imagenet.tmp" / "train"
    deadline = time.monotonic() + 300
    while not partial.exists():
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()

    assert "layout_digits" in repro(["digits"], clone)
    assert sorted(p.name for p in (clone / "layouts" / "mini").iterdir()) == [
        "LibriSpeech",
        "corpus",
        "glue_data",
        "imagenet",
    ]
    assert json.loads(run(clone, "dvc", "status", "--json", "dvc.yaml")) == {}
    assert changed(clone) == ""


@pytest.mark.slow
def test_only_the_first_process_killed_the_second_call_waits_for_dvc(clone):
    shutil.rmtree(clone / "layouts" / "mini" / "imagenet")
    command = [sys.executable, "-m", "d2v.cli.data", "digits"]
    first = subprocess.Popen(command, cwd=clone, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    assert first.stdout.readline() == "data: layout_digits\n"
    first.kill()
    first.wait()
    # DVC lives on until it wants to say something; a second one beside it would be refused
    assert set(repro(["digits"], clone)) <= {"layout_digits", "digits"}
    assert json.loads(run(clone, "dvc", "status", "--json", "dvc.yaml")) == {}
    assert changed(clone) == ""


@pytest.mark.slow
def test_documents_in_the_place_of_a_set_stay_and_a_failed_stage_keeps_the_set(clone):
    repro(["lm"], clone)  # nothing to do where another test has made it
    made = clone / "prepared" / "mini" / "lm"
    before = {path.name: path.read_bytes() for path in made.iterdir()}
    edit(clone, "ngram: 3", "ngram: 1")
    with pytest.raises(UserError, match="the n-gram order must be at least 2"):
        repro(["lm"], clone)
    assert {path.name: path.read_bytes() for path in made.iterdir()} == before
    edit(clone, "ngram: 1", "ngram: 3")
    shutil.rmtree(made)
    made.mkdir()
    (made / "thesis.tex").write_text("five years of work")
    with pytest.raises(UserError, match=r"lm: .*contains thesis\.tex, which d2v did not"):
        repro(["lm"], clone)
    assert [path.name for path in made.iterdir()] == ["thesis.tex"]
    shutil.rmtree(made)
    repro(["lm"], clone)
    assert {path.name: path.read_bytes() for path in made.iterdir()} == before
    assert changed(clone) == ""


OUTPUT = [
    "Running stage 'digits':",
    "> d2v prepare imagefolder",
    "12 examples",
    "Updating lock file",
]


@pytest.mark.parametrize("level", [verbosity.USUAL, verbosity.VERBOSE])
def test_verbose_shows_what_dvc_itself_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], level: int
) -> None:
    """With a module in place of DVC, which prints what DVC prints."""
    (tmp_path / "dvc.py").write_text(f"print({chr(10).join(OUTPUT)!r})\n")
    (tmp_path / "dvc.yaml").write_text("stages: {digits: {cmd: 'true'}}\n")
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    monkeypatch.setattr(verbosity, "_level", level)
    assert repro(root=tmp_path) == ["digits"]
    shown = capsys.readouterr()
    assert shown.out == "data: digits\n"
    assert shown.err.splitlines() == (OUTPUT if level == verbosity.VERBOSE else ["12 examples"])
