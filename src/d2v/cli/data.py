"""`d2v data`: fetch missing raw sources, and bring the prepared sets up to date with DVC."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from d2v.cli import choice
from d2v.util.arguments import Parser
from d2v.util.errors import counted

if TYPE_CHECKING:  # imported late, so that --help is quick
    from d2v import params


def parser() -> Parser:
    """Argument parser of `d2v data`."""
    parser = Parser(
        prog="d2v data",
        description="Fetch missing raw sources, and update prepared sets with DVC: all sets of"
        " the miniature, or those that the runs of FILE need.",
    )
    choice.add(parser, sets=False, default=None)
    parser.add_argument(
        "targets", nargs="*", metavar="DATASET", help="prepared set to update (default: all)"
    )
    parser.add_argument(
        "--stages",
        type=Path,
        metavar="FILE",
        help="DVC file; workflow/paper/dvc.yaml is for official sets (default: dvc.yaml, the"
        " miniature's)",
    )
    parser.add_argument(
        "--list",
        action="store_true",
        help="only show what the experiment needs, what is prepared, and what is missing",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run `d2v data [FILE] [DATASET...]`."""
    args = parser().parse(argv)
    from d2v.data.dvc import STAGES, repro, stage_names
    from d2v.data.fetch.fetch import fetch

    args.targets = choice.shift(args, args.targets)
    named = args.file or args.params
    experiment = _experiment(choice.of(args).file) if named or args.list else None
    stages = args.stages or (Path(experiment.stages) if experiment else STAGES)
    known = stage_names(Path(), stages, args.targets)
    if experiment is not None and args.list:
        print(listed(experiment, args.targets))
        return
    targets = args.targets or [name for name in _needed(experiment) if name in known]
    if stages == STAGES:  # official sets are in the folders that their parameters name
        for file in fetch(Path("data")):
            print(f"data: fetched {file}", flush=True)
    ran = repro(targets, stages=stages)
    for line in _made(stages, targets):
        print(line)
    print(f"data: {', '.join(targets) or 'all sets'} up to date ({counted(len(ran), 'stage')} run)")


def listed(experiment: "params.Experiment", targets: Iterable[str] = ()) -> str:
    """One line per prepared set that the experiment's runs read: what there is, or what to do."""
    from d2v.data.summary import summary

    rows: list[tuple[str, str, str]] = []
    for name in [n for n in _needed(experiment) if not targets or n in targets]:
        folder = Path(experiment.prepared) / name
        found = summary(folder)
        if found is not None:
            state = "partial" if found.notes else "prepared"
            rows.append((name, state, f"{folder}: {found.line}"))
            continue
        source = getattr(experiment.group_of(name), "source", None)
        absent = source is not None and not Path(source).exists()
        what = f"its source {source} does not exist" if absent else "not prepared yet"
        rows.append((name, "missing", f"{folder}: {what}"))
    wide = max((len(name) for name, _, _ in rows), default=0)
    there = sum(state != "missing" for _, state, _ in rows)
    lines = [f"{name:{wide}}  {state:8}  {text}" for name, state, text in rows]
    return "\n".join([*lines, f"{there} of {len(rows)} sets are prepared"])


def _experiment(path: Path) -> "params.Experiment":
    from d2v import params
    from d2v.data.own_stages import write_stages

    experiment = params.load(path)
    write_stages(path, experiment)
    params.check_stages(experiment)
    return experiment


def _needed(experiment: "params.Experiment | None") -> list[str]:
    """Prepared sets that the runs of an experiment read; none without an experiment."""
    if experiment is None:
        return []
    from d2v.experiment import runs

    return list(runs.all_datasets(experiment))


def _made(stages: Path, targets: Sequence[str]) -> list[str]:
    """One line for each prepared set of the stages, or of the targets among them."""
    from d2v.data.summary import summary
    from d2v.params.prepared import outputs

    folders = sorted(map(Path, outputs(Path(), str(stages)) or ()))
    found = [summary(f) for f in folders if not targets or f.name in targets]
    return [f"{s.folder}: {s.line}" for s in found if s is not None]


if __name__ == "__main__":
    main()
