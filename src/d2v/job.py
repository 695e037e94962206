"""What a job does on the machine it was given."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from d2v import locks, params, runs
from d2v.errors import UserError
from d2v.files import write_json


def job(experiment_path: Path, run_id: str, spec: str, folder: Path, attempt: str) -> None:
    """Take the run's lock, carry it out, and leave word of how it ended in `outcome.json`.

    `spec` is the fingerprint of the run's parameters when it was submitted, `folder` the run's
    work folder. Output goes to `train.log` there.
    """
    outcome: dict[str, Any] = {"attempt": attempt, "error": None, "exit_code": 0}
    with log_to(folder / "train.log"), locks.held(folder / "lock") as lock:
        lock.truncate(0)
        print(os.getpid(), locks.process_start(os.getpid()), file=lock, flush=True)
        try:
            experiment = params.load(experiment_path)
            if runs.fingerprint(experiment, runs.parse(experiment, run_id)) != spec:
                raise UserError(f"{experiment_path} changed while the job was starting: run again")
            from d2v import execute

            execute.execute(experiment_path, run_id)
        except UserError as error:
            outcome |= {"error": str(error), "exit_code": error.exit_code}
            print(f"error: {error}", flush=True)
        except Exception as error:
            traceback.print_exc()
            outcome |= {"error": f"{type(error).__name__}: {error}", "exit_code": 1}
        write_json(folder / "outcome.json", outcome)


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Send this process's output, and its children's, to the end of a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    with path.open("a") as file:
        before = os.dup(1), os.dup(2)
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, old in zip((1, 2), before, strict=True):
                os.dup2(old, number)
                os.close(old)
