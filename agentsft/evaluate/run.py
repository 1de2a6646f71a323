"""A whole evaluation: turns, loss, answers, verdicts, intervals, and the files that hold them."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from agentsft import __version__
from agentsft.encode.prepare import Preparer
from agentsft.errors import UserError
from agentsft.evaluate.intervals import Estimate, estimate
from agentsft.evaluate.judge import METRICS, judge
from agentsft.evaluate.model import fingerprint, load_contexts, load_model, with_saved_format
from agentsft.evaluate.results import key_of, open_results, write_summary
from agentsft.evaluate.settings import EvalConfig, check, shaping
from agentsft.evaluate.take import EvalTurn, HeldOut, take_turns
from agentsft.types import LABELS

if TYPE_CHECKING:
    from agentsft.evaluate.generate import Batch, Generator
    from agentsft.evaluate.loss import Losses


class Watcher(Protocol):
    """Hears how an evaluation goes on: the stages `rows`, `loss` (conversations) and `answers` (turns)."""

    def on_stage(self, stage: str, total: int | None, done: int = 0) -> None: ...
    def on_advance(self, count: int) -> None: ...
    def on_note(self, text: str) -> None: ...


class Unwatched:
    """A watcher that does not look."""

    def on_stage(self, stage: str, total: int | None, done: int = 0) -> None: ...
    def on_advance(self, count: int) -> None: ...
    def on_note(self, text: str) -> None: ...


def evaluate(config: EvalConfig, watcher: Watcher | None = None, model: Any | None = None) -> dict[str, Any]:
    """Evaluates `config.model` on `config.data` and gives the summary that eval.json holds.

    `model`, where given, is used as it stands instead of being loaded. Leaves results.jsonl, conversations.jsonl and
    eval.json in `config.output`. Raises UserError for settings, model, data or results that do not fit.
    """
    watcher = watcher or Unwatched()
    check(config)
    config, note = with_saved_format(config)
    if note:
        watcher.on_note(note)
    output = Path(config.output or default_output(config.model))
    preparer = load_contexts(config)
    watcher.on_stage("rows", None)
    held_out = take_turns(config, preparer, lambda: watcher.on_advance(1))
    for text in _notes(held_out):
        watcher.on_note(text)
    marks = fingerprint(config.model)
    made_by = {"agentsft": __version__, "settings": shaping(config), "model_files": marks}
    file, known = open_results(output, held_out.turns, made_by, config.resume, watcher.on_note)
    try:
        summary: dict[str, Any] = {"made_by": made_by, **_counts(held_out)}
        summary |= _losses(config, held_out, output, model := model or load_model(config), watcher)
        if config.generate:
            started, before = time.perf_counter(), len(known)
            _answer(config, held_out, preparer, model, file, known, watcher)
            summary["answered"] = {"turns": len(known) - before, "seconds": round(time.perf_counter() - started, 2)}
            rows = [known[key_of(turn)] for turn in held_out.turns]
            summary["metrics"] = {
                name: asdict(found) for name, found in metric_estimates(held_out.turns, rows, config.seed).items()
            }
    finally:
        file.close()
    write_summary(output, summary)
    return summary | {"output": str(output)}


def default_output(model: str) -> str:
    """outputs/eval/ and the name of the model's folder, or its hub name without slashes."""
    folder = Path(model)
    name = folder.resolve().name if folder.exists() else model.replace("/", "--")
    return str(Path("outputs") / "eval" / name)


def _notes(held_out: HeldOut) -> list[str]:
    notes = []
    if held_out.left_out:
        reasons = ", ".join(f"{reason} {count}" for reason, count in held_out.left_out.most_common())
        notes.append(f"rows left out in part or whole: {reasons}; agentsft check says more")
    if not held_out.format_known:
        notes.append("calls are not judged: this template writes them in a format that is not known here")
    elif held_out.unread:
        where = next(f"{t.source} message {t.message}" for t in held_out.turns if not t.reference.readable)
        notes.append(
            f"calls are not judged in {held_out.unread} turns, whose own calls cannot be read back; first: {where}"
        )
    return notes


def _counts(held_out: HeldOut) -> dict[str, Any]:
    return {
        "conversations": len(held_out.trees),
        "turns": len(held_out.turns),
        "left_out": dict(held_out.left_out),
        "unread_turns": held_out.unread,
    }


