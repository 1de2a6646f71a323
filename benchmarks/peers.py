"""Another trainer on the conversations of agentsft's steps, in one process: seconds and memory of each step.

python -m benchmarks.peers STEPS.jsonl --peer trl-liger --data FILE --model FOLDER --batch 16 --steps 4

Rows come tokenised, each as the template's plain rendering, so that no preparation is timed; nothing is truncated, and
all tokens are trained, as is TRL's default. Peers:

- trl: SFTTrainer(model=FOLDER) with SFTConfig's defaults but for max_length, order, logging and saving;
- trl-liger: the same with use_liger_kernel;
- trl-liger-packed: with packing (bfd) too, into --pack tokens, one pack a forward pass, with --attention or the first
  of flash_attention_4, flash_attention_3, flash_attention_2, sdpa that runs there;
- transformers: a plain loop over float32 weights: bf16 autocast, sdpa, gradient checkpointing, --rows padded
  conversations a forward pass, or the most that fit.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.workload import LEARNING_RATE, plain_rows, steps_of

LORA = {"task_type": "CAUSAL_LM", "r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
ATTENTION = ("flash_attention_4", "flash_attention_3", "flash_attention_2", "sdpa")


class Steps:
    """The file of steps: one line each, written when the device has finished it."""

    def __init__(self, path: Path, device: str) -> None:
        self.file, self.device, self.number, self.rows = path.open("a", encoding="utf-8"), device, 0, 0

    def write(self, **values: Any) -> None:
        self.file.write(json.dumps(values) + "\n")
        self.file.flush()

    def ended(self, **values: Any) -> None:
        memory = None
        if self.device == "cuda":
            torch.cuda.synchronize()
            memory = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        facts = {"ended": time.time(), "memory_gib": memory, "rows_of_data": self.rows}
        self.write(kind="step", step=self.number, **facts, **values)
        self.number += 1


def train_trl(options: argparse.Namespace, rows: list[list[int]], steps: Steps) -> None:
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    packed = options.peer == "trl-liger-packed"
    ahead = options.steps + packed  # packs of a step more, in case they are fewer than estimated
    order = [int(i) for indices in steps_of(len(rows), options.batch, ahead) for i in indices]
    dataset = Dataset.from_dict({"input_ids": [rows[i] for i in order]})
    each = 1 if packed else min(options.rows or 8, options.batch)  # 8 is per_device_train_batch_size's default
    passes, length = max(options.batch // each, 1), None
    if packed:
        length = max(options.pack, max(map(len, rows)))
        passes = max(round(sum(len(rows[i]) for i in order) / ahead / length), 1)  # about `batch` conversations a step
    load: dict[str, Any] = {"dtype": options.dtype} if options.dtype else {}
    if packed:
        load["attn_implementation"] = options.attention or usable_attention(options)
        steps.write(kind="attention", kernel=load["attn_implementation"], note="")
    config = SFTConfig(
        output_dir=tempfile.mkdtemp(),
        max_length=length,
        max_steps=options.steps,
        per_device_train_batch_size=each,
        gradient_accumulation_steps=passes,
        use_liger_kernel="liger" in options.peer and options.device == "cuda",  # its kernels need a GPU
        packing=packed,
        train_sampling_strategy="sequential",
        learning_rate=LEARNING_RATE,
        logging_steps=10**9,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        model_init_kwargs=load or None,
        use_cpu=options.device == "cpu",
        **({"bf16": False} if options.device == "cpu" else {}),  # there for its function alone
    )
    adapter = None
    if options.lora:
        from peft import LoraConfig

        adapter = LoraConfig(**LORA)

    class Ends(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            done = {}
            if packed:
                start = steps.number * passes
                lengths = [trainer.train_dataset[i]["seq_lengths"] for i in range(start, start + passes)]
                done = {"plain_tokens": sum(map(sum, lengths)), "conversations": sum(map(len, lengths))}
            steps.ended(**done)

    trainer = SFTTrainer(
        model=str(options.model), args=config, train_dataset=dataset, peft_config=adapter, callbacks=[Ends()]
    )
    if packed:  # a whole number of steps, or the last one would begin the data anew
        config.max_steps = max(min(options.steps, len(trainer.train_dataset) // passes), 1)
    trainer.train()


def usable_attention(options: argparse.Namespace) -> str:
    """The first of ATTENTION that runs two packed sequences forward and backward in a model of two layers."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from agentsft.train.flash import find_cutlass

    with contextlib.suppress(ImportError):
        find_cutlass()  # FlashAttention-4 needs it, in whoever's hands
    config = AutoConfig.from_pretrained(options.model)
    config.num_hidden_layers, config.vocab_size = 2, 1024
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:2]
    for name in ATTENTION[:-1]:
        try:
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation=name)
            model = model.to(options.device)
            ids = torch.randint(1024, (1, 256), device=options.device)
            places = torch.arange(128, device=options.device).repeat(2)[None]
            model(input_ids=ids, position_ids=places, labels=ids, use_cache=False).loss.backward()
        except Exception as error:
            print(f"{name} does not run here: {' '.join(str(error).split())[:300]}", flush=True)
        else:
            return name
    return ATTENTION[-1]


def train_transformers(options: argparse.Namespace, rows: list[list[int]], steps: Steps) -> None:
    from transformers import AutoModelForCausalLM

    dtype = torch.bfloat16 if options.lora and options.device == "cuda" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype, attn_implementation="sdpa")
    model = model.to(options.device)
    if options.lora:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(**LORA))
        model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, fused=True)
    together = options.rows or 4

    def backward(indices: np.ndarray) -> None:
        count = sum(len(rows[i]) - 1 for i in indices)
        for first in range(0, len(indices), together):
            batch = padded([rows[i] for i in indices[first : first + together]], options.device)
            with torch.autocast(options.device, torch.bfloat16, enabled=options.device == "cuda"):
                model(**batch, use_cache=False, num_items_in_batch=count).loss.backward()

    for indices in steps_of(len(rows), options.batch, options.steps):
        while True:
            try:
                backward(indices)
                break
            except torch.OutOfMemoryError:
                if together == 1:
                    raise
            optimizer.zero_grad()
            torch.cuda.empty_cache()
            together //= 2
            steps.write(kind="note", text=f"{together} conversations a forward pass, since more do not fit")
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        steps.ended(rows=together)


def padded(rows: list[list[int]], device: str) -> dict[str, torch.Tensor]:
    """Rows padded on the right: input_ids, attention_mask and labels [rows, longest]."""
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(row), dtype=torch.long) for row in rows], batch_first=True)
    batch = {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps_file", type=Path)
    parser.add_argument("--peer", choices=("trl", "trl-liger", "trl-liger-packed", "transformers"), required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--dtype", help="of the weights that TRL loads; its default is float32")
    parser.add_argument("--attention", help="for packing; default: the fastest that runs")
    parser.add_argument("--pack", type=int, default=16384)
    parser.add_argument("--rows", type=int, help="conversations a forward pass; default: TRL's 8, transformers' 4")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    options = parser.parse_args()
    steps = Steps(options.steps_file, options.device)
    rows = plain_rows(options.data, options.model)
    steps.rows = len(rows)
    train = train_transformers if options.peer == "transformers" else train_trl
    train(options, rows, steps)


if __name__ == "__main__":
    main()
