"""Submission of jobs to Slurm through submitit: the request, the script and the call of sbatch."""

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from d2v.jobs import squeue
from d2v.jobs.cluster import Resources, minutes
from d2v.jobs.job import Job

SUBMIT_S = 60.0  # timeout of sbatch, which itself waits for a busy controller


class Submission:
    """Jobs that make one request: a job, or an array of jobs."""

    def __init__(
        self, folder: Path, resources: Resources, name: str, batch: str, cpus: int
    ) -> None:
        """`folder`, a new one, receives pickles and logs; `batch` becomes part of the comment."""
        self.folder, self.resources, self.name, self.batch = folder, resources, name, batch
        self.threads = resources.cpus or cpus

    def sbatch(self, jobs: Sequence[Job]) -> tuple[str | None, str | None]:
        """Submit the jobs in one call; return the id of the job or array, or None and the reason.

        The reason is None if sbatch did not answer in time.
        """
        from submitit.core.utils import DelayedSubmission

        r = self.resources
        container = f"{r.container} python3" if r.container else None
        again = 10**6 if r.requeue else 0  # time limits that a job may hit
        executor = _executor()(self.folder, max_num_timeout=again, python=container)
        executor.update_parameters(**self.request())
        self.folder.mkdir(parents=True, exist_ok=True)
        for index, job in enumerate(jobs):
            delayed = DelayedSubmission(job)
            delayed.set_timeout(minutes(r.hours), again)
            delayed.dump(self.folder / f"{index}.pkl")
        if len(jobs) > 1:
            executor.parameters["map_count"] = len(jobs)
        script = self.folder / "submission.sh"
        command = executor._submitit_command_str
        script.write_text(executor._make_submission_file_text(command, ""))
        done = squeue.ask("sbatch", str(script), timeout=SUBMIT_S)
        if done is None:
            return None, None
        found = re.search(r"job (\d+)", done.stdout)
        if done.returncode == 0 and found:
            return found[1], ""
        said = done.stderr or done.stdout or f"sbatch ended with exit code {done.returncode}"
        return None, " ".join(re.sub(r"sbatch: (error: )?", "", said).split())

    def request(self) -> dict[str, Any]:
        """Options for submitit's executor."""
        r = self.resources
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
        asked = {
            "job_name": self.name,
            "time": minutes(r.hours),
            "nodes": r.nodes,
            "ntasks_per_node": r.processes,
            "cpus_per_task": self.threads,
            "gpus_per_node": r.gpus or None,
            "mem": f"{round(1024 * r.memory_gb)}MB" if r.memory_gb else None,
            "partition": r.partition,
            "account": r.account,
            "qos": r.qos,
            "constraint": r.constraint,
            "array_parallelism": r.at_once or 10**6,
            "signal_delay_s": r.signal_s,
            "comment": f"d2v {self.batch}",
            "setup": [
                *self._own_pickle(),
                *r.setup,
                *(f"export {name}={self.threads}" for name in names),
            ],
            # srun no longer inherits --cpus-per-task from sbatch; without --kill-on-bad-exit, the
            # remaining processes would wait for one that died
            "srun_args": [
                "--cpu-bind=none",
                f"--cpus-per-task={self.threads}",
                "--kill-on-bad-exit=1",
                *r.srun,
            ],
            "additional_parameters": {
                "requeue" if r.requeue else "no-requeue": True,
                **r.sbatch,
            },
            "stderr_to_stdout": True,
        }
        return {key: value for key, value in asked.items() if value is not None}

    def _own_pickle(self) -> list[str]:
        """Shell lines that give a job's pickle the name under which submitit looks for it.

        The job does this itself, so that it runs even if its launcher was killed right after the
        submission. A pickle that submitit saved for a requeued job is kept.
        """
        folder = shlex.quote(str(self.folder.resolve()))
        return [
            "job=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}",
            f"pickle={folder}/${{job}}_submitted.pkl",
            f'[ -e "$pickle" ] || cp {folder}/"${{SLURM_ARRAY_TASK_ID:-0}}.pkl" "$pickle"',
        ]


@cache
def _executor() -> Any:
    """submitit's executor for Slurm, imported late because that takes a while."""
    import submitit

    return submitit.SlurmExecutor


@contextmanager
def clean_environment() -> Iterator[None]:
    """Hide the Slurm variables of an enclosing job, so that the new job does not inherit them."""
    from submitit.helpers import clean_env

    where = os.environ.get("SLURM_CONF")
    with clean_env():
        if where is not None:
            os.environ["SLURM_CONF"] = where
        yield
