"""What settings of other trainers are called here, for the error that an unknown key or flag gets."""

from __future__ import annotations

from typing import Any

from agentsft.errors import nearest, shown

_BATCH = "batch_size (conversations per optimizer step, over all processes) and micro_batch_tokens (memory)"
_PACKED = "nothing to set: conversations are always packed, each seeing itself alone"
_LOSS = "loss_scale (default trains every assistant message; all trains prompts too)"
_ADAPTER = "tuner (full, lora or dora)"

_NAMES = {
    "model_name_or_path": "model",
    "model_id_or_path": "model",
    "base_model": "model",
    "dataset": "data",
    "datasets": "data",
    "dataset_name": "data",
    "train_file": "data",
    "val_dataset": "eval_data",
    "eval_dataset": "eval_data",
    "test_datasets": "eval_data",
    "split_dataset_ratio": "eval_share",
    "val_size": "eval_share",
    "val_set_size": "eval_share",
    "formatting": "data_format",
    "template": "chat_template (a file; the model's own template is the default)",
    "chat_template_path": "chat_template",
    "chat_template_jinja": "chat_template",
    "agent_template": "agent_format",
    "tool_format": "agent_format",
    "enable_thinking": "template_kwargs: {enable_thinking: true}",
    "preserve_thinking": "template_kwargs, if the template knows such a variable",
    "cutoff_len": "max_length",
    "sequence_len": "max_length",
    "max_seq_length": "max_length",
    "model_max_length": "max_length",
    "truncation_strategy": "overflow",
    "truncation_mode": "overflow",
    "excess_length_strategy": "overflow",
    "train_on_prompt": _LOSS,
    "train_on_inputs": _LOSS,
    "completion_only_loss": _LOSS,
    "assistant_only_loss": _LOSS,
    "roles_to_train": _LOSS,
    "output_dir": "output",
    "per_device_train_batch_size": _BATCH,
    "per_device_eval_batch_size": "nothing to set: evaluation is packed by micro_batch_tokens",
    "gradient_accumulation_steps": _BATCH,
    "micro_batch_size": _BATCH,
    "num_epochs": "num_train_epochs",
    "epochs": "num_train_epochs",
    "max_epochs": "num_train_epochs",
    "lr": "learning_rate",
    "lr_scheduler": "lr_scheduler_type",
    "finetuning_type": _ADAPTER,
    "tuner_type": _ADAPTER,
    "train_type": _ADAPTER,
    "sft_type": _ADAPTER,
    "adapter": _ADAPTER,
    "use_peft": _ADAPTER,
    "use_dora": "tuner: dora",
    "peft_use_dora": "tuner: dora",
    "lora_r": "lora_rank",
    "lora_target": "lora_target_modules",
    "target_modules": "lora_target_modules",
    "modules_to_save": "lora_modules_to_save",
    "additional_target": "lora_modules_to_save",
    "bf16": "precision",
    "fp16": "precision",
    "tf32": "precision",
    "torch_dtype": "precision",
    "dtype": "precision",
    "flash_attn": "attn_implementation",
    "flash_attention": "attn_implementation",
    "attn_impl": "attn_implementation",
    "packing": _PACKED,
    "neat_packing": _PACKED,
    "sample_packing": _PACKED,
    "eval_sample_packing": _PACKED,
    "padding_free": _PACKED,
    "group_by_length": _PACKED,
    "dataset_num_proc": "num_proc",
    "dataset_processes": "num_proc",
    "preprocessing_num_workers": "num_proc",
    "eval_strategy": "eval_steps",
    "save_strategy": "save_steps",
    "evals_per_epoch": "eval_steps",
    "saves_per_epoch": "save_steps",
    "auto_resume_from_checkpoints": "resume",
    "overwrite_cache": "cache",
    "load_from_cache_file": "cache",
    "logging_steps": "nothing to set: metrics.jsonl has a line for every step",
    "do_train": "nothing to set: the command is `agentsft train`",
    "stage": "nothing to set: fine-tuning is the only stage",
}


def called_here(name: str, known: tuple[str, ...]) -> str:
    """` Here this is ...` for a setting's name in another trainer, a recipe's or a flag's; else an empty string.

    Nothing is said of a name that has none of the settings `known` for its like.
    """
    found = _NAMES.get(name.lstrip("-").replace("-", "_"))
    if found is None or (not found.startswith("nothing") and found.split()[0].rstrip(":,") not in known):
        return ""
    return f" Here this is {found}; docs/migrate.md has more."


_MOST_KEYS = 8


def say_unknown(keys: list[Any], known: tuple[str, ...]) -> str:
    """What is to be said of unknown keys, in one line: of each the name that it has here, or the nearest."""
    said = [(shown(key), *_guess(key, known)) for key in keys[:_MOST_KEYS]]
    if len(keys) == 1:
        name, here, near = said[0]
        return f"unknown key {name}.{here or near}"
    more = f"; and {len(keys) - _MOST_KEYS} more" if len(keys) > _MOST_KEYS else ""
    each = [name + _short(here or near) for name, here, near in said]
    migrate = "; docs/migrate.md has more" if any(here for _, here, _ in said) else ""
    return f"{len(keys)} unknown keys: {'; '.join(each)}{more}{migrate}."


def _guess(key: Any, known: tuple[str, ...]) -> tuple[str, str]:
    return (called_here(key, known), nearest(key[:100], known)) if isinstance(key, str) else ("", "")


def _short(guess: str) -> str:
    """A guess as part of a list of them."""
    return guess.replace(" Here this is", ": here").replace("; docs/migrate.md has more", "").rstrip(".")
