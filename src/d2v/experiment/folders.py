"""Folders and files that belong to an experiment as a whole, not to one of its runs."""

from pathlib import Path

from d2v.params import Experiment

RESULTS = Path("results")
WORK = Path("work")
COMPLETE = ".complete"  # marks tables that the workflow made from finished runs


def results(experiment: Experiment) -> Path:
    """Folder of tables, page, predictions and metrics: everything that the workflow declares."""
    return RESULTS / experiment.name


def work(experiment: Experiment) -> Path:
    """Folder of checkpoints and logs; the workflow declares no files here, so it deletes none."""
    return WORK / experiment.name


def chosen_path(experiment: Experiment, task: str) -> Path:
    """File with the settings chosen from a task's grid, for all arms."""
    return results(experiment) / "runs" / "select" / task / "chosen.json"


def units_path(experiment: Experiment, pretrain: str) -> Path:
    """File with the k-means centres of a pre-training whose target is units."""
    return results(experiment) / "runs" / "units" / f"{pretrain}.safetensors"


def meta_path(experiment: Experiment, dataset: str) -> Path:
    """File that describes a prepared set: the interface between data stages and workflow."""
    return Path(experiment.prepared) / dataset / "meta.json"
