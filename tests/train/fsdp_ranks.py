"""Run by `accelerate launch --use_fsdp --fsdp_version 2` in tests: what two_ranks does under DDP, on sharded models."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import patch_environment
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch.distributed.fsdp._fully_shard import _fsdp_param_group

from agentsft.errors import UserError
from agentsft.train import shards
from agentsft.train.checkpoint import fault
from agentsft.train.interrupt import Interrupted
from agentsft.train.judge import Judge
from agentsft.train.launch import Sharding
from agentsft.train.model import checkpoint_activations
from agentsft.train.nonfinite import culprits
from agentsft.train.reporter import Silent
from agentsft.train.rounding import place_weights, round_weights
from agentsft.train.shard import whole_weights
from agentsft.types import TokenTree
from tests.batch.trees import sample_step
from tests.train.oom import Scarce
from tests.train.tiny import loss_and_gradient, step_run, tiny_model
from tests.train.two_ranks import short_runs

WAYS: dict[str, dict[str, Any]] = {
    "once a step": {"fill": 40, "budget": 60},
    "each pass, untied": {"fill": 40, "budget": 60, "sync_each_batch": True},
    "split, checkpointing": {"layout": "split", "gradient_checkpointing": True},
    "fewer trees than ranks": {},
    "adapter": {"fill": 75},
}


PLACES: dict[str, Callable[[Any], None]] = {
    "placed": lambda model: place_weights(model, 7, least=0),
    "rounded": lambda model: round_weights(model, torch.bfloat16, 7),
}


def main(folder: Path) -> None:
    trees = sample_step()
    results: dict[str, torch.Tensor] = {}
    with patch_environment(accelerate_use_fsdp="false"):  # `step_run` shards by itself
        for name, settings in WAYS.items():
            model = model_of(name)
            if settings.get("gradient_checkpointing"):
                checkpoint_activations(model)
            few = trees[:1] if name == "fewer trees than ranks" else trees
            run = step_run(model, few, sharding=Sharding(reshard=name != "adapter"), **settings)
            gathered, exchanged, passes = [0], [0], len(run.plan(0).ranks[0])
            count_gathers(run.module, gathered)
            with counted_exchanges(exchanged):
                loss, gradient = loss_and_gradient(run)
            results |= {f"{name}/loss": torch.tensor(loss), f"{name}/gradient": gradient}
            results[f"{name}/counts"] = torch.tensor([passes, gathered[0], exchanged[0]])
        results |= {"bad rows": bad_rows(trees), "no room": no_room(trees), **random_places()}
    if run.accelerator.is_main_process:
        save_file(results, folder / "results.safetensors")
    run.accelerator.wait_for_everyone()
    short_runs(folder, trees, [("whole", {"max_steps": 4})], judge=Judge(ranking=Rising()))
    # The last finds nothing left to do.
    short_runs(folder, trees, [("cut", {"max_steps": steps}) for steps in (2, 4, 4)])
    lora = {"tuner": "lora", "lora_dropout": 0.3}
    short_runs(folder, trees, [("whole lora", {"max_steps": 4, **lora})])
    interrupted(folder, trees, "cut lora", {"max_steps": 4, **lora})
    short_runs(folder, trees, [("cut lora", {"max_steps": 4, **lora})])
    full_disk(folder, trees)
    short_runs(folder, trees, [("one then two", {"max_steps": 4}), ("two then one", {"max_steps": 2})])
    short_runs(folder, trees, [("bf16", {"max_steps": 2, "precision": "bf16"})])


def random_places() -> dict[str, torch.Tensor]:
    """Sharded weights behind `place_weights`, then behind `round_weights`."""
    model = tiny_model("llama").bfloat16().float()
    run = step_run(model, sample_step(), sharding=Sharding(reshard=True))
    results = {}
    for name, change in PLACES.items():
        change(model)
        whole = whole_weights(model, run.accelerator.is_main_process)
        results |= {f"{name}/{key}": value.clone() for key, value in whole.items()}
    return results


class Rising:
    """Takes every evaluation for the best so far."""

    exhausted = False

    def add(self, row: dict[str, Any]) -> bool:
        return True


class Stops(Silent):
    """Asks this process to end after step 3."""

    def on_step(self, row: dict[str, Any]) -> None:
        if row["step"] == 3:
            signal.raise_signal(signal.SIGTERM)


def interrupted(folder: Path, trees: list[TokenTree], output: str, settings: dict[str, Any]) -> None:
    try:
        short_runs(folder, trees, [(output, settings)], Stops())
    except Interrupted as stopped:
        assert stopped.code == 128 + signal.SIGTERM
    else:
        raise AssertionError("the run was not interrupted")
    assert fault(folder / output / "checkpoint-3") is None


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def on_note(self, text: str) -> None:
        self.notes.append(text)


def full_disk(folder: Path, trees: list[TokenTree]) -> None:
    """A run in which the second process has no room for its share of the checkpoint of step 4."""
    write, notes = shards._write_shard, Notes()

    def full(aside: Path, name: str, parts: Any) -> Any:
        if "checkpoint-4" in aside.name and name.startswith("shard-00002"):
            raise OSError(28, "No space left on device")
        return write(aside, name, parts)

    shards._write_shard = full
    try:
        short_runs(folder, trees, [("full disk", {"max_steps": 4})], notes)
    finally:
        shards._write_shard = write
    if notes.notes:
        (folder / "full disk" / "notes.json").write_text(json.dumps(notes.notes), encoding="utf-8")


def model_of(way: str) -> Any:
    return adapted() if way == "adapter" else tiny_model("qwen3" if "untied" in way else "llama")


def adapted() -> Any:
    """A tied model with adapters on every matrix, the head included, that do not begin as zero."""
    model = tiny_model("llama")
    lora = LoraConfig(r=4, target_modules="all-linear", modules_to_save=["lm_head"], init_lora_weights=False)
    lora.ensure_weight_tying = True
    torch.manual_seed(1)
    return get_peft_model(model, lora)


def count_gathers(module: Any, counter: list[int]) -> None:
    """Counts how often the group of the embeddings and the head becomes whole."""
    group = module._get_fsdp_state()._fsdp_param_group
    to_unsharded = group._to_unsharded

    def counted() -> None:
        counter[0] += group.is_sharded
        to_unsharded()

    group._to_unsharded = counted


@contextmanager
def counted_exchanges(counter: list[int]) -> Iterator[None]:
    """Counts how often gradients of a group are exchanged."""
    reduce = _fsdp_param_group.foreach_reduce

    def counted(*arguments: Any, **named: Any) -> Any:
        counter[0] += 1
        return reduce(*arguments, **named)

    _fsdp_param_group.foreach_reduce = counted
    try:
        yield
    finally:
        _fsdp_param_group.foreach_reduce = reduce


def bad_rows(trees: list[TokenTree]) -> torch.Tensor:
    """The numbers of the trees that a broken model cannot compute."""
    model = tiny_model("llama")
    run = step_run(model, trees, sharding=Sharding())
    run.sources = [str(number) for number in range(len(trees))]
    broken = [trees[2].input_ids.tobytes(), trees[5].input_ids.tobytes()]

    def spoil(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return output * float("nan") if inputs[0].numpy().astype("int32").tobytes() in broken else output

    model.model.embed_tokens.register_forward_hook(spoil)
    return torch.tensor(sorted(map(int, culprits(run, 0))))


def no_room(trees: list[TokenTree]) -> torch.Tensor:
    """Whether memory that runs out is an error that names a setting."""
    model = tiny_model("llama")
    run = step_run(model, trees, sharding=Sharding())
    with Scarce(model, 60):
        try:
            loss_and_gradient(run)
        except UserError as error:
            return torch.tensor("micro_batch_tokens: " in str(error) and "FSDP2" in str(error))
    return torch.tensor(False)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
