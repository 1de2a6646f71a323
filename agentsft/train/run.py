"""A whole run: model, layout, steps, evaluation, checkpoints, and what is left in the output folder."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from signal import Signals
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, broadcast_object_list, parse_flag_from_env
from transformers import AutoConfig
from transformers.utils import logging

from agentsft.batch.length import best_length
from agentsft.batch.order import epochs_done, total_steps
from agentsft.batch.pack import Planner, StepPlan
from agentsft.config import TrainConfig, dump_recipe
from agentsft.encode.tree import split_tokens
from agentsft.errors import UserError
from agentsft.train import checkpoint
from agentsft.train.attention import FLEX_BLOCK
from agentsft.train.flops import Flops, peak_flops
from agentsft.train.interrupt import Interrupted, Interrupts
from agentsft.train.layout import Layout, choose_layout
from agentsft.train.loop import Run, check_bad_steps, evaluate, train_step
from agentsft.train.metrics import MetricsFile
from agentsft.train.model import compile_layers, load_model, parameter_counts, resolve_precision
from agentsft.train.module import LossModule, base_model
from agentsft.train.optim import default_learning_rate, make_optimizer
from agentsft.train.probe import head_fault
from agentsft.train.reporter import Reporter, Silent, Summary, TrainResult
from agentsft.types import Example, TokenTree

CPU_FILL = 1024
"""Tokens that packs are filled to on a CPU: more gains no speed there and costs memory and cache."""


def train(
    config: TrainConfig,
    tokenizer: Any,
    train_examples: list[Example],
    eval_examples: list[Example],
    reporter: Reporter,
) -> TrainResult:
    """Trains as `config` says and leaves model, tokenizer, recipe, metrics and checkpoints in `config.output`.

    Every rank calls it with the same arguments; the reporter is called on the main process alone. Raises UserError
    for settings, model or checkpoint that do not fit.
    """
    started = time.perf_counter()
    with _quiet():
        setup = _set_up(config, train_examples, eval_examples, reporter)
        initial, final, loss, skipped = _run_steps(setup)
        _save_final(setup, tokenizer)
    result = TrainResult(
        output=config.output,
        steps=setup.run.total_steps,
        loss=loss,
        eval_loss=final,
        initial_eval_loss=initial,
        seconds=time.perf_counter() - started,
        skipped_steps=skipped,
    )
    setup.reporter.on_end(result)
    return result


@dataclass
class _Setup:
    run: Run
    model: Any
    eval_trees: list[TokenTree]
    reporter: Reporter
    fingerprint: dict[str, Any]
    start_step: int

    @property
    def output(self) -> Path:
        return Path(self.run.config.output)


def _set_up(
    config: TrainConfig, train_examples: list[Example], eval_examples: list[Example], reporter: Reporter
) -> _Setup:
    trees, eval_trees = _trees(train_examples), _trees(eval_examples)
    if not trees:
        raise UserError("data: no conversation is left to train.")
    if config.learning_rate is None:
        config = replace(config, learning_rate=default_learning_rate(config.tuner))
    accelerator, precision = _accelerator(config)
    device = accelerator.device
    resumed, passed_over = checkpoint.choose_checkpoint(config)
    marks = checkpoint.fingerprint(config, trees)
    state = checkpoint.load_state(resumed, marks) if resumed else {"step": 0}
    reporter = reporter if accelerator.is_main_process else Silent()
    compiled = device.type == "cuda" if config.torch_compile is None else config.torch_compile
    model = load_model(config, device, precision, resumed)
    longest = max(int(tree.position_ids.max()) + 1 for tree in trees + eval_trees)
    layout = choose_layout(base_model(model), longest, config.layout == "split", config.attn_implementation, compiled)
    head = head_fault(base_model(model))
    notes = [*passed_over, *layout.notes, *([f"The model's own logits are used, since {head}."] if head else [])]
    if compiled:
        notes += filter(None, [compile_layers(model)])
    flops = Flops(model)
    planner = _planner(config, layout, device, accelerator.num_processes, flops.pair_cost)
    module = LossModule(model, layout.attention, own_head=not head)
    optimizer = make_optimizer(config, module)
    module, optimizer = accelerator.prepare(module, optimizer)
    if resumed:
        checkpoint.load_optimizer(resumed, optimizer)
        if accelerator.scaler is not None and state.get("scaler"):
            accelerator.scaler.load_state_dict(state["scaler"])

    steps = total_steps(len(trees), config.batch_size, config.num_train_epochs, config.max_steps)
    peak = peak_flops(device)
    run = Run(
        config=config,
        accelerator=accelerator,
        module=module,
        optimizer=optimizer,
        trees=trees,
        planner=planner,
        multiple=1,
        total_steps=steps,
        flops=flops,
        peak=peak * accelerator.num_processes if peak else None,
        arrange=layout.attention.mode == "flex",
        sources=[example.source for example in train_examples if example.tree],
    )
    _set_lengths(run, layout, eval_trees, compiled)
    plans = [run.plan(step) for step in range(min(steps, 20))]
    for note in notes:
        reporter.on_note(note)
    setup = _Setup(run, model, eval_trees, reporter, marks, int(state["step"]))
    reporter.on_start(_summary(setup, layout, plans, precision, compiled))
    return setup


def _trees(examples: list[Example]) -> list[TokenTree]:
    return [example.tree for example in examples if example.tree]


def _accelerator(config: TrainConfig) -> tuple[Accelerator, str]:
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    precision = resolve_precision(config.precision, PartialState(cpu=on_cpu).device)
    AcceleratorState._reset_state()  # an earlier run in this process may have had another precision
    ddp = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
    mixed = "no" if precision == "fp32" else precision
    return Accelerator(cpu=on_cpu, mixed_precision=mixed, kwargs_handlers=[ddp]), precision


def _planner(config: TrainConfig, layout: Layout, device: torch.device, world: int, pair_cost: float) -> Planner:
    budget = config.micro_batch_tokens
    fill = min(budget, CPU_FILL) if device.type == "cpu" else budget
    share = config.share_prefixes and not layout.split
    return Planner(budget, 1 if layout.alone else fill, world, layout.split, layout.rows, pair_cost, share)


def _set_lengths(run: Run, layout: Layout, eval_trees: list[TokenTree], compiled: bool) -> None:
    """Choose what packs are filled and padded to: one length for compiled layers, whole blocks for flex attention."""
    if layout.attention.mode in ("sdpa", "eager", "rows"):
        return
    run.multiple = FLEX_BLOCK
    if compiled:
        steps = [run.trees_of(step) for step in range(min(run.total_steps, 8))]
        largest = max(len(tree) for tree in [*run.trees, *eval_trees])
        run.multiple = best_length(run.planner, steps, largest, FLEX_BLOCK)
        run.planner = replace(run.planner, fill=min(run.multiple, run.planner.fill))


def _run_steps(setup: _Setup) -> tuple[float | None, float | None, float | None, int]:
    """All steps from the start step on: initial and final held-out loss, last loss, number of skipped steps."""
    run, config, reporter = setup.run, setup.run.config, setup.reporter
    main = run.accelerator.is_main_process
    if main:
        setup.output.mkdir(parents=True, exist_ok=True)
        (setup.output / "recipe.yaml").write_text(dump_recipe(config), encoding="utf-8")
    metrics, evaluations = (
        MetricsFile(setup.output / f"{name}.jsonl" if main else None, keep_until=setup.start_step)
        for name in ("metrics", "evaluations")
    )
    # Every rank must know what the main process, which reads the file, will not evaluate again.
    evaluated = broadcast_object_list([{row["step"]: row["eval_loss"] for row in evaluations.kept}])[0]

    def held_out(step: int) -> None:
        if setup.eval_trees and step not in evaluated:
            epoch = round(epochs_done(step, len(run.trees), config.batch_size), 6)
            row = {"step": step, "epoch": epoch, **evaluate(run, setup.eval_trees)}
            evaluated[step] = row["eval_loss"]
            evaluations.write(row)
            reporter.on_eval(row)

    def due(every: int | None, step: int) -> bool:
        return every is not None and step % every == 0

    if not setup.start_step or due(config.eval_steps, setup.start_step):  # where an interrupted run left it out
        held_out(setup.start_step)
    with Interrupts(run.accelerator) as interrupts:
        for step in range(setup.start_step + 1, run.total_steps + 1):
            row = train_step(run, step - 1)
            metrics.kept.append(row)
            metrics.write(row)
            reporter.on_step(row)
            check_bad_steps(run, row)
            if due(config.eval_steps, step) and not interrupts.asked():
                held_out(step)
            asked = interrupts.asked()
            if asked or due(config.save_steps, step):
                _save(setup, step)
            if asked:
                reporter.on_note(f"Stopped by {Signals(asked).name} after step {step}; --resume goes on from there.")
                raise Interrupted(asked)
    held_out(run.total_steps)
    metrics.close()
    evaluations.close()
    last = next((row["loss"] for row in reversed(metrics.kept) if row["loss"] is not None), None)
    return evaluated.get(0), evaluated.get(run.total_steps), last, sum("skipped" in row for row in metrics.kept)


def _save(setup: _Setup, step: int) -> None:
    accelerator = setup.run.accelerator
    if accelerator.is_main_process:
        state = {
            "step": step,
            "epoch": epochs_done(step, len(setup.run.trees), setup.run.config.batch_size),
            "total_steps": setup.run.total_steps,
            "world_size": accelerator.num_processes,
            "scaler": accelerator.scaler.state_dict() if accelerator.scaler is not None else None,
            "fingerprint": setup.fingerprint,
        }
        try:
            limit = setup.run.config.save_total_limit
            path = checkpoint.save_checkpoint(setup.output, setup.model, setup.run.optimizer, state, limit)
        except OSError as error:
            setup.reporter.on_note(checkpoint.not_written(setup.output, step, error))
        else:
            setup.reporter.on_save(str(path))
    accelerator.wait_for_everyone()


def _save_final(setup: _Setup, tokenizer: Any) -> None:
    """Model (in the dtype in which it was published) or adapter, tokenizer and chat template."""
    config, accelerator = setup.run.config, setup.run.accelerator
    if accelerator.is_main_process:
        if config.tuner == "full":
            published = AutoConfig.from_pretrained(config.model, trust_remote_code=config.trust_remote_code)
            setup.model.to(getattr(published, "dtype", None) or torch.float32)
        checkpoint.save_weights(setup.model, setup.output)
        tokenizer.save_pretrained(setup.output)
    accelerator.wait_for_everyone()


def _summary(setup: _Setup, layout: Layout, plans: list[StepPlan], precision: str, compiled: bool) -> Summary:
    run, config = setup.run, setup.run.config
    trainable, parameters = parameter_counts(setup.model)
    device = run.accelerator.device
    return Summary(
        conversations=len(run.trees),
        eval_conversations=len(setup.eval_trees),
        tokens=sum(len(tree) for tree in run.trees),
        trained_tokens=sum(int((tree.weight > 0).sum()) for tree in run.trees),
        split_tokens=sum(split_tokens(tree) for tree in run.trees),
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


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what would break the reporter's display: progress bars, and warnings that no user can act on."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Attempting to run cuBLAS, but there was no current CUDA context")
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
            yield
    finally:
        if shown:
            logging.enable_progress_bar()
