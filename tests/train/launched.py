"""Two processes on CPUs, started as users start them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def launch_two(module: str, folder: Path, *flags: str, seconds: float = 300) -> None:
    """Runs `python -m module folder` in two processes of Accelerate's launcher, and asserts that they succeed."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "accelerate.commands.launch", *flags, "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        [*command, "-m", module, str(folder)],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
