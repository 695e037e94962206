"""`d2v init FOLDER`: a project of your own, with the recipes and the workflow of this version."""

from collections.abc import Sequence
from pathlib import Path

import d2v
from d2v.util import shipped
from d2v.util.arguments import Parser
from d2v.util.errors import UserError, counted
from d2v.util.outputs import new_folder

# links in the root, for Snakemake: the profile that it always reads, and `--profile slurm`
LINKS = {"profiles": "workflow/profiles", "slurm": "workflow/profiles/slurm"}
README = """\
# {name}

A project for data2vec experiments, written by `d2v init` (version {version}). It needs
`pip install "d2v[workflow]"`.

| path | content |
|---|---|
| `params/` | parameter files of experiments; `params/own/` has examples for your own data |
| `params/cluster.yaml` | what jobs on a Slurm cluster request |
| `Snakefile`, `workflow/` | rules from prepared data to tables |
| `dvc.yaml`, `workflow/*/dvc.yaml` | stages that prepare the data sets |

    d2v check --params params/mini.yaml      check a parameter file, count its runs
    d2v plan params/paper.yaml               estimate the cost
    d2v data --params params/mini.yaml       prepare the data sets
    d2v reproduce --params params/mini.yaml  run everything, and print the tables
    d2v status --params params/mini.yaml     show the state of every run

Results are written to `results/`, checkpoints and logs to `work/`. Everything here is yours:
change, add and remove files as you like. After an update of d2v, run `d2v init` for a new project
to compare with. The update does not prepare the data again; to do so, run `dvc repro --force`.
"""
IGNORED = "/data/\n/layouts/\n/prepared/\n/work/\n/results/\n/.snakemake/\n/weights/\n"


def parser() -> Parser:
    """Argument parser of `d2v init`."""
    made = Parser(
        prog="d2v init",
        description="Write a project of your own, with the recipes and the workflow of d2v.",
    )
    made.add_argument("folder", type=Path, metavar="FOLDER", help="new folder to write")
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Run `d2v init`."""
    folder = parser().parse(argv).folder
    try:
        count = write(folder)
    except UserError as error:  # other commands have an option for what they write
        raise UserError(str(error).replace(" with -o", " as FOLDER")) from None
    print(f"{folder}: {counted(count, 'file')}; next: cd {folder} && d2v check")


def write(folder: Path) -> int:
    """Write a project; returns the number of its files. Raises UserError if the folder exists."""
    source = shipped.root()
    names = list(shipped.files(source))
    with new_folder(folder) as part:
        for name in names:
            content = (source / name).read_bytes()
            if name.name in ("dvc.yaml", "template.yaml"):
                content = shipped.without_sources(content.decode()).encode()
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            (part / name).write_bytes(content)
        with (part / ".dvc/config").open("a", encoding="utf-8") as file:
            file.write("    no_scm = true\n")  # works without git, too
        for link, target in LINKS.items():
            (part / link).symlink_to(target)
        head = README.format(name=folder.resolve().name, version=d2v.__version__)
        (part / "README.md").write_text(head, encoding="utf-8")
        (part / ".gitignore").write_text(IGNORED, encoding="utf-8")
    return len(names) + 2
