"""Where one of two processes is killed, the other ends with an error, and the run goes on from its checkpoint."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from agentsft.train.checkpoint import all_checkpoints, fault
from tests.train.test_interrupt import steps_done
from tests.train.tiny import saved_model

LAUNCHERS = {
    "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
    "accelerate": [
        *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"),
        *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
    ],
}


def rank_of(process: int) -> str | None:
    try:
        variables = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    return next((text[5:].decode() for text in variables if text.startswith(b"RANK=")), None)


def children(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the processes in /proc")
@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "victim"), [("torchrun", "0"), ("accelerate", "1")])
def test_when_a_process_is_killed_the_others_end_within_a_minute(launcher: str, victim: str, tmp_path: Path) -> None:
    root, output = Path(__file__).parents[2], tmp_path / "out"
    settings = {"model": saved_model("llama", tmp_path / "model"), "output": str(output), "max_steps": 100000}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(settings | {"save_steps": 20}), encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *LAUNCHERS[launcher], "-m", "tests.train.long_run", str(tmp_path / "r.yaml")],
            cwd=root,
            env=environment,
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + 100
        while process.poll() is None and steps_done(output) < 45 and time.monotonic() < deadline:
            time.sleep(0.05)
        ranks = {rank_of(child): child for child in children(process.pid)}
        assert {"0", "1"} <= ranks.keys(), (tmp_path / "log").read_text()[-2000:]
        killed = time.monotonic()
        os.kill(ranks[victim], signal.SIGKILL)
        assert process.wait(60) == 1
        assert time.monotonic() - killed < 60
        assert not any(rank_of(child) for child in ranks.values())
        if launcher == "torchrun":  # accelerate's may end the other process before it can say a word
            said = (tmp_path / "log").read_text()
            assert "agentsft: another process of this run has ended: see its message, and use --resume." in said
        checkpoints = all_checkpoints(output)
        assert checkpoints
        assert all(fault(path) is None for path in checkpoints)
    finally:
        process.terminate()
