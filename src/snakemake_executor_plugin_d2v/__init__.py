"""Snakemake's executor `d2v`: all runs of a workflow as Slurm jobs, followed by one process.

A rule whose command is `d2v run RUN --params FILE` becomes that run's job; of any other rule, a job
executes the command. What a job requests is set in params/cluster.yaml. Jobs survive Snakemake: the
same command re-attaches to those that are still alive.
"""

import asyncio
import shlex
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.real import RealExecutor
from snakemake_interface_executor_plugins.settings import CommonSettings, ExecMode

from d2v import params
from d2v.experiment import folders, runs
from d2v.jobs import cluster, work
from d2v.jobs.crowd import Crowd
from d2v.jobs.followed import Followed
from d2v.util.errors import UserError

common_settings = CommonSettings(
    non_local_exec=True,
    implies_no_shared_fs=False,
    job_deploy_sources=False,
    pass_default_storage_provider_args=True,
    pass_default_resources_args=True,
    pass_envvar_declarations_to_cmd=False,
    auto_deploy_default_storage_provider=False,
)
ASKED = (signal.SIGINT, signal.SIGTERM)
DROPPED = "not submitted, because another job failed (with --keep-going, it would have been)"


class Executor(RealExecutor):
    """Hands jobs to a thread that submits and follows them, and reports how they ended."""

    def __post_init__(self) -> None:
        self.crowd = Crowd(workflow=True)
        self.inbox: list[tuple[SubmittedJobInfo, bool]] = []
        self.infos: dict[int, SubmittedJobInfo] = {}
        self.cluster = cluster.load()
        self.experiments: dict[str, params.Experiment] = {}
        self.lock, self.over, self.cancelled = threading.Lock(), False, False
        self.woken = threading.Event()
        self.thread: threading.Thread | None = None

    # --- what Snakemake calls, in its main thread -----------------------------------------------

    def run_job(self, job: Any) -> None:
        """Take over a job; it is submitted together with others that come at the same time."""
        if self.thread is None:
            # Snakemake would wait for all jobs after SIGTERM
            signal.signal(signal.SIGTERM, _interrupt)
            self.thread = threading.Thread(target=self._follow, name="jobs", daemon=True)
            with _blocked():  # inherited: signals are for the main thread
                self.thread.start()
        # the result of a job that ended while no Snakemake was there
        interrupted = self.workflow.async_run(self.workflow.persistence.incomplete(job))
        info = SubmittedJobInfo(job=job)
        self.report_job_submission(info)
        with self.lock:
            self.inbox.append((info, bool(interrupted)))
        self.woken.set()

    def cancel(self) -> None:
        """Cancel all jobs; nothing more is submitted. Further signals change nothing."""
        for number in ASKED:
            signal.signal(number, signal.SIG_IGN)
        self.cancelled = True
        self.shutdown()

    def shutdown(self) -> None:
        """End the thread."""
        self.over = True
        self.woken.set()
        if self.thread is not None:
            self.thread.join()

    @property
    def cores(self) -> str:
        return "all"

    def get_exec_mode(self) -> ExecMode:
        return ExecMode.REMOTE

    def get_python_executable(self) -> str:
        return sys.executable

    # --- the thread -----------------------------------------------------------------------------

    def _follow(self) -> None:
        try:
            while not self.over:
                self._take()
                for one in self.crowd.step():
                    self._report(one)
                self.woken.wait(self.crowd.pause_s)
                self.woken.clear()
            if self.cancelled:
                self._cancel_all()
        except Exception as error:
            traceback.print_exc()
            self.workflow.scheduler.executor_error_callback(error)

    def _take(self) -> None:
        """Turn new jobs of Snakemake into work."""
        with self.lock:
            new, self.inbox = self.inbox, []
        for info, interrupted in new:
            if self.over:
                return
            try:
                done = self._work(info.job)
                if interrupted and done.done():
                    print(f"{done.name}: already done", flush=True)
                    self.report_job_success(info)
                    continue
                one = Followed(done, "slurm", self.cluster, True, resumed=interrupted)
            except UserError as error:
                self._fail(info, str(error))
                continue
            self.infos[id(one)] = info
            self.crowd.all.append(one)

    def _work(self, job: Any) -> work.Work:
        """The run that a rule's command starts, or the command itself."""
        command = str(job.shellcmd)
        words = shlex.split(command)
        if words[:3] == ["exec", "d2v", "run"] and words[4:5] == ["--params"]:
            run = runs.parse(self._experiment(words[5]), words[3])
            return work.RunWork(Path(words[5]), run)
        file = str(self.workflow.config.get("experiment", "params/mini.yaml"))
        return work.RuleWork(
            job.rule.name,
            [str(value) for value in job.wildcards],
            command,
            [Path(str(file)) for file in job.output],
            job.threads,
            folders.WORK / self._experiment(file).name,
            lambda: asyncio.run(_prepare(job)),
        )

    def _experiment(self, file: str) -> params.Experiment:
        if file not in self.experiments:
            self.experiments[file] = params.load(Path(file))
        return self.experiments[file]

    def _report(self, one: Followed) -> None:
        info = self.infos.pop(id(one))
        info.external_jobid = str(one.record.get("id"))
        if one.error is None:
            self.report_job_success(info)
            return
        self._fail(info, str(one.error))
        if not self.workflow.execution_settings.keep_going:
            for waiting in self.crowd.drop_waiting(DROPPED):
                self.report_job_error(self.infos.pop(id(waiting)))

    def _fail(self, info: SubmittedJobInfo, said: str) -> None:
        print(f"error: {said}", file=sys.stderr, flush=True)
        self.report_job_error(info, msg=said)

    def _cancel_all(self) -> None:
        count = sum(one.stage == "follow" for one in self.crowd.all)
        print(f"cancelling {count} jobs", flush=True)
        started = time.monotonic()
        try:
            self.crowd.cancel()
        except UserError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            return
        print(f"all jobs are cancelled ({time.monotonic() - started:.0f} s)", flush=True)


async def _prepare(job: Any) -> None:
    """Remove old outputs and create folders, as Snakemake does where it executes a job itself."""
    await job.remove_existing_output()
    for file in (*job.output, *job.log):
        file.prepare()


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


@contextmanager
def _blocked() -> Iterator[None]:
    """Block the signals of the terminal in this thread and in threads that it starts."""
    numbers = {*ASKED, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
