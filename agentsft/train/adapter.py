"""Merging a LoRA or DoRA adapter into its base model, and proving that the merged model computes the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from agentsft.config import TrainConfig
from agentsft.encode.load import adapter_base
from agentsft.errors import UserError
from agentsft.train.quantize import COMPUTE, dequantized, is_quantized, loading_arguments, settle
from agentsft.train.rounding import round_weights
from agentsft.train.saving import save_model

TOLERANCE = 1e-4
"""Largest difference of a logit in float32, as a share of the largest logit's size."""
MOST_KL = 0.02
"""Nats a token that rounding to the saved dtype may cost on average."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Merged model against base with adapter, over all tokens of the sample.

    `largest` is the largest difference of a logit as a share of the largest logit's size, `kl` the mean
    Kullback-Leibler divergence of the merged model's distribution, in nats a token, `same_top` the share of tokens
    with the same likeliest successor.
    """

    tokens: int
    largest: float
    kl: float
    same_top: float


def base_of(adapter: str) -> str:
    """The base model that an adapter's folder names. Raises UserError where it is no folder of an adapter."""
    base = adapter_base(adapter)
    if base is None or not (Path(adapter) / "adapter_model.safetensors").is_file():
        raise UserError(f"{adapter}: no adapter_model.safetensors is there; give the output folder of a LoRA run.")
    return base


def merge_adapter(
    adapter: str,
    base: str,
    output: Path,
    tokenizer: Any,
    samples: Sequence[Sequence[int]],
    dtype: str = "auto",
    trust_remote_code: bool = False,
    run: TrainConfig | None = None,
) -> tuple[Difference, Difference, str]:
    """Writes `base` with `adapter` merged into it to `output`, with `tokenizer`.

    Where `run`, the settings of the adapter's run with its precision resolved, has load_in_4bit, the base is quantised
    as it was there and then made plain again: the adapter was trained upon those very weights. Merging is done in
    float32; `dtype` (auto: the base's own) is that of the saved weights. `samples` are token ids on which models are
    compared: first in float32, where nothing but the order of sums may differ, then the saved folder as it is loaded
    again, which rounding to `dtype` changes a little. Gives both differences and the dtype's name. Raises UserError
    where a model cannot be loaded or written or differs by more than `TOLERANCE` or `MOST_KL`;
    nothing is left in `output` in the latter case.
    """
    from peft import PeftModel

    device = device_for(base, trust_remote_code)
    model = _base(base, trust_remote_code, run, device)
    try:
        adapted = PeftModel.from_pretrained(model, adapter).eval()
    except Exception as error:  # damaged files make the libraries raise all kinds
        raise UserError(f"adapter {adapter}: does not fit base {base} ({_line(error)}); say --model BASE.") from None
    expected = _logits(adapted, samples)
    try:
        merged = adapted.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise UserError(f"adapter {adapter}: cannot be merged ({_line(error)}).") from None
    exact = _difference(expected, _logits(merged, samples))
    if not exact.largest <= TOLERANCE:
        raise UserError(
            f"{adapter}: merged and adapted model differ by {exact.largest:.1e} of the largest logit, more than "
            f"{TOLERANCE:g}; nothing is written."
        )
    saved_as = _saved_dtype(base, dtype, trust_remote_code)
    if saved_as == _saved_dtype(base, "auto", trust_remote_code) and not (run and run.load_in_4bit):
        round_weights(merged, saved_as, 0)  # other bases lie between its values: the nearest are right on average
    try:
        output.mkdir(parents=True, exist_ok=True)
        save_model(merged.to(saved_as), tokenizer, output)
    except OSError as error:
        raise UserError(f"{output}: the merged model cannot be written ({_line(error)}); make room.") from None
    del model, adapted, merged
    loaded = _load(str(output), saved_as, trust_remote_code).to(device)
    rounded = _difference(expected, _logits(loaded, samples))
    name = str(saved_as).removeprefix("torch.")
    if not rounded.kl <= MOST_KL:
        (output / "config.json").unlink(missing_ok=True)  # without it the folder is no model
        raise UserError(
            f"{output}: rounding the merged weights to {name} changes the model by {rounded.kl:.3f} nats a token, more "
            f"than {MOST_KL:g}; say --dtype float32."
        )
    return exact, rounded, name


def device_for(path: str, trust_remote_code: bool) -> torch.device:
    """The GPU where its free memory holds the model in float32 and a quarter more, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise UserError(f"model {path}: cannot be loaded ({_line(error)}).") from None
    needed = 1.25 * 4 * sum(parameter.numel() for parameter in model.parameters())
    return torch.device("cuda" if needed <= torch.cuda.mem_get_info()[0] else "cpu")


def _base(path: str, trust_remote_code: bool, run: TrainConfig | None, device: torch.device) -> Any:
    """The base in float32 on `device`, from 4-bit weights where the run had such, or where it is stored so."""
    dtype, more = torch.float32, {}
    if run is not None and run.load_in_4bit:
        dtype, more = COMPUTE[run.precision], loading_arguments(run, run.precision, device)
    model = _load(path, dtype, trust_remote_code, more)
    return dequantized(settle(model), torch.float32) if is_quantized(model) else model.to(device)


def _load(path: str, dtype: torch.dtype, trust_remote_code: bool, more: dict[str, Any] | None = None) -> Any:
    more = {"dtype": dtype, "trust_remote_code": trust_remote_code, **(more or {})}
    try:
        return AutoModelForCausalLM.from_pretrained(path, **more).eval()
    except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
        raise UserError(f"model {path}: cannot be loaded ({_line(error)}).") from None


def _saved_dtype(base: str, dtype: str, trust_remote_code: bool) -> torch.dtype:
    if dtype != "auto":
        return getattr(torch, dtype)
    published = AutoConfig.from_pretrained(base, trust_remote_code=trust_remote_code)
    return getattr(published, "dtype", None) or torch.float32


@torch.no_grad()
def _logits(model: Any, samples: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """Logits [length, vocab] of each sample, float32, on the host."""
    batches = (torch.tensor([list(ids)], device=model.device) for ids in samples)
    return [model(input_ids=ids, use_cache=False).logits[0].float().cpu() for ids in batches]


def _difference(expected: list[torch.Tensor], found: list[torch.Tensor]) -> Difference:
    largest, scale, kl, same, tokens = 0.0, 0.0, 0.0, 0, 0
    for a, b in zip(expected, found, strict=True):
        largest = max(largest, float((a - b).abs().max()))
        scale = max(scale, float(a.abs().max()))
        p, q = a.log_softmax(-1), b.log_softmax(-1)
        kl += float((p.exp() * (p - q)).sum())
        same += int((a.argmax(-1) == b.argmax(-1)).sum())
        tokens += len(a)
    return Difference(tokens, largest / max(scale, 1e-30), max(kl, 0.0) / max(tokens, 1), same / max(tokens, 1))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
