"""Names in a run's folder of checkpoints, for code that does not need PyTorch."""

from pathlib import Path

MODEL, TRAINING, META = "model.safetensors", "training.safetensors", "checkpoint.json"
FILES = (MODEL, TRAINING, META)
REMOVED = "removed"  # in META: names of files that `d2v clean` removed
OTHERS = "checkpoints-of-other-parameters"  # next to the folder of checkpoints: set aside


def folders(root: Path) -> list[Path]:
    """Folders of complete checkpoints, oldest first."""
    steps = [f for f in root.glob("step-*") if f.name.removeprefix("step-").isdecimal()]
    return sorted(steps, key=lambda folder: int(folder.name.removeprefix("step-")))


def newest_step(root: Path) -> int:
    """Step of the newest checkpoint, intact or not; 0 without one."""
    found = folders(root)
    return int(found[-1].name.removeprefix("step-")) if found else 0