def _losses(config: EvalConfig, held_out: HeldOut, output: Path, model: Any, watcher: Watcher) -> dict[str, Any]:
    from agentsft.evaluate.loss import held_out_losses

    started = time.perf_counter()
    watcher.on_stage("loss", len(held_out.trees))
    losses = held_out_losses(model, held_out.trees, None, watcher.on_advance, watcher.on_note)
    _write_conversations(output, held_out, losses)
    by_label = {
        label: asdict(estimate(losses.nll[:, i], losses.counts[:, i], config.seed, rate=False))
        for i, label in enumerate(LABELS)
        if losses.counts[:, i].any()
    }
    return {
        "loss": asdict(estimate(losses.weighted, losses.items, config.seed, rate=False)),
        "loss_by_label": by_label,
        "loss_seconds": round(time.perf_counter() - started, 2),
    }


def _write_conversations(output: Path, held_out: HeldOut, losses: Losses) -> None:
    """conversations.jsonl: what intervals, and comparisons of two models, are made of."""
    sources = {turn.conversation: turn.source for turn in held_out.turns}
    lines = []
    for i in range(len(held_out.trees)):
        by_label = {
            label: {"nll": losses.nll[i, k], "tokens": int(losses.counts[i, k])}
            for k, label in enumerate(LABELS)
            if losses.counts[i, k]
        }
        row = {"conversation": i, "source": sources.get(i), "weighted_nll": losses.weighted[i]}
        lines.append(json.dumps({**row, "tokens": int(losses.items[i]), "by_label": by_label}))
    try:
        (output / "conversations.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error}); make room, or name another --output.") from None


def _answer(
    config: EvalConfig,
    held_out: HeldOut,
    preparer: Preparer,
    model: Any,
    file: Any,
    known: dict[Any, dict[str, Any]],
    watcher: Watcher,
) -> None:
    """Generates what `known` lacks, batch by batch, and adds it there and to the file."""
    from agentsft.evaluate.generate import plan_batches

    turns = held_out.turns
    generator = generator_for(model, preparer)
    batches = plan_batches(
        [len(turn.prompt_ids) for turn in turns], config.max_new_tokens, config.batch_tokens, preparer.max_length
    )
    watcher.on_stage("answers", len(turns), len(known))
    for batch in batches:
        missing = [number for number in batch.numbers if key_of(turns[number]) not in known]
        if not missing:
            continue
        rows = answer_batch(turns, batch, generator, preparer.tokenizer)
        for number in missing:
            if (key := key_of(turns[number])) not in known:  # a file may have been named twice
                known[key] = rows[number]
                file.write(rows[number])
        watcher.on_advance(len(missing))
    if generator.halved:
        watcher.on_note(
            f"out of memory: batches were halved {generator.halved} times; a lower --batch-tokens avoids it"
        )


def generator_for(model: Any, preparer: Preparer) -> Generator:
    """A generator that stops where the preparer's template, and serving, stop."""
    from agentsft.evaluate.generate import Generator

    tokenizer = preparer.tokenizer
    stops = tokenizer.convert_tokens_to_ids(list(preparer.traits.stop_tokens))
    if not stops:
        raise UserError("no token is known at which serving stops; name one with --stop-token.")
    return Generator(model, stops, tokenizer.pad_token_id)


def answer_batch(
    turns: Sequence[EvalTurn], batch: Batch, generator: Generator, tokenizer: Any
) -> dict[int, dict[str, Any]]:
    """The rows of results.jsonl for the turns of one batch, by their numbers."""
    found = generator.answers([turns[number].prompt_ids for number in batch.numbers], batch.new_tokens)
    rows = {}
    for number, (ids, stopped) in zip(batch.numbers, found, strict=True):
        turn = turns[number]
        text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        rows[number] = {
            "conversation": turn.conversation,
            "source": turn.source,
            "message": turn.message,
            "prompt_sha256": turn.prompt_hash,
            "prompt_tokens": len(turn.prompt_ids),
            "new_tokens": len(ids) + stopped,
            "stopped": stopped,
            "response": text,
            "reference": turn.response,
            "verdicts": judge(turn.reference, text, stopped),
        }
    return rows


def metric_estimates(turns: Sequence[EvalTurn], rows: Sequence[dict[str, Any]], seed: int = 42) -> dict[str, Estimate]:
    """Every metric's share of the turns to which it applies, with its interval over conversations."""
    n = max((turn.conversation for turn in turns), default=-1) + 1
    estimates = {}
    for name in METRICS:
        part, whole = np.zeros(n), np.zeros(n)
        for turn, row in zip(turns, rows, strict=True):
            if name in row["verdicts"]:
                whole[turn.conversation] += 1
                part[turn.conversation] += row["verdicts"][name]
        estimates[name] = estimate(part, whole, seed)
    return estimates
