"""agentsft and its peers on one GPU, side by side: the same conversations of the same steps, each case a process.

python -m benchmarks.gpu --tokenizer FOLDER --data FOLDER --results RESULTS.jsonl --cases 'T.*' S.agentsft

First a gate: loss and gradients of agentsft's first step against plain float32 Transformers. Where it fails, nothing is
timed and the exit code is 1. Then the cases; one that fails prints a line, and the others go on. Results are appended
to RESULTS.jsonl, so several calls add up; the table of all of them comes last. The exit code is 1, too, when agentsft
compiled anything after its warm-up. `--list` names the cases, `--table` prints the table and runs nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from agentsft.train.card import versions
from benchmarks.cases import Case, all_cases
from benchmarks.random_model import SHAPES
from benchmarks.report import latest, line, measure, tables
from benchmarks.workload import LEARNING_RATE, WORKS, Work, keep_shortest, plain_rows

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "transformers", "accelerate", "peft", "trl", "liger-kernel", "flash-attn-4", "triton")


@dataclass
class Bench:
    """The options of a call, the folder of models, caches and logs, and the environment of the processes."""

    options: argparse.Namespace
    folder: Path
    results: Path
    deadline: float
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("logs", "cache", "data", "models"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.facts = {"device": device_name(self.options.device), "code": code_digest(), "versions": versions(PACKAGES)}

    def left(self) -> float:
        return self.deadline - time.time()

    def run(self, name: str, limit: float, *module: str) -> tuple[str, float]:
        """Runs `python -m MODULE...` into a log: 'ok' or what went wrong, and when the process started."""
        log = self.folder / "logs" / f"{name}.log"
        cache = self.folder / "cache"
        env = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
            "PYTHONUNBUFFERED": "1",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "COLUMNS": "160",
            "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
            "TRITON_CACHE_DIR": str(cache / "triton"),
            "AGENTSFT_CACHE": str(cache / "agentsft"),
        }
        if self.options.device == "cpu":
            env |= {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
        limit = min(limit, self.left())
        with log.open("w", encoding="utf-8") as out:
            started = time.time()
            command = [sys.executable, "-m", *module]
            process = subprocess.Popen(
                command, env=env, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, process_group=0
            )
            try:
                code = process.wait(timeout=limit)
            except subprocess.TimeoutExpired:
                return f"stopped after {limit:.0f} s", started
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        return "ok" if code == 0 else f"exit code {code}: {last_error(log)}", started

    def keep(self, **row: Any) -> None:
        with self.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**row, **self.facts, "when": time.strftime("%Y-%m-%d %H:%M:%S")}) + "\n")

    def work(self, name: str) -> Work:
        work = WORKS[name]
        return replace(work, shape=self.options.shape or work.shape, batch=self.options.batch or work.batch)

    def data(self, work: Work) -> Path:
        return keep_shortest(self.options.data / work.file, self.options.shortest, self.folder / "data" / work.file)

    def model(self, shape: str) -> Path:
        """The folder of a random model, made when it is first asked for. Raises RuntimeError where that fails."""
        folder = self.folder / "models" / shape
        if not (folder / "done").exists():
            arguments = ("--shape", shape, "--tokenizer", str(self.options.tokenizer), "--out", str(folder))
            state, _ = self.run(f"model-{shape}", 240, "benchmarks.random_model", *arguments)
            if state != "ok":
                raise RuntimeError(f"model {shape}: {state}")
            (folder / "done").touch()
        return folder

    def plain_counts(self, work: Work) -> list[int]:
        """Tokens of the plain rendering of each row."""
        cached = self.folder / "data" / f"{work.file}.{self.options.shortest}.{self.facts['code']}.json"
        if not cached.exists():
            rows = plain_rows(self.data(work), self.options.tokenizer)
            cached.write_text(json.dumps([len(row) for row in rows]), encoding="utf-8")
        return json.loads(cached.read_text(encoding="utf-8"))


def run_case(bench: Bench, case: Case) -> dict[str, Any]:
    """Runs a case and measures it: its row of the results."""
    work, warmup = bench.work(case.work), bench.options.warmup
    model, data = bench.model(work.shape), bench.data(work)
    steps = (bench.options.steps or case.steps) + warmup if not case.fresh else 1
    file = bench.folder / "logs" / f"{case.name}.steps.jsonl"
    file.unlink(missing_ok=True)
    if case.fresh:
        shutil.rmtree(bench.folder / "cache", ignore_errors=True)
        (bench.folder / "cache").mkdir()
    if case.peer:
        module = [
            "benchmarks.peers", str(file), "--peer", case.peer, "--data", str(data), "--model", str(model),
            "--batch", str(work.batch), "--steps", str(steps), "--device", bench.options.device,
            *(["--lora"] if work.tuner == "lora" else []), *case.extra,
        ]  # fmt: skip
    else:
        # One step more than is measured: each begins a pass of the one behind it, and the last one would not.
        output = bench.folder / "output"
        profile = case.profile and not bench.options.no_profile
        module = [
            "benchmarks.observed", str(file), *(["--profile"] if profile else []),
            *(word for setting in case.settings for word in ("--set", setting)), "--",
            "--model", str(model), "--data", str(data), "--output", str(output), "--tuner", work.tuner,
            "--batch-size", str(work.batch), "--loss-scale", work.loss_scale, "--max-steps", str(steps + 1),
            "--learning-rate", str(LEARNING_RATE), *case.extra,
        ]  # fmt: skip
    state, started = bench.run(case.name, bench.options.limit or case.limit, *module)
    rows = [json.loads(text) for text in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
    found = measure(rows, started, bench.plain_counts(work), work.batch, warmup, steps)
    return {"case": case.name, "work": case.work, "peer": case.peer, "state": state, "shape": work.shape, **found}


def run_gate(bench: Bench) -> bool:
    """Whether agentsft's first step is right, with each attention kernel that runs there."""
    from benchmarks.gate import TOLERANCES, verdict

    tolerance = TOLERANCES[bench.options.device]
    out = bench.folder / "gate"
    shutil.rmtree(out, ignore_errors=True)
    count = bench.options.gate_rows
    works = [WORKS["T"], WORKS["S"]]
    files = [str(keep_shortest(bench.options.data / work.file, count, out / work.file)) for work in works]
    model = str(bench.model(bench.options.shape or WORKS["T"].shape))
    module = ("benchmarks.gate", "reference", "--model", model, "--loss-scale", "react", "--out", str(out))
    state, _ = bench.run("gate-reference", 240, *module, "--device", bench.options.device, "--data", *files)
    if state != "ok":
        print(f"gate: the reference failed: {state}", flush=True)
        return False
    for wanted in ("flash", "triton") if bench.options.device == "cuda" else ("",):
        file, gradients = out / f"{wanted}.jsonl", out / f"{wanted}.safetensors"
        own = [str(file), "--gradients", str(gradients), *(["--kernel", wanted] if wanted else [])]
        data = [part for path in files for part in ("--data", path)]
        theirs = ["--model", model, *data, "--loss-scale", "react", "--batch-size", str(2 * count), "--max-steps", "1"]
        where = ["--output", str(bench.folder / "output"), "--no-cache"]
        state, _ = bench.run(f"gate-{wanted}", 240, "benchmarks.observed", *own, "--", *theirs, *where)
        rows = [json.loads(text) for text in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
        step = next((row for row in rows if row["kind"] == "step"), None)
        if state != "ok" or step is None:
            print(f"gate: agentsft failed: {state}", flush=True)
            return False
        kernel = next((row["kernel"] for row in rows if row["kind"] == "attention"), "not flex")
        passed, found = verdict(out, step, gradients, tolerance)
        allowed, itself = found["allowed"], found["by_itself"]
        shown = ", ".join(
            f"{name} {found[name]:.1e} (at most {allowed[name]:.1e}, plain bf16 {itself[name]:.1e})"
            for name in ("loss", "norm", "gradient")
        )
        print(
            f"gate {'passed' if passed else 'FAILED'}: attention {kernel}, {found['rows']} rows, {found['turns']} "
            f"turns, trained tokens {found['items']:+d}, relative differences {shown} of {found['matrix']}",
            flush=True,
        )
        bench.keep(case="gate", passed=passed, kernel=kernel, shape=Path(model).name, **found)
        if not passed:
            return False
        if wanted == "flash" and kernel != "FlashAttention-4":
            break  # the other kernel would be the same one
    return True


def last_error(log: Path) -> str:
    """The last line of a log that names an exception, else its last line, in 200 characters."""
    lines = [text.strip() for text in log.read_text(encoding="utf-8", errors="replace").splitlines() if text.strip()]
    named = [text for text in lines if re.match(r"([\w.]*(Error|Exception|Interrupt)\b|agentsft:|Killed)", text)]
    return (named or lines or ["nothing was printed"])[-1][:200]


def code_digest() -> str:
    digest = hashlib.sha256()
    for path in sorted((ROOT / "agentsft").rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def device_name(device: str) -> str:
    if device == "cpu":
        return "cpu"
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("gpu.jsonl"))
    parser.add_argument("--cases", nargs="+", default=["*"], help="names or patterns of cases, in this order")
    parser.add_argument("--tokenizer", type=Path, help="folder with Qwen 3's tokenizer and chat template")
    parser.add_argument("--data", type=Path, help="folder with the files of the works")
    folder = Path(tempfile.gettempdir(), "agentsft-benchmark")
    parser.add_argument("--folder", type=Path, default=folder, help="models, caches, logs; default: %(default)s")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--shape", choices=SHAPES, help="another model for all works")
    parser.add_argument("--batch", type=int, help="conversations a step for all works")
    parser.add_argument("--shortest", type=int, default=0, help="take so many of the shortest rows alone")
    parser.add_argument("--steps", type=int, help="timed steps of every case")
    parser.add_argument("--warmup", type=int, default=1, help="steps before the timed ones")
    parser.add_argument("--limit", type=float, help="seconds for every case")
    parser.add_argument("--budget", type=float, default=1e9, help="seconds for the whole call")
    parser.add_argument("--gate", choices=("once", "always", "never"), default="once", help="once for the same code")
    parser.add_argument("--gate-rows", type=int, default=3, help="shortest rows of T and of S each")
    parser.add_argument("--no-profile", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if not (options.list or options.table) and not (options.tokenizer and options.data):
        parser.error("--tokenizer and --data are needed")
    return options


def main() -> int:
    options = parse()
    known = {case.name: case for case in all_cases()}
    names = dict.fromkeys(name for pattern in options.cases for name in known if fnmatch(name, pattern))
    for pattern in options.cases:
        if not any(fnmatch(name, pattern) for name in known):
            print(f"no case is called {pattern}; --list names them", flush=True)
    if options.list:
        print("\n".join(names))
        return 0
    results = options.results.resolve()
    if options.table:
        print(tables(latest(results)))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the process under way is ended too
    options.tokenizer, options.data = options.tokenizer.resolve(), options.data.resolve()
    bench = Bench(options, options.folder.resolve(), results, time.time() + options.budget)
    print(f"{bench.facts['device']}, {bench.facts['versions']}", flush=True)
    same = [row for row in latest(results) if row["case"] == "gate" and row["code"] == bench.facts["code"]]
    known_good = bool(same) and all(row["passed"] and row["device"] == bench.facts["device"] for row in same)
    if options.gate == "once" and known_good:
        print("gate: this code passed on this device before", flush=True)
    elif options.gate != "never" and not run_gate(bench):
        return 1
    compiled = False
    for name in names:
        if bench.left() < 30:
            print(f"{name}: not run, no time is left", flush=True)
            continue
        try:
            row = run_case(bench, known[name])
        except Exception as error:  # whatever it is, the other cases go on
            row = {"case": name, "work": known[name].work, "peer": known[name].peer, "state": f"failed: {error}"}
        bench.keep(**row)
        compiled |= bool(row.get("recompilations"))
        print(line(row), flush=True)
    print(tables(latest(results)), flush=True)
    if compiled:
        print("agentsft compiled after its warm-up: see the recompilations above", flush=True)
    return int(compiled)


if __name__ == "__main__":
    sys.exit(main())
