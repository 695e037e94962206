"""A folder in which `d2v run` can be started and disturbed; what the job does needs no torch."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from workspace import ROOT

from d2v.util import locks

RUN = "pretrain/vision/seed0"
# execute of the jobs in these tests: it notes its start, then does what the file `do` says
STAND_IN = """
import sys, types

def execute(run):
    import os, time, signal
    from pathlib import Path
    from d2v.util.errors import Collapse
    from d2v.util.files import write_json
    with open("starts", "a") as file:
        print(os.getpid(), os.environ["OMP_NUM_THREADS"], file=file)
    print("working", flush=True)
    until = time.monotonic() + 60
    while (do := Path("do").read_text()) == "wait" and time.monotonic() < until:
        time.sleep(.02)
    if do == "nap":
        time.sleep(2)
    if do == "collapse":
        raise Collapse("all the same")
    if do == "peer":
        raise RuntimeError("NCCL communicator was aborted: a bug of rank 0")
    if do == "break":
        raise RuntimeError("a bug")
    if do == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if do == "end without result":
        return
    found = {"metrics": {}, "provenance": {}}
    if do == "nap":  # leave a result that counts as current
        from d2v.experiment import contents, provenance
        found["provenance"] = {"params_sha256": run.fingerprint(), "finished": str(time.time())}
        found["provenance"] |= {"data_sha256": contents.contents(run)}
        found["provenance"] |= {"code_sha256": provenance.code_sha256()}
    write_json(run.metrics_path, found)
    print("finished", flush=True)

sys.modules["d2v.experiment.execute"] = types.ModuleType("d2v.experiment.execute")
sys.modules["d2v.experiment.execute"].execute = execute
"""


class Place:
    """A folder with an experiment, in which `d2v run` can be started and disturbed."""

    def __init__(self, folder: Path, launch: str = "local", **environment: str) -> None:
        self.folder, self.place = folder, launch
        (folder / "stand_in").mkdir()
        (folder / "stand_in/sitecustomize.py").write_text(STAND_IN)
        self.environment = os.environ | environment | {"PYTHONPATH": str(folder / "stand_in")}
        self.params = folder / "params/tiny.yaml"
        self.params.parent.mkdir(exist_ok=True)
        self.params.write_text((ROOT / "tests/params/tiny.yaml").read_text())
        (folder / "results/tiny").mkdir(parents=True, exist_ok=True)  # d2v runs where these are
        self.work = folder / "work/tiny" / RUN
        self.launched: list[subprocess.Popen[str]] = []

    def do(self, what: str) -> None:
        draft = self.folder / "do.new"
        draft.write_text(what)
        draft.replace(self.folder / "do")

    def launch(self) -> subprocess.Popen[str]:
        """`d2v run` of the one run."""
        words = ["d2v.cli", "run", RUN, "--params", "params/tiny.yaml", "--launch", self.place]
        return self.start(*words)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """`python -m WORDS...`."""
        process = subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.launched.append(process)
        return process

    def starts(self) -> list[int]:
        path = self.folder / "starts"
        return (
            [int(line.split()[0]) for line in path.read_text().splitlines()]
            if path.exists()
            else []
        )

    def until(self, what: Callable[[], object], seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.02)

    def running(self) -> subprocess.Popen[str]:
        """A launcher whose job is at work and stays so until told otherwise."""
        self.do("wait")
        before = len(self.starts())
        process = self.launch()
        self.until(lambda: len(self.starts()) > before)
        self.until((self.work / "job.json").exists)
        return process

    def attached(self) -> subprocess.Popen[str]:
        """A second launcher, which has found the running job."""
        process = self.launch()
        assert process.stdout is not None
        assert process.stdout.readline().startswith("attached to job")
        return process

    def record(self) -> dict[str, object]:
        return json.loads((self.work / "job.json").read_text())

    def state(self) -> str:
        """What `d2v status` says of the run."""
        words = [sys.executable, "-m", "d2v.cli", "status", "--params", "params/tiny.yaml"]
        said = subprocess.run(
            words, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=True
        ).stdout
        return next(line.split()[1] for line in said.splitlines() if line.startswith(RUN))

    def leave(self) -> None:
        """Nothing stays behind."""
        self.do("end")
        for process in self.launched:
            process.kill()
            process.communicate()
        self.until(lambda: not locks.is_held(self.work / "lock"))


def ended(process: subprocess.Popen[str], seconds: float = 60) -> tuple[int, str, str]:
    """Exit code and output of a process that ends by itself."""
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err
