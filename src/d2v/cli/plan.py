"""`d2v plan`: the cost of an experiment, before any run is started."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from d2v import params
from d2v.jobs import plan
from d2v.results import budget


def main(argv: Sequence[str] | None = None) -> None:
    """Run `d2v plan [FILE]`."""
    parser = argparse.ArgumentParser(
        prog="d2v plan", description="Estimate the cost of an experiment before starting it."
    )
    parser.add_argument(
        "experiment", nargs="?", type=Path, default=Path("params/mini.yaml"), metavar="FILE",
        help="parameter file of the experiment (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--device", default="h100", help=f"GPU model: {', '.join(plan.PEAK)} (default: h100)"
    )
    parser.add_argument(
        "--utilisation", metavar="SHARE",
        help="share of the device's peak matrix multiplication rate that training reaches: a"
        " number, or one per modality: vision=0.5,text=0.45,speech=0.4 (default: the value measured"
        " on the nearest device)",
    )  # fmt: skip
    parser.add_argument(
        "--measured", type=Path, metavar="FILE",
        help="benchmark result (benchmarks/results/*.json) to use instead of both options above",
    )  # fmt: skip
    parser.add_argument(
        "--only", nargs="+", metavar="RUN",
        help="runs to include (default: all), for example pretrain/text-base 'finetune/*'",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print every run as JSON")
    args = parser.parse_args(argv)
    utilisation = None if args.utilisation is None else plan.shares(args.utilisation)
    experiment = params.load(args.experiment)
    speed = plan.speed_of(args.device, utilisation, args.measured)
    jobs = plan.plan(experiment, speed)
    if args.only:
        jobs = plan.chosen(jobs, args.only)
    if args.json:
        print(plan.as_json(jobs, speed))
        return
    print(budget.report(experiment, jobs, speed))
