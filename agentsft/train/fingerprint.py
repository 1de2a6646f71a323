"""What a run has to share with the checkpoint that it goes on from, and what it may change."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from agentsft.config import TrainConfig
from agentsft.encode.examples import Examples
from agentsft.errors import UserError

MUST_MATCH = (
    "model",
    "tuner",
    "lora_rank",
    "lora_alpha",
    "lora_dropout",
    "lora_target_modules",
    "lora_modules_to_save",
    "seed",
    "batch_size",
    "normalize",
)
"""Settings that a resumed run shares with the one it goes on from."""

QUANTIZATION = {"load_in_4bit": False, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
"""More of them, and what the checkpoints had that do not name them."""

SHAPES_DATA = (
    "data",
    "data_format",
    "columns",
    "chat_template",
    "template_kwargs",
    "agent_format",
    "reasoning",
    "control_tokens",
    "stop_token",
    "loss_scale",
    "mask_history",
    "max_length",
    "overflow",
    "eval_share",
)
"""Settings that may change what is trained. Where they do, the data's digest differs; where not, they are free."""

WITHOUT_EFFECT = (
    "output", "resume", "resume_from_checkpoint", "save_steps", "save_total_limit", "eval_data", "eval_steps",
    "cache", "num_proc", "max_lost", "max_bad_steps", "report_to", "project", "run_name",
    "eval_generate", "eval_max_new_tokens", "metric_for_best_model",
)  # fmt: skip
"""Settings that change no weight."""

MAY_CHANGE = (
    "every other setting may be overridden, such as learning_rate and its schedule, num_train_epochs, max_steps, "
    "micro_batch_tokens, layout, precision, save_steps and eval_steps, and so may the number of processes"
)


def fingerprint(config: TrainConfig, examples: Examples) -> dict[str, Any]:
    """What must be the same for a run to go on: settings, and a digest of the training data's tokens and targets.

    Tokenizer, template and strategy are in the digest, through the tokens and weights that they give.
    """
    mixed = {"data_weights": config.data_weights} if config.data_weights else {}
    return {name: getattr(config, name) for name in (*MUST_MATCH, *QUANTIZATION)} | mixed | {"data": examples.digest()}


def check_fingerprint(where: str, state: dict[str, Any], expected: dict[str, Any], config: TrainConfig) -> None:
    """Raises UserError, with all that changed and what may change, where the checkpoint belongs to another run."""
    saved, settings = QUANTIZATION | state["fingerprint"], state.get("settings", {})
    changed = [
        _change(name, saved.get(name), value)
        for name, value in expected.items()
        if name != "data" and saved.get(name) != value
    ]
    if saved.get("data") != expected["data"]:
        causes = _changes(SHAPES_DATA, settings, config) or ["other files, tokenizer or template"]
        changed.append(f"the training data ({'; '.join(causes)})")
    if changed:
        raise UserError(
            f"{where}: this checkpoint belongs to another run; changed: {', '.join(changed)}. "
            f"Restore that, or name another output to start afresh; {MAY_CHANGE}."
        )


def other_settings(state: dict[str, Any], config: TrainConfig, world_size: int) -> str:
    """A note on the settings that the run goes on with although the checkpoint's run had others, or ''."""
    names = [name for name in asdict(config) if name not in (*WITHOUT_EFFECT, *MUST_MATCH, *QUANTIZATION, *SHAPES_DATA)]
    changes = _changes(names, state.get("settings", {}), config)
    if state.get("world_size") != world_size:
        changes.append(f"{state.get('world_size')} processes there, {world_size} now")
    return f"Goes on with other settings than the checkpoint's run: {', '.join(changes)}." if changes else ""


def _changes(names: Iterable[str], saved: dict[str, Any], config: TrainConfig) -> list[str]:
    """The settings among `names` that differ; one that the checkpoint does not know counts as the same."""
    return [_change(n, saved[n], getattr(config, n)) for n in names if n in saved and saved[n] != getattr(config, n)]


def _change(name: str, there: Any, now: Any) -> str:
    return f"{name} ({there} there, {now} now)"
