"""`d2v tables`: tables and results page, from the runs that have finished."""

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

    experiment = choice.of(args).load()
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
        print(f"preview: {done} of {len(found)} runs are finished; `d2v reproduce` runs the rest")
    if not verbosity.quiet():
        print(f"page: {page}")
