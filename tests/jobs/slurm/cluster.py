"""A Slurm cluster of two nodes on this machine, from Debian's packages, to be disturbed by tests.

    python tests/jobs/slurm/cluster.py start FOLDER     prints what a shell must export
    python tests/jobs/slurm/cluster.py stop FOLDER
    python tests/jobs/slurm/cluster.py check            whether Debian's packages are installed
    python tests/jobs/slurm/cluster.py packages         their names

munge, MariaDB, slurmdbd, slurmctld and one slurmd a node run from FOLDER alone: nothing below /etc,
/run or /var is read or written, and only the loopback interface is used. The nodes are named by
loopback addresses, so that they resolve without /etc/hosts. Each has one GPU that is none (a device
file), which Slurm schedules all the same. Nothing is enforced by cgroups.
"""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

PACKAGES = "slurm-wlm slurmdbd slurm-wlm-mysql-plugin munge mariadb-server-core mariadb-client-core"
PROGRAMS = ("munged", "mariadb-install-db", "mariadbd", "slurmdbd", "slurmctld", "slurmd", "squeue")
NODES = ("127.0.0.11", "127.0.0.12")
CLIENTS = (
    "sbatch",
    "srun",
    "squeue",
    "scontrol",
    "scancel",
    "sinfo",
    "sacct",
    "sacctmgr",
    "sshare",
)
SYSTEM_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def missing() -> list[str]:
    """Programs of the cluster that this machine lacks."""
    return [name for name in PROGRAMS if shutil.which(name, path=SYSTEM_PATH) is None]


def until(what: Callable[[], object], seconds: float, said: str) -> None:
    """Wait until `what()` is true; raises TimeoutError."""
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            raise TimeoutError(f"after {seconds:g} s: {said}")
        time.sleep(0.1)


