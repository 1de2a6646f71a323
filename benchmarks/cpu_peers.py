"""Full float32 fine-tuning on a CPU: agentsft, TRL and LLaMA-Factory on the same rows, alternating.

python benchmarks/cpu_peers.py FILE --model MODEL --trl PYTHON --llamafactory PYTHON [--rows 16] [--repeats 3]

PYTHON is the interpreter of an environment that has the peer. Each run trains one epoch in a process of its own, 4
conversations an optimizer step, AdamW. Tokens are those of the conversations' plain rendering, whoever trains them;
the time is that of the training loop, without loading. Peers take one conversation a forward pass, which pads nothing;
--checkpointing leaves their gradient checkpointing on, as it is by default. On a machine with other work, --cpu-time
counts CPU seconds instead, best with --threads 1, so that threads do not wait for one another.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BATCH = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--model", required=True)
    parser.add_argument("--trl", help="a Python that has trl")
    parser.add_argument("--llamafactory", help="a Python that has llamafactory")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=900, help="longer conversations are left out")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--flags", default="", help="more flags of agentsft train")
    parser.add_argument("--worker", choices=("agentsft", "trl", "llamafactory"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        if arguments.cpu_time:
            time.perf_counter = time.process_time  # for all that measures seconds from here on
        data = Path(arguments.file)
        output = Path(tempfile.mkdtemp(dir=data.parent)) / "output"
        if arguments.worker == "agentsft":
            train_agentsft(data, arguments.model, output, arguments.flags.split())
        else:
            train = train_trl if arguments.worker == "trl" else train_llamafactory
            train(data, arguments.model, output, arguments.checkpointing)
    else:
        compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    """Print tokens a second and peak memory of each, medians of the repeats, and the ratios of neighbouring runs."""
    pythons = {"agentsft": sys.executable, "trl": arguments.trl, "llamafactory": arguments.llamafactory}
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name, python in pythons.items() if python}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "rows.jsonl"
        tokens = write_rows(arguments, data)
        print(f"{arguments.rows} conversations, {tokens:,} tokens, {arguments.threads} threads", flush=True)
        for repeat in range(arguments.repeats):
            for name in runs:
                seconds, gib = run(name, str(pythons[name]), data, arguments, Path(folder) / f"{name}{repeat}.log")
                runs[name].append((tokens / seconds, gib))
                print(f"{repeat} {name:13} {tokens / seconds:7.1f} tokens/s  peak {gib:.2f} GiB", flush=True)
    for name, measured in runs.items():
        rates, memory = zip(*measured, strict=True)
        ratio = statistics.median(own[0] / peer[0] for own, peer in zip(runs["agentsft"], measured, strict=True))
        print(
            f"{name:13} {statistics.median(rates):7.1f} tokens/s  peak {statistics.median(memory):.2f} GiB  "
            f"agentsft is {ratio:.2f} times as fast"
        )


def write_rows(arguments: argparse.Namespace, data: Path) -> int:
    """Write conversations of plain turns that all three can read; how many tokens their plain rendering has."""
    from transformers import AutoTokenizer

    from agentsft.data.read import read_rows

    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    rows: list[list[dict[str, str]]] = []
    total = 0
    for row in read_rows([arguments.file]):
        messages = () if row.conversation is None else row.conversation.messages
        turns = [message.role for message in messages if message.role != "system"]
        if not turns or turns != ["user", "assistant"] * (len(turns) // 2):
            continue
        dicts = [{"role": message.role, "content": message.content} for message in messages]
        count = len(tokenizer.apply_chat_template(dicts, tokenize=True, return_dict=True)["input_ids"])
        if count <= arguments.max_tokens and len(rows) < arguments.rows:
            rows.append(dicts)
            total += count
    data.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in rows), encoding="utf-8")
    if len(rows) < arguments.rows:
        raise SystemExit(f"only {len(rows)} such rows in {arguments.file}: say --rows or --max-tokens")
    return total


def run(name: str, python: str, data: Path, arguments: argparse.Namespace, log: Path) -> tuple[float, float]:
    """Seconds of the training loop and peak memory in GiB of one process."""
    command = [python, __file__, str(data), "--model", arguments.model, "--worker", name]
    command += ["--checkpointing"] if arguments.checkpointing else []
    command += ["--cpu-time"] if arguments.cpu_time else []
    command += [f"--flags={arguments.flags}"]
    threads = {"OMP_NUM_THREADS": str(arguments.threads), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, **threads}, cwd=data.parent)
        _, status, usage = os.wait4(process.pid, 0)
    text = log.read_text(errors="replace")
    if status:
        raise SystemExit(f"{name} failed:\n{text[-3000:]}")
    seconds = float(text.rpartition("SECONDS ")[2].split()[0])
    return seconds, usage.ru_maxrss / 2**20


def train_agentsft(data: Path, model: str, output: Path, flags: list[str]) -> None:
    from agentsft.__main__ import main as command_line

    sys.argv = ["agentsft", "train", "--model", model, "--data", str(data), "--batch-size", str(BATCH), "--no-cache"]
    sys.argv += ["--output", str(output), "--learning-rate", "1e-5", *flags]
    try:
        command_line()
    finally:
        steps = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
        print("SECONDS", sum(step["seconds"] for step in steps), flush=True)


def clock() -> Any:
    """A Trainer callback that prints the seconds from the loop's begin to the end of its last step."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.ended = time.perf_counter()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            print("SECONDS", self.ended - self.started, flush=True)

    return Clock()


def train_trl(data: Path, model: str, output: Path, checkpointing: bool) -> None:
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    trainer = SFTTrainer(
        AutoModelForCausalLM.from_pretrained(model, dtype="float32"),
        args=SFTConfig(
            output_dir=str(output),
            use_cpu=True,
            bf16=False,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=BATCH,
            num_train_epochs=1,
            learning_rate=1e-5,
            max_length=None,
            gradient_checkpointing=checkpointing,
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=load_dataset("json", data_files=str(data), split="train"),
        processing_class=AutoTokenizer.from_pretrained(model),
        callbacks=[clock()],
    )
    trainer.train()


def train_llamafactory(data: Path, model: str, output: Path, checkpointing: bool) -> None:
    from llamafactory.train.tuner import run_exp

    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    entry = {
        "file_name": data.name,
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {**tags, "system_tag": "system"},
    }
    (data.parent / "dataset_info.json").write_text(json.dumps({"rows": entry}))
    arguments = {
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "full",
        "model_name_or_path": model,
        "template": "smollm2",
        "dataset_dir": str(data.parent),
        "dataset": "rows",
        "cutoff_len": 8192,
        "output_dir": str(output),
        "overwrite_cache": True,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": BATCH,
        "num_train_epochs": 1.0,
        "learning_rate": 1e-5,
        "disable_gradient_checkpointing": not checkpointing,
        "save_strategy": "no",
        "report_to": "none",
    }
    run_exp(arguments, callbacks=[clock()])


if __name__ == "__main__":
    main()
