"""`d2v tables`: tables and results page, from the runs that have finished."""

import shlex
from collections.abc import Sequence

from d2v.cli import choice
from d2v.cli.running import check_place
from d2v.util import verbosity
from d2v.util.arguments import Parser


def parser() -> Parser:
    """Argument parser of `d2v tables`."""
    made = Parser(prog="d2v tables", description="Build the result tables and print them.")
    choice.add(made)
    return made


def main(argv: Sequence[str] | None = None) -> None:
    """Run `d2v tables [FILE]`."""
    args = parser().parse(argv)
    from d2v.experiment import folders
    from d2v.results import summary, tables
    from d2v.results.page import build, records
    from d2v.util.files import remove_file

    chosen = choice.of(args)
    experiment = chosen.load()
    check_place(experiment)
    results = folders.results(experiment)
    found = records.collect(experiment, results, folders.work(experiment))
    summary.write(found, results)
    done = sum(record.finished for record in found)
    if done < len(found):  # remove the file by which the workflow marks tables as complete
        remove_file(results / "tables" / folders.COMPLETE)
    page = build.build(experiment, results, found, tables.build(experiment, results))
    print(tables.render_console(experiment, results))
    if done < len(found):
        print(f"preview: {done} of {len(found)} runs are finished; {_rest(chosen)}")
    if not verbosity.quiet():
        print(f"page: {page}")


def _rest(chosen: choice.Chosen) -> str:
    """Which command runs what is missing."""
    words = ["d2v reproduce"]
    words += [shlex.quote(str(chosen.file))] * (chosen.file != choice.EXPERIMENT)
    words += [f"--set {shlex.quote(word)}" for word in chosen.sets]
    return f"`{' '.join(words)}` runs the rest"
