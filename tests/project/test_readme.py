"""The pages tell the truth: commands exist, snippets run, links and paths lead somewhere."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
# made by running, so not in a checkout
MADE = ("results/", "work/", "prepared/", "layouts/", "data/", "workflow/own/recordings/", ".venv")


def blocks(language: str) -> list[tuple[str, str]]:
    """(page, content) of the fenced blocks in one language."""
    return [
        (page.name, content)
        for page in PAGES
        for name, content in FENCE.findall(page.read_text())
        if name == language
    ]


def commands(program: str) -> list[str]:
    """Command lines of the pages' consoles that call `program`, by any path."""
    lines = [
        line.removeprefix("$ ")
        for _, content in blocks("console")
        for line in content.splitlines()
        if line.startswith("$ ")
    ]
    return [line for line in lines if Path(shlex.split(line)[0]).name == program]


def targets() -> set[str]:
    """Targets of the Makefile."""
    heads = re.findall(r"^([\w .-]+):(?!=)", (ROOT / "Makefile").read_text(), re.M)
    return {name for head in heads for name in head.split()}


def test_pages_show_the_two_commands() -> None:
    assert {"make demo", "make test"} <= set(commands("make"))


def test_make_targets_exist() -> None:
    mentioned = {arg for line in commands("make") for arg in line.split()[1:] if "=" not in arg}
    inline = {m for p in PAGES for m in re.findall(r"`make ([\w-]+)`", p.read_text())}
    assert not (mentioned | inline) - targets()


@pytest.mark.parametrize("line", sorted(set(commands("d2v"))))
def test_d2v_command_parses(line: str) -> None:
    from d2v.cli import commands as cli

    words = shlex.split(line)[1:]
    if words[0].startswith("-"):
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        assert ended.value.code == 0
        return
    parser = cli.function(words[0], "parser")
    assert callable(parser)
    parser().parse(words[1:])


@pytest.mark.slow
@pytest.mark.parametrize("program", ["snakemake", "dvc", "pytest", "pre-commit"])
def test_options_exist(program: str) -> None:
    """Long options only: the programs' own help names them."""
    wanted = [
        (word, words[1])
        for words in map(shlex.split, commands(program))
        for word in words[1:]
        if word.startswith("--")
    ]
    told: dict[tuple[str, ...], str] = {}
    for option, subcommand in wanted:
        part = (subcommand,) if program == "dvc" else ()
        if part not in told:
            command = [sys.executable, "-m", program.replace("-", "_"), *part, "--help"]
            told[part] = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
        assert option in told[part], f"{program} has no {option}"


@pytest.mark.slow
@pytest.mark.parametrize(("page", "code"), blocks("python"))
def test_snippet_runs(page: str, code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{page}:\n{code}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)\)", page.read_text())
    local = [link for link in links if "://" not in link]
    missing = [link for link in local if not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_named_paths_exist(page: Path) -> None:
    """Back-quoted paths with a folder or a known suffix, from the root or from src/d2v."""
    named = re.findall(r"`(\w[\w./-]*)`", page.read_text())
    paths = [
        name
        for name in named
        if name.endswith(("/", ".py", ".md", ".yaml", ".toml", ".dvc", ".lock", ".cff"))
        and not name.startswith((*MADE, "examples/", "fairseq/"))
        and name not in {"tri_stage_lr_scheduler.py"}  # fairseq's
        and Path(name).name != "radar.py"  # of the example in a walk
    ]
    roots = (ROOT, ROOT / "src/d2v")
    missing = [name for name in paths if not any((root / name).exists() for root in roots)]
    assert not missing


def test_parameters_named_in_method_exist() -> None:
    """Every `group.key` of docs/*.md is a key of the schema."""
    from d2v import params

    groups = {
        "target": [params.Target],
        "loss": [params.Loss],
        "ema": [params.EMA],
        "optimiser": [params.Optimiser],
        "backbone": [params.Backbone],
        "schedule": [params.TriStage, params.Cosine, params.Polynomial],
        "mask": [
            params.BlockMask,
            params.SpanMask,
            params.TokenMask,
            params.InverseBlockMask,
            params.RandomMask,
        ],
        "decoder": [params.Decoder],
        "encoder": [params.PatchEncoder, params.WaveEncoder, params.TokenEncoder],
    }
    text = "".join(page.read_text() for page in sorted((ROOT / "docs").glob("*.md")))
    for group, key in re.findall(r"`(\w+)\.(\w+)(?:: [^`]*)?`", text):
        if group in groups and key not in ("py", "json"):  # names of files
            assert any(key in model.model_fields for model in groups[group]), f"{group}.{key}"


def test_shown_faults_are_real(tmp_path: Path) -> None:
    """The README's example of a wrong parameter file is what the program says."""
    from d2v import params
    from d2v.util import errors

    good = (ROOT / "params/mini.yaml").read_text()
    wrong = good.replace("top_k: 2, feature: block", "topk: 2, feature: block")
    wrong = wrong.replace("steps: 1000, batch: 64,", "steps: many, batch: 64,")
    (tmp_path / "mini.yaml").write_text(wrong)
    with pytest.raises(errors.UserError) as caught:
        params.load(tmp_path / "mini.yaml")
    said = f"error: {caught.value}".replace(f"{tmp_path}/", "params/")
    assert said in [content.strip() for _, content in blocks("text")]
