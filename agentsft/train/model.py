"""Loading the model that is trained: weights, adapters, gradient checkpointing, compiled layers."""

from __future__ import annotations

import pickle
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from agentsft.config import TrainConfig, check_together
from agentsft.errors import UserError
from agentsft.train.module import base_model
from agentsft.train.quantize import is_quantized, loading_arguments, settle, size


def resolve_precision(precision: str, device: torch.device) -> str:
    """fp32, bf16 or fp16. Raises UserError where the device cannot compute in it."""
    bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "auto":
        return "bf16" if bf16 else "fp32"
    if precision == "bf16" and device.type == "cuda" and not bf16:
        raise UserError(f"precision: {torch.cuda.get_device_name(device)} has no bfloat16; use fp16 or fp32.")
    if precision == "fp16" and device.type != "cuda":
        raise UserError(f"precision: fp16 needs a GPU, not {device.type}; use bf16 or fp32.")
    return precision


def load_model(
    config: TrainConfig,
    device: torch.device,
    precision: str,
    checkpoint: Path | None = None,
    place: torch.device | None = None,
) -> Any:
    """The model on `device`, ready to train; with `checkpoint`, its weights (or adapter) are those saved there.

    `place` is where its weights are put instead; on the meta device it has shapes and no numbers, and nothing is read.

    Weights are float32, so that small updates are not lost; a frozen base under an adapter is bfloat16 where the
    computation is, and its linear layers have 4 bits under load_in_4bit. Where computation is in bfloat16 the residual
    stream is bfloat16, as it is when the model is served. Raises UserError when model, checkpoint or adapter settings
    do not fit.
    """
    check_together(config)
    full = config.tuner == "full"
    dtype = torch.bfloat16 if not full and precision == "bf16" and device.type == "cuda" else torch.float32
    quantization = loading_arguments(config, precision, device)
    empty = place is not None and place.type == "meta"
    if empty:
        model = _from_config(config, dtype)
    else:
        model = _from_pretrained(config, checkpoint if full and checkpoint else config.model, dtype, quantization)
    model = settle(model) if is_quantized(model) else model.to(place or device)
    if full and is_quantized(model):
        raise UserError(f"model {config.model}: its weights are quantised and cannot be trained; set tuner: lora.")
    if precision == "bf16":
        model.get_input_embeddings().register_forward_hook(_in_bfloat16)
    if not full:
        with torch.device("meta") if empty else nullcontext():
            model = with_adapter(config, model, None if empty else checkpoint)
    if config.gradient_checkpointing:
        checkpoint_activations(base_model(model))
    return model.train()


def _in_bfloat16(module: nn.Module, inputs: Any, embedded: torch.Tensor) -> torch.Tensor:
    # Autocast would leave the sums of all layers in the float32 of the embeddings: twice the memory and traffic.
    return embedded.bfloat16() if torch.is_autocast_enabled(embedded.device.type) else embedded


def checkpoint_activations(model: Any) -> None:
    """Turns gradient checkpointing on. Raises UserError where the model has none."""
    # Transformers 5.23 renamed the method and warns about the old name.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    try:
        enable({"use_reentrant": False})
    except ValueError as error:
        raise UserError(f"gradient_checkpointing: {error}") from error


def _from_pretrained(config: TrainConfig, path: str | Path, dtype: torch.dtype, more: dict[str, Any]) -> Any:
    requested = config.attn_implementation if config.attn_implementation != "flex_attention" else None
    try:
        return AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, attn_implementation=requested, trust_remote_code=config.trust_remote_code, **more
        )
    except (OSError, ValueError, ImportError, KeyError, RuntimeError, pickle.UnpicklingError) as error:
        raise UserError(f"model {path}: cannot be loaded ({' '.join(str(error).split())[:500]})") from error


def _from_config(config: TrainConfig, dtype: torch.dtype) -> Any:
    requested = config.attn_implementation if config.attn_implementation != "flex_attention" else None
    try:
        published = AutoConfig.from_pretrained(config.model, trust_remote_code=config.trust_remote_code)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(
                published, dtype=dtype, attn_implementation=requested, trust_remote_code=config.trust_remote_code
            )
    except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
        raise UserError(f"model {config.model}: cannot be made ({' '.join(str(error).split())[:500]})") from error


def with_adapter(config: TrainConfig, model: Any, checkpoint: Path | None) -> Any:
    """The model with a new adapter, or with that of a checkpoint. Raises UserError for settings that do not fit it."""
    from peft import LoraConfig, PeftModel, get_peft_model

    if checkpoint:
        return PeftModel.from_pretrained(model, str(checkpoint), is_trainable=True)
    targets = config.lora_target_modules
    embeddings = {name.split(".")[-1] for name in targets + config.lora_modules_to_save} & {"embed_tokens", "lm_head"}
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        use_dora=config.tuner == "dora",
        target_modules=targets[0] if targets == ["all-linear"] else targets,
        modules_to_save=config.lora_modules_to_save or None,
        ensure_weight_tying=bool(embeddings) and model.config.get_text_config().tie_word_embeddings,
    )
    torch.manual_seed(config.seed)
    try:
        return get_peft_model(model, lora)
    except (ValueError, RuntimeError) as error:  # RuntimeError: a quantised module to be trained in full
        raise UserError(f"lora_target_modules, lora_modules_to_save: {' '.join(str(error).split())}") from error


def decoder_layers(model: Any) -> nn.ModuleList | None:
    """The decoder's blocks: its longest list of modules, or None where it has none."""
    lists = [module for module in base_model(model).get_decoder().modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=len, default=None)


def parameter_counts(model: Any) -> tuple[int, int]:
    """Trainable parameters and all parameters."""
    counts = [(size(p), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trained in counts if trained), sum(n for n, _ in counts)