class Cluster:
    """The daemons of one folder, by their pid files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.conf = self.folder / "slurm.conf"
        self.bin = self.folder / "bin"
        path = f"{self.bin}:{SYSTEM_PATH}"
        self.environment = {"SLURM_CONF": str(self.conf), "PATH": path}

    # --- life ---------------------------------------------------------------------------------

    def start(self) -> "Cluster":
        """Start every daemon and wait until both nodes are idle."""
        for name in ("run", "log", "ctld", "munge", "bin", *(f"spool.{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        for path in (self.folder, self.folder / "munge"):
            path.chmod(0o755)  # munge asks for it
        self._start_munge()
        port = _free_ports(8)
        self._start_accounting(port)
        self._write_configuration(port)
        self._write_clients()
        self._daemon("slurmdbd")
        until(
            lambda: self.call("sacctmgr", "-n", "show", "cluster").returncode == 0, 30, "slurmdbd"
        )
        for words in (
            ("cluster", "lab"),
            ("account", "lab"),
            ("user", getpass.getuser(), "account=lab"),
        ):
            self.ask("sacctmgr", "-i", "add", *words)
        self.start_slurmctld()
        for node in NODES:
            self.start_slurmd(node)
        until(lambda: self.states() == ["idle", "idle"], 30, "nodes are not idle")
        return self

    def stop(self) -> None:
        """Cancel all jobs and end every daemon."""
        if self._pid("slurmctld"):
            self.call("scancel", "--user", getpass.getuser())
            _quietly(lambda: until(lambda: not self.queue(), 15, "jobs stay"))
        for name in (
            *(f"slurmd.{node}" for node in NODES),
            "slurmctld",
            "slurmdbd",
            "mariadbd",
            "munged",
        ):
            self._end(name)

    # --- questions ----------------------------------------------------------------------------

    def call(self, *words: str, seconds: float = 20) -> subprocess.CompletedProcess[str]:
        """Run a client of Slurm."""
        return subprocess.run(
            words,
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            timeout=seconds,
            cwd=self.folder,
        )

    def ask(self, *words: str) -> str:
        """What a client prints; raises RuntimeError with its complaint."""
        done = self.call(*words)
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def states(self) -> list[str]:
        """State of each node."""
        return self.call("sinfo", "-h", "-N", "-p", "debug", "-o", "%T").stdout.split()

    def queue(self) -> dict[str, str]:
        """State of each job that is queued or running, by id."""
        lines = self.ask("squeue", "-h", "-o", "%i %T").splitlines()
        return dict(line.split() for line in lines)

    def jobs(self) -> list[str]:
        """Id of every job there ever was."""
        return self.ask("squeue", "-h", "-t", "all", "-o", "%i").split()

    def settle(self) -> None:
        """Wait until no job is left and both nodes are free, cancelling what still runs."""
        self.call("scancel", "--user", getpass.getuser())
        until(lambda: not self.queue(), 30, "jobs stay")
        self.repair()
        until(lambda: self.states() == ["idle", "idle"], 30, "nodes are not idle")

    def repair(self) -> None:
        """What an administrator does with nodes that were set down or drained themselves."""
        for node in NODES:
            state = self.call("sinfo", "-h", "-n", node, "-o", "%T").stdout
            if "down" in state or "drain" in state:
                self.call("scontrol", "update", f"nodename={node}", "state=resume")

    def report(self) -> str:
        """Nodes and jobs, for a test that failed."""
        nodes = self.call("sinfo", "-N", "-p", "debug", "-o", "%N %T %E").stdout
        return nodes + self.call("squeue", "-t", "all", "-o", "%i %j %T %r %N").stdout

    def tasks(self, job: str) -> list[int]:
        """Processes of a job that do its work."""
        found = []
        for node in NODES:
            lines = self.call("scontrol", "listpids", job, node).stdout.splitlines()[1:]
            found += [int(line.split()[0]) for line in lines if int(line.split()[0]) > 0]
        return sorted({pid for pid in found if _is_worker(pid)})

    # --- faults -------------------------------------------------------------------------------

    def start_slurmctld(self) -> None:
        self._daemon("slurmctld", "-f", str(self.conf))

    def stop_slurmctld(self, number: signal.Signals = signal.SIGTERM) -> None:
        self._end("slurmctld", number)

    def start_slurmd(self, node: str) -> None:
        self._daemon("slurmd", "-f", str(self.conf), "-N", node)

    def stop_slurmd(self, node: str, number: signal.Signals = signal.SIGKILL) -> None:
        self._end(f"slurmd.{node}", number)

    def node(self, node: str, state: str) -> None:
        """`down` or `resume`, as an administrator says it."""
        self.ask("scontrol", "update", f"nodename={node}", f"state={state}", "reason=test")

    # --- parts --------------------------------------------------------------------------------

    def _start_munge(self) -> None:
        munge = self.folder / "munge"
        if not (munge / "key").exists():
            (munge / "key").write_bytes(os.urandom(128))
            (munge / "key").chmod(0o600)
        files = {"socket": "sock", "key-file": "key", "log-file": "log", "seed-file": "seed"}
        options = [f"--{name}={munge / file}" for name, file in files.items()]
        self._daemon("munged", *options, f"--pid-file={self.folder}/run/munged.pid")

    def _start_accounting(self, port: int) -> None:
        base, run, user = self.folder / "db", self.folder / "run", getpass.getuser()
        sock = run / "mariadb.sock"
        if not (base / "mysql").exists():
            words = [
                "--no-defaults",
                f"--datadir={base}",
                "--auth-root-authentication-method=normal",
            ]
            self._run("mariadb-install-db", *words, "--skip-test-db", f"--user={user}")
        log = (self.folder / "log/mariadbd.log").open("ab")
        words = [f"--datadir={base}", f"--socket={sock}", f"--pid-file={run}/mariadbd.pid"]
        words += [f"--user={user}", "--bind-address=127.0.0.1", f"--port={port + 5}"]
        words += ["--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900"]
        program = shutil.which("mariadbd", path=SYSTEM_PATH) or "mariadbd"
        subprocess.Popen(
            [program, "--no-defaults", *words], stdout=log, stderr=log, start_new_session=True
        )
        until(sock.exists, 30, f"mariadbd does not start, see {log.name}")
        grants = "".join(
            f"create user if not exists slurm@'{host}' identified by 'slurm';"
            f"grant all on slurm_acct_db.* to slurm@'{host}';"
            for host in ("127.0.0.1", "localhost")
        )
        base_ = "create database if not exists slurm_acct_db;"
        self._run("mariadb", "--no-defaults", "-u", "root", "-S", str(sock), "-e", base_ + grants)

    def _write_configuration(self, port: int) -> None:
        values = {
            "S": self.folder,
            "USER": getpass.getuser(),
            "HOST": socket.gethostname().split(".")[0],
        }
        values |= {f"P{i}": port + i for i in range(8)}
        # ids go on from the clock: a new cluster does not give the ids of an old one again
        values["FIRST"] = (int(time.time()) - 1_700_000_000) % 60_000_000 + 1
        for name in ("slurm.conf", "slurmdbd.conf", "gres.conf"):
            text = (Path(__file__).parent / name).read_text()
            for key, value in values.items():
                text = text.replace(f"@{key}@", str(value))
            (self.folder / name).write_text(text)
            (self.folder / name).chmod(0o600 if name == "slurmdbd.conf" else 0o644)

    def _write_clients(self) -> None:
        # Snakemake's executor drops every SLURM_* variable before its inner srun; a real cluster
        # has its configuration in /etc, this one has these
        for name in CLIENTS:
            real = shutil.which(name, path=SYSTEM_PATH)
            script = f"""\
                #!/bin/sh
                : "${{SLURM_CONF:={self.conf}}}"; export SLURM_CONF
                exec {real} "$@"
                """
            (self.bin / name).write_text(textwrap.dedent(script))
            (self.bin / name).chmod(0o755)

    def _daemon(self, program: str, *words: str) -> None:
        self._run(program, *words)

    def _run(self, program: str, *words: str) -> None:
        environment = os.environ | {"SLURM_CONF": str(self.conf)}
        command = [shutil.which(program, path=SYSTEM_PATH) or program, *words]
        log = self.folder / "log" / f"{program}.said"
        with log.open("ab") as said:  # not a pipe: a daemon would keep it open
            done = subprocess.run(command, env=environment, stdout=said, stderr=said, timeout=60)
        if done.returncode:
            raise RuntimeError(f"{program} failed: {log.read_text()[-2000:]}")

    def _pid(self, name: str) -> int | None:
        """Process of a pid file, while it still is that daemon."""
        try:
            pid = int((self.folder / "run" / f"{name}.pid").read_text())
            status = Path(f"/proc/{pid}/status").read_text()
        except (FileNotFoundError, ValueError, ProcessLookupError):
            return None
        ours = status.splitlines()[0].split()[1] == name.split(".")[0]
        return pid if ours and "State:\tZ" not in status else None

    def _end(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        pid = self._pid(name)
        if pid is None:
            return
        os.kill(pid, number)
        try:
            until(lambda: self._pid(name) is None, 10, name)
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)


def _is_worker(pid: int) -> bool:
    """Whether a process is a task: Python on submitit's module, not the shell or srun around it."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return b"submitit.core._submit" in words and b"python" in words[0]


def _free_ports(count: int) -> int:
    """First of `count` ports in a row that nobody listens on."""
    for first in range(20000 + os.getpid() % 1000 * count, 32000, count):
        taken = False
        for port in range(first, first + count):
            with socket.socket() as probe:
                taken = taken or probe.connect_ex(("127.0.0.1", port)) == 0
        if not taken:
            return first
    raise RuntimeError("no free ports")


def _quietly(what: Callable[[], None]) -> None:
    try:
        what()
    except (TimeoutError, RuntimeError, subprocess.TimeoutExpired):
        return


def main() -> None:
    action, *rest = sys.argv[1:]
    if action == "packages":
        print(PACKAGES)
        return
    if missing():
        sys.exit(f"missing: {', '.join(missing())}; apt-get install {PACKAGES}")
    if action == "check":
        return
    cluster = Cluster(Path(rest[0]))
    if action == "stop":
        cluster.stop()
        return
    try:
        cluster.start()
    except BaseException:
        cluster.stop()
        raise
    print(f"export SLURM_CONF={cluster.conf} PATH={cluster.bin}:$PATH")


if __name__ == "__main__":
    main()
