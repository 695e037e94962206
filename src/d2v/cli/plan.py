"""`d2v plan`: the cost of an experiment, before any run is started."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from d2v.cli import choice
from d2v.util.arguments import Parser

DEVICES = ("v100", "a100", "h100", "h200")  # those of d2v.jobs.plan


def parser() -> Parser:
    """Argument parser of `d2v plan`."""
    parser = Parser(
        prog="d2v plan", description="Estimate the cost of an experiment before starting it."
    )
    choice.add(parser)
    parser.add_argument(
        "--device", default="h100", help=f"GPU model: {', '.join(DEVICES)} (default: h100)"
    )
    parser.add_argument(
        "--utilisation", metavar="SHARE",
        help="share of the device's peak matrix multiplication rate that training reaches: a"
        " number, or one per modality: vision=0.5,text=0.45,speech=0.4 (default: the value measured"
        " on the nearest device)",
    )  # fmt: skip
    parser.add_argument(
        "--measured", type=Path, metavar="FILE",
        help="benchmark result (benchmarks/results/*.json) to use instead of --device and"
        " --utilisation",
    )  # fmt: skip
    parser.add_argument(
        "--only", nargs="+", metavar="RUN",
        help="runs to include (default: all), for example pretrain/text-base 'finetune/*'",
    )  # fmt: skip
    choice.add_json(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run `d2v plan [FILE]`."""
    args = parser().parse(argv)
    from d2v.jobs import compared, plan
    from d2v.results import budget

    utilisation = None if args.utilisation is None else plan.shares(args.utilisation)
    experiment = choice.of(args).load()
    speed = plan.speed_of(args.device, utilisation, args.measured)
    jobs = plan.plan(experiment, speed, args.only or ())
    beside = compared.comparisons(experiment, jobs, speed)
    if args.json:
        from d2v.cli.schemas import PlannedComparison, PlannedRun, PlannedSpeed, PlanReport

        report = PlanReport(
            experiment=experiment.name,
            speed=PlannedSpeed(**asdict(speed)),
            jobs=[PlannedRun(**asdict(job)) for job in jobs],
            compared=[PlannedComparison(**asdict(one)) for one in beside],
        )
        print(report.text())
        return
    print(budget.report(experiment, jobs, speed, beside))
