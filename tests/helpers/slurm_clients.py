"""Stand-ins before Slurm's clients: they count the calls, and fail as a busy cluster does."""

import os
import time
from pathlib import Path

from cluster import CLIENTS, Cluster

SCRIPT = """#!/bin/sh
here={here}
echo "$(date +%s) {name} $*" >> $here/calls
mode=$(cat $here/mode 2> /dev/null)
case "$mode" in
  slow*) sleep "${{mode#slow }}" ;;
  away) echo "{name}: error: Unable to contact slurm controller (connect failure)" >&2; exit 1 ;;
  flaky) if [ $(($(grep -c " {name} " $here/calls) % 3)) != 0 ]; then
      echo "{name}: error: Socket timed out on send/recv operation" >&2; exit 1
    fi ;;
esac
{limit}
exec {real} "$@"
"""
LIMIT = """
most=$(cat $here/limit 2> /dev/null)
if [ -n "$most" ]; then
  last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\)%.*/\\1/p' "$1")
  have=$({squeue} -h -r -u "$(id -u)" | wc -l)
  if [ $((have + ${{last:-0}} + 1)) -gt "$most" ]; then
    echo "sbatch: error: AssocMaxSubmitJobLimit" >&2
    echo "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job" \\
      "submit limit, user's size and/or time limits)" >&2
    exit 1
  fi
fi
"""
STATUS = ("squeue", "sacct", "scontrol", "sinfo")  # those that only ask


class Clients:
    """The clients of one cluster; `path` comes first on the PATH of what is watched."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "calls").touch()
        for name in set(CLIENTS) - {"srun"}:  # jobs call that one
            limit = LIMIT.format(squeue=cluster.bin / "squeue") if name == "sbatch" else ""
            words = {"here": folder, "name": name, "real": cluster.bin / name, "limit": limit}
            (folder / name).write_text(SCRIPT.format(**words))
            (folder / name).chmod(0o755)
        self.path = f"{folder}:{os.environ['PATH']}"
        self.begun = time.time()

    def behave(self, mode: str = "") -> None:
        """`slow SECONDS`, `flaky` (two of three calls fail), `away`, or as always."""
        (self.folder / "mode").write_text(mode)

    def limit(self, most: int) -> None:
        """Refuse what would be more than so many jobs of this user."""
        (self.folder / "limit").write_text(str(most))

    def calls(self, *names: str) -> int:
        """How often these were called."""
        lines = (self.folder / "calls").read_text().splitlines()
        return sum(line.split()[1] in names for line in lines)

    def asked_a_minute(self) -> float:
        """Calls that only ask, for each minute since the beginning; one is free."""
        minutes = (time.time() - self.begun) / 60
        return max(0, self.calls(*STATUS) - 1) / max(minutes, 0.1)
