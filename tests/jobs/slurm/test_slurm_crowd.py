"""A crowd of runs through `snakemake --profile slurm`: one process, few questions, nothing lost."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cluster import Cluster, until
from conftest import write_resources
from slurm_clients import Clients
from stand_in import Place

pytestmark = pytest.mark.slow
COUNT = int(os.environ.get("D2V_CROWD", "30"))  # 300 take ten minutes
RULE = "results/tiny/runs/pretrain/vision/seed{}/metrics.json"


class Crowd:
    """Many runs of two seconds, and the workflow that starts them."""

    def __init__(self, place: Place, cluster: Cluster, count: int) -> None:
        self.place, self.cluster, self.count = place, cluster, count
        text = place.params.read_text()
        seeds = ", ".join(map(str, range(count)))
        place.params.write_text(text.replace("seeds: [0, 1]", f"seeds: [{seeds}]", 1))
        meta = place.folder / "prepared/tiny/digits/meta.json"
        meta.parent.mkdir(parents=True)
        meta.write_text('{"sha256": "0"}')
        (place.folder / "params/reported.csv").touch()
        write_resources(place.folder, memory_gb="0.5", poll_s="10")
        self.clients = Clients(cluster, place.folder / "clients")
        place.environment["PATH"] = self.clients.path
        place.do("nap")
        self.log = place.folder / "log"
        self.most, self.memory = 0, 0.0

    def start(self, *words: str, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        targets = [RULE.format(seed) for seed in range(self.count)]
        head = [*before, sys.executable, "-m", "snakemake", "--profile", "slurm"]
        head += ["--config", "experiment=params/tiny.yaml", *words, "--"]
        with self.log.open("ab") as log:  # a pipe would fill while nobody reads
            process = subprocess.Popen(
                [*head, *targets],
                cwd=self.place.folder,
                env=self.place.environment,
                stdout=log,
                stderr=log,
                text=True,
            )
        self.place.launched.append(process)
        return process

    def ends(self, process: subprocess.Popen[str], seconds: float) -> tuple[int, str]:
        """Exit code and output of the workflow."""
        return process.wait(seconds), self.log.read_text()

    def done(self) -> int:
        return len(list(self.place.folder.glob(RULE.format("*"))))

    def reaches(self, share: float, process: subprocess.Popen[str], seconds: float) -> None:
        """Wait until so many runs have ended; note how many jobs there were and the memory."""
        end = time.monotonic() + seconds
        while self.done() < share * self.count and process.poll() is None:
            assert time.monotonic() < end, f"{self.done()} of {self.count} in {seconds} s"
            self.most = max(self.most, len(self.cluster.ask("squeue", "-h", "-r").splitlines()))
            self.memory = max(self.memory, resident_mib(process.pid))
            time.sleep(1)

    def each_once(self) -> None:
        assert self.done() == self.count
        assert len(self.place.starts()) == self.count


def resident_mib(pid: int) -> float:
    """Memory of a process and of its children."""
    total = 0.0
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                total += int(line.split()[1]) / 1024
        for task in Path(f"/proc/{pid}/task").iterdir():
            children = (task / "children").read_text().split()
            total += sum(resident_mib(int(child)) for child in children)
    except (FileNotFoundError, ProcessLookupError):
        pass
    return total


@pytest.fixture
def crowd(place: Place, cluster: Cluster) -> Crowd:
    return Crowd(place, cluster, COUNT)


def test_all_that_is_ready_is_submitted_and_each_run_is_done_once(crowd: Crowd) -> None:
    process = crowd.start()
    for share in (1 / 3, 2 / 3):
        crowd.reaches(share, process, 30 + 3 * COUNT)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process = crowd.start()
    crowd.reaches(1, process, 30 + 3 * COUNT)
    code, out = crowd.ends(process, 120)
    rate = crowd.clients.asked_a_minute()
    submissions = crowd.clients.calls("sbatch")
    print(f"{COUNT} runs: at most {crowd.most} jobs, {rate:.1f} questions a minute,")
    print(f"{submissions} submissions, {crowd.memory:.0f} MiB")
    assert code == 0, out
    crowd.each_once()
    assert crowd.most >= 2 / 3 * COUNT
    assert rate <= 6
    assert submissions <= 12
    assert crowd.memory < 400
    until(lambda: not crowd.cluster.queue(), 20, "jobs are left")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_cancels_everything(crowd: Crowd, number: signal.Signals) -> None:
    crowd.place.do("wait")
    process = crowd.start()
    until(lambda: len(crowd.cluster.ask("squeue", "-h", "-r").splitlines()) == COUNT, 90, "few")
    crowd.place.until(crowd.place.starts)
    submissions = crowd.clients.calls("sbatch")
    process.send_signal(number)
    until(lambda: not crowd.cluster.queue(), 30, "jobs are left")
    code, out = crowd.ends(process, 20)
    assert code != 0
    assert f"cancelling {COUNT} jobs" in out, out
    assert crowd.clients.calls("sbatch") == submissions
    assert crowd.place.state() == "cancelled"


def test_a_hang_up_does_not_end_what_nohup_started(place: Place, cluster: Cluster) -> None:
    crowd = Crowd(place, cluster, 2)
    process = crowd.start(before=("nohup",))
    until(lambda: len(cluster.queue()) > 0 or crowd.done(), 60, "no job")
    process.send_signal(signal.SIGHUP)
    code, out = crowd.ends(process, 60)
    assert code == 0, out
    crowd.each_once()


@pytest.mark.parametrize("trouble", ["limit", "flaky", "slow", "away"])
def test_trouble_at_the_controller_is_waited_out(
    place: Place, cluster: Cluster, trouble: str
) -> None:
    whole = "D2V_CROWD" in os.environ
    if trouble != "limit" and not whole:
        pytest.skip("takes minutes: set D2V_CROWD")
    crowd = Crowd(place, cluster, 60 if whole else 12)
    if trouble == "limit":
        crowd.clients.limit(20 if whole else 6)
    else:
        crowd.clients.behave({"flaky": "flaky", "slow": "slow 15", "away": "away"}[trouble])
    process = crowd.start()
    if trouble == "away":
        time.sleep(180)
        crowd.clients.behave()
    crowd.reaches(1, process, 900)
    crowd.clients.behave()
    code, out = crowd.ends(process, 180)
    rate = crowd.clients.asked_a_minute()
    print(f"{trouble}: {rate:.1f} questions a minute, {crowd.clients.calls('sbatch')} submissions")
    assert code == 0, out
    crowd.each_once()
    assert rate <= 6
    if trouble != "slow":
        assert "waiting to submit" in out
