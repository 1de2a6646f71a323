"""What settings of other trainers are called here, for the error that an unknown key or flag gets."""

from __future__ import annotations

from typing import Any

from agentsft.errors import nearest, shown

_BATCH = "batch_size (conversations per optimizer step, over all processes) and micro_batch_tokens (memory)"
_PACKED = "nothing to set: conversations are always packed, each seeing itself alone"
_LOSS = "loss_scale (default trains every assistant message; all trains prompts too)"
_ADAPTER = "tuner (full, lora or dora)"
_COLUMNS = "columns, or the same key in an entry of data: {path, field_messages, ...}"
_STOP = "nothing to set: the stop token of each trained message is trained"
_CHUNKED = "nothing to set: the loss is computed at trained positions alone, chunk by chunk"
_SHARDED = "fsdp (shards the model over the processes that accelerate launch starts)"
_SEEN = "data_weights, or weight in an entry of data: {path, weight}"
_LAZY = "nothing to set: rows are read in a stream, and prepared ones mapped from the disk"
_HUB = "data (a hub data set is NAME, NAME:SPLIT or NAME:CONFIGURATION:SPLIT)"

_MEANS: dict[str, str] = {
    "model": "model_name_or_path model_id_or_path base_model",
    "data": "datasets dataset_name train_file",
    "data (a path; dataset_info.json:NAME reads what LLaMA-Factory's file declares)": "dataset dataset_dir",
    _HUB: "dataset_config dataset_config_name dataset_train_split",
    "eval_data": "val_dataset eval_dataset test_datasets dataset_test_split",
    "eval_share": "split_dataset_ratio val_size val_set_size",
    "data_format": "formatting",
    _COLUMNS: "field_messages field_system field_tools field_thinking message_property_mappings message_field_role "
    "message_field_content message_field_training roles tags",
    _SEEN: "mix_strategy interleave_probs max_samples dataset_sample",
    "chat_template (a file; the model's own template is the default)": "template",
    "chat_template": "chat_template_path chat_template_jinja",
    "agent_format": "agent_template tool_format",
    "template_kwargs: {enable_thinking: true}": "enable_thinking",
    "template_kwargs, if the template knows such a variable": "preserve_thinking chat_template_kwargs",
    "stop_token": "eos_token",
    "nothing to set: a row's system text stands in its `system` or its first message": "system default_system",
    "max_length": "cutoff_len sequence_len max_seq_length model_max_length",
    "overflow": "truncation_strategy truncation_mode excess_length_strategy",
    _LOSS: "train_on_prompt train_on_inputs completion_only_loss assistant_only_loss roles_to_train",
    "nothing to set: weights are used as they are": "is_binary_loss_scale",
    _STOP: "train_on_eos train_on_eot",
    "output": "output_dir overwrite_output_dir",
    _BATCH: "per_device_train_batch_size gradient_accumulation_steps micro_batch_size auto_find_batch_size",
    "nothing to set: evaluation is packed by micro_batch_tokens": "per_device_eval_batch_size eval_batch_size",
    _PACKED: "packing packing_strategy neat_packing sample_packing eval_packing eval_sample_packing padding_free "
    "group_by_length pad_to_sequence_len pad_to_multiple_of",
    "num_train_epochs": "num_epochs epochs max_epochs",
    "learning_rate": "lr",
    "lr_scheduler_type": "lr_scheduler",
    "nothing to set: AdamW is the only optimizer": "optim optimizer",
    _ADAPTER: "finetuning_type tuner_type train_type sft_type adapter use_peft",
    "tuner: dora": "use_dora peft_use_dora",
    "lora_rank": "lora_r",
    "lora_target_modules": "lora_target target_modules lora_target_linear",
    "lora_modules_to_save": "modules_to_save additional_target",
    "load_in_4bit (8 bits are not offered)": "load_in_8bit",
    "load_in_4bit": "quantization_bit quant_bits quant_method quantization_method",
    "bnb_4bit_quant_type": "quantization_type",
    "bnb_4bit_use_double_quant": "double_quantization use_bnb_nested_quant",
    "precision": "bf16 fp16 tf32 torch_dtype dtype pure_bf16 bnb_4bit_compute_dtype",
    "attn_implementation": "flash_attn flash_attention sdp_attention flex_attention xformers_attention attn_impl",
    "gradient_checkpointing": "disable_gradient_checkpointing",
    "activation_offloading": "offload_activations enable_activation_offloading",
    _CHUNKED: "use_liger_kernel enable_liger_kernel use_liger liger_kernel",
    _SHARDED: "deepspeed fsdp_config fsdp_version",
    "num_proc": "dataset_num_proc dataset_processes preprocessing_num_workers",
    _LAZY: "streaming lazy_tokenize",
    "eval_steps": "eval_strategy evals_per_epoch",
    "save_steps": "save_strategy saves_per_epoch",
    "resume": "auto_resume_from_checkpoints",
    "cache": "overwrite_cache load_from_cache_file dataset_prepared_path tokenized_path",
    "metric_for_best_model": "load_best_model_at_end",
    "eval_generate": "predict_with_generate",
    "eval_max_new_tokens": "generation_max_length",
    "project": "wandb_project trackio_project",
    "run_name": "wandb_name wandb_run_name",
    "report_to": "use_wandb use_tensorboard",
    "nothing to set: metrics.jsonl has a line for every step": "logging_steps logging_strategy",
    "nothing to set: weights are always safetensors": "save_safetensors",
    "nothing to set: the command is `agentsft train`": "do_train",
    "nothing to set: fine-tuning is the only stage": "stage",
}
_NAMES = {theirs: ours for ours, names in _MEANS.items() for theirs in names.split()}


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
