"""Whoever brings a recipe of another trainer is told, of every key in it, what it is called here."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest

from agentsft.config import TrainConfig, build
from agentsft.elsewhere import called_here
from agentsft.errors import UserError

KNOWN = tuple(field.name for field in fields(TrainConfig))
RECIPES = {
    "ms-swift": """
        model_id_or_path dataset val_dataset split_dataset_ratio columns loss_scale is_binary_loss_scale agent_template
        system max_length truncation_strategy packing padding_free lazy_tokenize streaming dataset_num_proc
        load_from_cache_file tuner_type lora_rank lora_alpha lora_dropout target_modules modules_to_save torch_dtype
        attn_impl quant_method quant_bits use_liger_kernel deepspeed per_device_train_batch_size
        gradient_accumulation_steps num_train_epochs learning_rate weight_decay warmup_ratio lr_scheduler_type
        gradient_checkpointing eval_strategy eval_steps save_strategy save_steps save_total_limit logging_steps
        output_dir report_to run_name resume_from_checkpoint enable_thinking predict_with_generate
        metric_for_best_model load_best_model_at_end seed
    """,
    "LLaMA-Factory": """
        model_name_or_path trust_remote_code stage do_train finetuning_type lora_rank lora_target additional_target
        quantization_bit quantization_method double_quantization dataset dataset_dir template tool_format cutoff_len
        mask_history train_on_prompt max_samples mix_strategy interleave_probs overwrite_cache
        preprocessing_num_workers tokenized_path packing neat_packing output_dir logging_steps save_steps
        overwrite_output_dir per_device_train_batch_size gradient_accumulation_steps learning_rate num_train_epochs
        lr_scheduler_type warmup_ratio bf16 pure_bf16 flash_attn enable_liger_kernel disable_gradient_checkpointing
        val_size eval_dataset per_device_eval_batch_size eval_strategy eval_steps enable_thinking default_system
        resume_from_checkpoint report_to
    """,
    "TRL": """
        model_name_or_path dtype attn_implementation dataset_name dataset_config dataset_train_split dataset_test_split
        dataset_num_proc chat_template_path eos_token max_length truncation_mode packing packing_strategy padding_free
        eval_packing pad_to_multiple_of completion_only_loss assistant_only_loss activation_offloading use_liger_kernel
        use_peft lora_r lora_alpha lora_dropout lora_target_modules lora_modules_to_save load_in_4bit
        bnb_4bit_quant_type use_bnb_nested_quant learning_rate num_train_epochs max_steps per_device_train_batch_size
        gradient_accumulation_steps gradient_checkpointing eval_strategy eval_steps output_dir logging_steps save_steps
        report_to run_name seed bf16 optim
    """,
    "axolotl": """
        base_model datasets test_datasets val_set_size dataset_prepared_path dataset_processes sequence_len
        excess_length_strategy sample_packing eval_sample_packing pad_to_sequence_len chat_template_jinja
        train_on_inputs roles_to_train train_on_eos field_messages message_property_mappings roles adapter lora_r
        lora_alpha lora_dropout lora_target_modules lora_target_linear lora_modules_to_save load_in_4bit
        micro_batch_size gradient_accumulation_steps num_epochs optimizer lr_scheduler learning_rate weight_decay
        warmup_steps warmup_ratio bf16 tf32 flash_attention sdp_attention gradient_checkpointing logging_steps
        evals_per_epoch saves_per_epoch save_total_limit wandb_project wandb_name output_dir early_stopping_patience
        auto_resume_from_checkpoints fsdp_config deepspeed seed
    """,
}


@pytest.mark.parametrize("keys", RECIPES.values(), ids=RECIPES)
def test_every_key_of_a_peers_recipe_is_one_of_ours_or_answered_with_ours(keys: str) -> None:
    assert [key for key in keys.split() if key not in KNOWN and not called_here(key, KNOWN)] == []


@pytest.mark.parametrize(
    ("key", "ours"),
    [
        ("per_device_train_batch_size", "batch_size"),
        ("field_messages", "columns"),
        ("max_samples", "data_weights"),
        ("dataset_dir", "dataset_info.json:NAME"),
        ("lora_target_linear", "lora_target_modules"),
        ("use_liger_kernel", "nothing to set"),
    ],
)
def test_a_key_of_a_peer_in_our_recipe_is_answered_in_one_line(key: str, ours: str) -> None:
    with pytest.raises(UserError, match=rf"^r\.yaml: unknown key '{key}'\. Here this is .*{re.escape(ours)}") as error:
        build(TrainConfig, {key: 1}, "r.yaml")
    assert "\n" not in str(error.value)
