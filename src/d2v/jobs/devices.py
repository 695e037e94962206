"""Whether the GPUs that were requested are there; without them, training would take the CPU."""

import os
import subprocess

from d2v.util.errors import UserError


class NoGPU(UserError):
    """A job that requested GPUs does not see them."""

    exit_code = 7


def check(wanted: int) -> None:
    """Raise NoGPU, with what the job sees instead, if a node has fewer than `wanted` GPUs."""
    if not wanted:
        return
    import torch

    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if seen >= wanted:
        return
    node = os.environ.get("SLURMD_NODENAME") or os.uname().nodename
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    build = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for CPUs only"
    raise NoGPU(
        f"{node}: {wanted} GPU{'s' * (wanted > 1)} requested, {seen} usable: {driver()}; PyTorch"
        f" {torch.__version__} is built {build}; CUDA_VISIBLE_DEVICES is"
        f" {'not set' if visible is None else repr(visible)}. Install a PyTorch build that fits the"
        " driver, exclude the node (sbatch: {exclude: ...}), or set gpus: 0 in params/cluster.yaml"
    )


def driver() -> str:
    """GPUs and driver according to nvidia-smi."""
    words = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    except FileNotFoundError:
        return "nvidia-smi does not exist, so no driver is installed"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"nvidia-smi fails ({type(error).__name__})"
    lines = (done.stdout or done.stderr).strip().splitlines()
    if done.returncode or not lines:
        return f"nvidia-smi reports: {lines[0] if lines else 'nothing'}"
    return f"nvidia-smi lists {len(lines)} x {lines[0]} (driver)"
