"""A whole run: steps, evaluation, checkpoints, and what is left in the output folder."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from signal import Signals
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from transformers import AutoConfig
from transformers.utils import logging

from agentsft.batch.order import epochs_done, is_due
from agentsft.config import TrainConfig
from agentsft.encode.examples import RowOf
from agentsft.errors import UserError
from agentsft.recipe import dump_recipe
from agentsft.train.card import write_card
from agentsft.train.garbage import Garbage
from agentsft.train.interrupt import Interrupted, Interrupts
from agentsft.train.judge import NONE, Judge
from agentsft.train.loop import check_bad_steps, evaluate, train_step
from agentsft.train.memory import outside_of_passes
from agentsft.train.metrics import RowsFile, until
from agentsft.train.nonfinite import NON_FINITE, STEP_SKIPPED, ledger_entries
from agentsft.train.peers import lost_peer
from agentsft.train.reporter import Reporter, TrainResult
from agentsft.train.rounding import round_weights
from agentsft.train.saver import Saver
from agentsft.train.saving import save_model
from agentsft.train.setup import Setup, set_up
from agentsft.train.shard import whole_weights
from agentsft.train.sharded_saver import ShardedSaver
from agentsft.train.trackers import Tracked
from agentsft.types import Example


def train(
    config: TrainConfig,
    tokenizer: Any,
    train_examples: Sequence[Example],
    eval_examples: Sequence[Example],
    reporter: Reporter,
    judge: Judge = NONE,
) -> TrainResult:
    """Trains as `config` says and leaves model, tokenizer, recipe, metrics and checkpoints in `config.output`.

    Every rank calls it with the same arguments; the reporter is called on the main process alone. Raises UserError
    for settings, model or checkpoint that do not fit, where memory runs out or another process ends, and Interrupted
    where a signal asked the run to end.
    """
    started = time.perf_counter()
    try:
        with _quiet(), Tracked(config, reporter) as reporter:
            setup = set_up(config, train_examples, eval_examples, reporter)
            with Interrupts(setup.run.accelerator) as interrupts:
                steps = _Steps(setup, interrupts, tokenizer, judge)
                steps.run()
                _finish(setup, tokenizer, interrupts)
    except torch.OutOfMemoryError as error:
        raise outside_of_passes(config, error) from error
    except RuntimeError as error:
        if lost_peer(error):
            raise UserError("another process of this run has ended: see its message, and use --resume.") from error
        raise
    result = steps.result(time.perf_counter() - started)
    setup.reporter.on_end(result)
    return result


@dataclass
class _Steps:
    """The steps of a run, and the files that tell of them."""

    setup: Setup
    interrupts: Interrupts
    tokenizer: Any
    judge: Judge
    evaluated: dict[int, float | None] = field(default_factory=dict)
    """Held-out loss after each step at which it was computed."""

    def __post_init__(self) -> None:
        run, reporter, start = self.setup.run, self.setup.reporter, self.setup.start_step
        self.main = run.accelerator.is_main_process
        output = self.setup.output
        if self.main:
            try:
                output.mkdir(parents=True, exist_ok=True)
                (output / "recipe.yaml").write_text(dump_recipe(run.config), encoding="utf-8")
            except OSError as error:
                raise UserError(f"output: {output} cannot be written ({error}); name another folder.") from None
        self.metrics, self.evaluations = (
            RowsFile(output / f"{name}.jsonl" if self.main else None, until(start), reporter.on_note)
            for name in ("metrics", "evaluations")
        )
        self.index_of = RowOf(self.setup.examples)
        self.ledger = RowsFile(
            output / "ledger.jsonl" if self.main else None,
            lambda entry: entry.get("reason") not in (NON_FINITE, STEP_SKIPPED),
            reporter.on_note,
            [entry for row in self.metrics.kept for entry in ledger_entries(row, self.index_of)],
        )
        # Every rank must know what the main process, which reads the files, will not evaluate again.
        bad_steps = sum(NON_FINITE in row for row in self.metrics.kept)
        evaluated = {row["step"]: row["eval_loss"] for row in self.evaluations.kept}
        self.evaluated, run.bad_steps, rows = broadcast_object_list([evaluated, bad_steps, self.evaluations.kept])
        self.last = start
        if self.judge.ranking:
            for row in rows:
                self.judge.ranking.add(row)

    def run(self) -> None:
        """All steps from the start step on. Raises Interrupted where a signal ends them early."""
        run, config, reporter = self.setup.run, self.setup.run.config, self.setup.reporter
        start, step = self.setup.start_step, self.setup.start_step
        limit = config.save_total_limit
        kind = ShardedSaver if run.sharded else Saver
        garbage = Garbage(active=run.accelerator.device.type == "cuda")
        with (
            garbage,
            self._files(),
            kind(self.setup.output, self.setup.model, run.optimizer, limit, reporter) as saver,
        ):
            if not start or is_due(config.eval_steps, start):  # where an interrupted run left it out
                self._held_out(start)
            asked = self.interrupts.asked()
            while step < run.total_steps and not asked and not self._exhausted():
                self.last = step = step + 1
                self._step(step, saver)
                garbage.after_step()
                if is_due(config.eval_steps, step):
                    self._held_out(step)
                asked = self.interrupts.asked()
                if not asked and is_due(config.save_steps, step):
                    self._save(saver, step)
            if not asked:
                self._held_out(step)
                asked = self.interrupts.asked()
            if asked:
                saver.wait()
                if step > start and saver.saved != step:
                    self._save(saver, step)
                self._settle(saver)
                when = f"after step {step}; --resume goes on from there" if step else "before the first step"
                reporter.on_note(f"Stopped by {Signals(asked).name} {when}.")
                raise Interrupted(asked, said=True)

    @contextmanager
    def _files(self) -> Iterator[None]:
        try:
            yield
        finally:
            for file in (self.metrics, self.evaluations, self.ledger):
                file.close()

    def result(self, seconds: float) -> TrainResult:
        rows, last = self.metrics.kept, self.last
        return TrainResult(
            output=self.setup.run.config.output,
            steps=last,
            loss=next((row["loss"] for row in reversed(rows) if row["loss"] is not None), None),
            eval_loss=self.evaluated.get(last),
            initial_eval_loss=self.evaluated.get(0),
            seconds=seconds,
            skipped_steps=sum("skipped" in row for row in rows),
        )

    def _step(self, step: int, saver: Saver) -> None:
        row = train_step(self.setup.run, step - 1)
        self.metrics.kept.append(row)
        self.metrics.write(row)
        self._say_halved(row, f"in step {step}")
        for entry in ledger_entries(row, self.index_of):
            self.ledger.write(entry)
        self.setup.reporter.on_step(row)
        saver.poll()
        try:
            check_bad_steps(self.setup.run, row)
        except UserError:
            self._settle(saver)
            raise

    def _held_out(self, step: int) -> None:
        """Held-out loss after `step` steps, once; a signal leaves it out, and a resumed run makes up for it."""
        run = self.setup.run
        if not self.setup.eval_trees or step in self.evaluated:
            return
        found = evaluate(run, self.setup.eval_trees, self.interrupts.asked)
        if found is None:
            return
        if self.judge.measure:
            found |= self.judge.measure(self.setup.model, run.accelerator)
        row = {"step": step, "epoch": round(epochs_done(step, run.epoch_size, run.config.batch_size), 6), **found}
        self.evaluated[step] = row["eval_loss"]
        self.evaluations.write(row)
        self._say_halved(row, f"in the evaluation after step {step}")
        self.setup.reporter.on_eval(row)
        if self.judge.ranking and self.judge.ranking.add(row):
            self._keep_best(step)

    def _keep_best(self, step: int) -> None:
        """The model of the best evaluation so far, in output/best. One that cannot be written is a note."""
        weights = whole_weights(self.setup.model, self.main) if self.setup.run.sharded else None
        if not self.main:
            return
        try:
            save_model(self.setup.model, self.tokenizer, self.setup.output / "best", weights)
        except OSError as error:
            self.setup.reporter.on_note(f"output/best: the model of step {step} cannot be written ({_line(error)}).")

    def _exhausted(self) -> bool:
        ranking = self.judge.ranking
        if ranking is None or not ranking.exhausted:
            return False
        self.setup.reporter.on_note(f"Stopped after step {self.last}: the last evaluations were no better.")
        return True

    def _save(self, saver: Saver, step: int) -> None:
        if self.main or self.setup.run.sharded:
            saver.save(self.setup.state(step))

    def _settle(self, saver: Saver) -> None:
        """All ranks wait for the checkpoint in work: a launcher ends them all when the first of them ends."""
        saver.wait()
        self.setup.run.accelerator.wait_for_everyone()

    def _say_halved(self, row: dict[str, Any], where: str) -> None:
        if times := row.get("out_of_memory"):
            limit = self.setup.run.limit or self.setup.run.config.micro_batch_tokens // 2
            self.setup.reporter.on_note(
                f"Out of memory {where}: passes were halved {times} times and repeated, and stay smaller; "
                f"micro_batch_tokens: {limit} avoids it."
            )


def _finish(setup: Setup, tokenizer: Any, interrupts: Interrupts) -> None:
    """Leaves model (in the dtype in which it was published) or adapter, tokenizer and chat template in the output."""
    config, accelerator, sharded = setup.run.config, setup.run.accelerator, setup.run.sharded
    if (accelerator.is_main_process or sharded) and config.tuner == "full":
        published = AutoConfig.from_pretrained(config.model, trust_remote_code=config.trust_remote_code)
        dtype = getattr(published, "dtype", None) or torch.float32
        round_weights(setup.model, dtype, config.seed, setup.placed)
        (setup.run.module if sharded else setup.model).to(dtype)
    weights = whole_weights(setup.model, accelerator.is_main_process) if sharded else None
    if accelerator.is_main_process:
        try:
            save_model(setup.model, tokenizer, setup.output, weights)
            if note := write_card(config, setup.fingerprint["data"]):
                setup.reporter.on_note(note)
        except OSError as error:
            raise UserError(
                f"output: the trained model cannot be written ({_line(error)}); make room and use --resume."
            ) from error
    accelerator.wait_for_everyone()
    if asked := interrupts.asked():
        setup.reporter.on_note(f"{Signals(asked).name} came while the model was written; the run is complete.")
        raise Interrupted(asked, said=True)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what would break the reporter's display: progress bars, and warnings that no user can act on."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Attempting to run cuBLAS, but there was no current CUDA context")
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
            yield
    finally:
        if shown:
            logging.enable_progress_bar()
