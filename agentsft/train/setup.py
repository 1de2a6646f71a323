"""Before the first step: model, layout, optimizer and the state of a checkpoint, put together."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from agentsft.batch.blocks import FLEX_BLOCK
from agentsft.batch.collate import collate, padded_to
from agentsft.batch.order import epochs_done, total_steps
from agentsft.batch.pack import Planner, StepPlan
from agentsft.config import TrainConfig
from agentsft.data.mixture import Marked, mixture_of
from agentsft.encode.examples import Examples, collected
from agentsft.errors import UserError
from agentsft.train import checkpoint
from agentsft.train.accelerated import accelerator_for, prepared
from agentsft.train.attention import Attention
from agentsft.train.card import write_run_info
from agentsft.train.compiled import compile_layers
from agentsft.train.fingerprint import check_fingerprint, fingerprint, other_settings
from agentsft.train.flops import Flops, peak_flops
from agentsft.train.fp8 import check_fp8, convert_layers
from agentsft.train.kernel import SAMPLE, choose_kernel
from agentsft.train.launch import Sharding, asked_sharding
from agentsft.train.layout import Layout, choose_layout
from agentsft.train.loop import Run
from agentsft.train.model import load_model, parameter_counts
from agentsft.train.module import LossModule, base_model
from agentsft.train.offload import Offload
from agentsft.train.optim import default_learning_rate, make_optimizer
from agentsft.train.passes import overlaps
from agentsft.train.probe import head_fault
from agentsft.train.reporter import Reporter, Silent, Summary
from agentsft.train.rounding import MATRICES, place_weights
from agentsft.train.shard import reshard, sharded_module, sharding_note, sync_each_batch
from agentsft.train.shards import restore
from agentsft.train.tail import Tail, find_tail
from agentsft.train.vocabulary import find_vocabulary
from agentsft.types import Example, TokenTree

CPU_FILL = 1024
"""Tokens that packs are filled to on a CPU: more gains no speed there and costs memory and cache."""


@dataclass
class Setup:
    """What the steps of a run begin with: `examples` are those of its trees, `start_step` the steps done.

    Weights of at least `placed` dimensions were placed at random before the first step; None: none was.
    """

    run: Run
    model: Any
    eval_trees: Sequence[TokenTree]
    reporter: Reporter
    fingerprint: dict[str, Any]
    examples: Examples
    start_step: int
    placed: int | None

    @property
    def output(self) -> Path:
        return Path(self.run.config.output)

    def state(self, step: int) -> dict[str, Any]:
        """What a checkpoint after `step` steps holds beside weights and moments.

        Random numbers need no state: those of a step are a function of the seed, the step and the process.
        """
        accelerator, config = self.run.accelerator, self.run.config
        return {
            "step": step,
            "epoch": epochs_done(step, self.run.epoch_size, config.batch_size),
            "total_steps": self.run.total_steps,
            "world_size": accelerator.num_processes,
            "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else None,
            "fingerprint": self.fingerprint,
            "settings": asdict(config),
            "placed": self.placed,
        }


def set_up(
    config: TrainConfig, train_examples: Sequence[Example], eval_examples: Sequence[Example], reporter: Reporter
) -> Setup:
    """Loads what `config` names, and the checkpoint to resume. Raises UserError for what does not fit."""
    examples, eval_trees = collected(train_examples), collected(eval_examples).trees
    examples = examples.select(examples.column("has_tree") == 1)
    trees: Sequence[TokenTree] = examples.trees
    if not trees:
        raise UserError("data: no conversation is left to train.")
    if config.learning_rate is None:
        config = replace(config, learning_rate=default_learning_rate(config.tuner))
    sharding = asked_sharding(config)
    if sharding and sharding.checkpointing:
        config = replace(config, gradient_checkpointing=True)
    accelerator, precision = accelerator_for(config)
    device = accelerator.device
    if config.fp8:
        check_fp8(device, precision, config.load_in_4bit)
    resumed, passed_over = checkpoint.choose_checkpoint(config)
    marks = fingerprint(config, examples)
    mixture = mixture_of(config.data, config.data_weights, config.seed, examples.texts("source"))
    if mixture and mixture.told_apart:
        trees = Marked(trees, mixture.source)
    state = checkpoint.load_state(resumed) if resumed else {"step": 0}
    if resumed:
        check_fingerprint(str(resumed), state, marks, config)
    reporter = reporter if accelerator.is_main_process else Silent()
    compiled = device.type == "cuda" if config.torch_compile is None else config.torch_compile
    longest = int(max(part.column("depth").max(initial=0) for part in (examples, eval_trees.examples)))
    module, layout, notes = _module(config, accelerator, precision, sharding, resumed, longest, compiled)
    placed = state.get("placed") if resumed else _place(module.model, config.seed, precision, sharding)
    model, flops = module.model, Flops(module.model, module.tail.feed_forward if module.tail else None)
    planner = _planner(config, layout, device, accelerator.num_processes, flops.pair_cost)
    wrapped, optimizer = prepared(accelerator, module, make_optimizer(config, module), sharding)
    notes = [*passed_over, *notes]
    if resumed:
        notes += _resume(config, accelerator, model, optimizer, resumed, state)

    epoch = len(mixture) if mixture else len(trees)
    steps = total_steps(epoch, config.batch_size, config.num_train_epochs, config.max_steps)
    peak = peak_flops(device)
    sync_each = sync_each_batch(config, parameter_counts(model)[0], device)
    if sharding:
        notes.append(sharding_note(accelerator.num_processes, sync_each))
    run = Run(
        config=config,
        accelerator=accelerator,
        module=wrapped,
        optimizer=optimizer,
        trees=trees,
        planner=planner,
        multiple=1,
        total_steps=steps,
        flops=flops,
        peak=peak * accelerator.num_processes if peak else None,
        arrange=layout.attention.mode == "flex",
        sources=examples.texts("source"),
        mixture=mixture,
        sharded=sharding is not None,
        sync_each=sync_each,
        overlapping=sharding is None and overlaps(device, precision, model),
    )
    largest = int(max(part.column("tokens").max(initial=0) for part in (examples, eval_trees.examples)))
    _set_lengths(run, layout, largest)
    plans = [run.plan(step) for step in range(min(steps, 20))]
    notes.append(_choose_kernel(run, layout.attention, plans[0], precision))
    notes += mixture.notes() if mixture and config.data_weights else []
    for note in filter(None, notes):
        reporter.on_note(note)
    setup = Setup(run, model, eval_trees, reporter, marks, examples, int(state["step"]), placed)
    summary = _summary(setup, layout, plans, precision, compiled)
    if accelerator.is_main_process:
        write_run_info(setup.output, summary)
    reporter.on_start(summary)
    return setup


def _module(
    config: TrainConfig,
    accelerator: Accelerator,
    precision: str,
    sharding: Sharding | None,
    resumed: Path | None,
    longest: int,
    compiled: bool,
) -> tuple[LossModule, Layout, list[str]]:
    """The model with its loss, as it is computed: loaded, sharded, laid out by what it was seen to do, compiled."""
    plain = resumed if resumed and not _in_shards(resumed) else None
    if sharding:
        module = sharded_module(config, accelerator, precision, sharding, plain)
    else:
        loaded = load_model(config, accelerator.device, precision, plain)
        module = LossModule(loaded, Attention("rows", accelerator.device))
    with accelerator.autocast() if sharding else nullcontext():
        layout, head, tail = module.ask(lambda model: _answers(base_model(model), config, longest, compiled))
    if sharding:
        reshard(module)
    if config.fp8:  # behind the questions, which compare exact computations
        convert_layers(module.model, config.fp8)
    notes = [*layout.notes, *([f"The model's own logits are used, since {head}."] if head else [])]
    if compiled:
        notes.append(compile_layers(module.model, sharding is not None, tail.norm if tail else None))
    module.attention, module.own_head, module.tail, module.compiled = layout.attention, not head, tail, compiled
    module.vocabulary = None if sharding or head else find_vocabulary(base_model(module.model))
    module.offload = Offload(accelerator.device) if config.activation_offloading else None
    return module, layout, notes


def _place(model: Any, seed: int, precision: str, sharding: Sharding | None) -> int | None:
    """Places weights at random that are computed with in bfloat16; from how many dimensions on."""
    if precision != "bf16":
        return None
    least = 0 if sharding else MATRICES  # FSDP2 hands out all of them in 16 bits
    place_weights(model, seed, least)
    return least


def _in_shards(folder: Path) -> bool:
    return (folder / checkpoint.SHARDS).is_file()


def _resume(
    config: TrainConfig, accelerator: Accelerator, model: Any, optimizer: Any, resumed: Path, state: dict[str, Any]
) -> list[str]:
    """Put the rest of a checkpoint in place, whose weights a model has that is loaded from one file; notes on it."""
    if _in_shards(resumed):
        restore(resumed, model, optimizer)
    else:
        checkpoint.load_optimizer(resumed, optimizer)
    if accelerator.scaler is not None and state.get("scaler"):
        accelerator.scaler.load_state_dict(state["scaler"])
    notes = [other_settings(state, config, accelerator.num_processes)]
    if accelerator.is_main_process and config.resume_from_checkpoint:
        notes.append(checkpoint.set_abandoned_aside(Path(config.output), resumed))
    return notes


def _answers(model: Any, config: TrainConfig, longest: int, compiled: bool) -> tuple[Layout, str, Tail | None]:
    """The layout that suits `model`, what speaks against its head, and the rows that its decoder may leave out."""
    split, requested = config.layout == "split", config.attn_implementation
    layout, head = choose_layout(model, longest, split, requested, compiled), head_fault(model)
    return layout, head, None if head else find_tail(model)


def _planner(config: TrainConfig, layout: Layout, device: torch.device, world: int, pair_cost: float) -> Planner:
    budget = config.micro_batch_tokens
    fill = min(budget, CPU_FILL) if device.type == "cpu" else budget
    # Other attention than flex computes the pairs between branches too, which costs more than the tokens it saves.
    wanted = layout.attention.mode == "flex" if config.share_prefixes is None else config.share_prefixes
    share = wanted and not layout.split
    return Planner(budget, 1 if layout.alone else fill, world, layout.split, layout.rows, pair_cost, share)


def _set_lengths(run: Run, layout: Layout, largest: int) -> None:
    """Choose what packs are padded to: whole blocks for flex attention, and for compiled layers."""
    if layout.attention.mode in ("sdpa", "eager", "rows"):
        return
    run.multiple = FLEX_BLOCK
    layout.attention.reserve(padded_to(max(run.planner.fill, largest), FLEX_BLOCK))


def _choose_kernel(run: Run, attention: Attention, plan: StepPlan, precision: str) -> str:
    """Let packs of the first step decide between flex attention's kernels, for all ranks alike; a note on it."""
    if attention.mode != "flex" or precision == "fp32":
        return ""
    device = run.accelerator.device
    batches = [collate(pack, run.multiple, run.arrange).to(device) for pack in plan.packs[:SAMPLE]]
    config = base_model(run.accelerator.unwrap_model(run.module).model).config.get_text_config()
    note = choose_kernel(attention, config, torch.bfloat16 if precision == "bf16" else torch.float16, batches)
    attention.flash = broadcast_object_list([attention.flash])[0]
    return note


def _summary(setup: Setup, layout: Layout, plans: list[StepPlan], precision: str, compiled: bool) -> Summary:
    run, config = setup.run, setup.run.config
    trainable, parameters = parameter_counts(setup.model)
    device = run.accelerator.device
    return Summary(
        conversations=len(run.trees),
        eval_conversations=len(setup.eval_trees),
        tokens=int(setup.examples.column("tokens").sum()),
        trained_tokens=int(setup.examples.column("trained").sum()),
        split_tokens=int(setup.examples.column("split").sum()),
        steps=run.total_steps,
        start_step=setup.start_step,
        batch_size=config.batch_size,
        micro_batches_per_step=sum(len(plan.ranks[0]) for plan in plans) / max(len(plans), 1),
        world_size=run.accelerator.num_processes,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        precision=precision,
        layout="split" if layout.split else "tree",
        attention=layout.attention.mode,
        compiled=compiled,
        tuner=config.tuner,
        trainable_parameters=trainable,
        parameters=parameters,
        computed_share=sum(plan.tokens for plan in plans) / max(sum(plan.tree_tokens for plan in plans), 1),
    )
