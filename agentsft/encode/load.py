"""Settings to a preparer: the tokenizer, what serving knows of stopping, and the longest context."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agentsft.config import DataConfig
from agentsft.data.read import read_rows
from agentsft.encode.prepare import Preparer
from agentsft.errors import UserError
from agentsft.render.template import read_template
from agentsft.types import Example, Row

_UNBOUNDED = 10**9  # tokenizers without a limit say 1e30


def load_tokenizer(config: DataConfig) -> Any:
    """The model's fast tokenizer. Raises UserError where there is none to be had."""
    from transformers import AutoTokenizer

    if not config.model:
        raise UserError("no model: say --model FOLDER or hub name, or `model:` in the recipe.")
    try:
        return AutoTokenizer.from_pretrained(config.model, trust_remote_code=config.trust_remote_code)
    except Exception as error:  # damaged files make the libraries raise all kinds
        folder = "" if os.path.isdir(config.model) else "no such folder, and "
        words = " ".join(str(error).split())[:200]
        raise UserError(f"model {config.model!r}: {folder}its tokenizer cannot be loaded ({words}).") from None


def load_preparer(config: DataConfig, tokenizer: Any | None = None) -> Preparer:
    """A preparer as the settings describe it. Raises UserError on any of them that cannot work."""
    tokenizer = tokenizer if tokenizer is not None else load_tokenizer(config)
    return Preparer(tokenizer, **preparer_settings(config, tokenizer))


def preparer_settings(config: DataConfig, tokenizer: Any) -> dict[str, Any]:
    """What `Preparer` takes beside the tokenizer, with all that files say read. Raises UserError as it reads."""
    for token in config.stop_token:
        if token not in tokenizer.get_added_vocab():
            raise UserError(f"--stop-token {token!r} is no added token of this tokenizer.")
    return {
        "loss_scale": config.loss_scale,
        "mask_history": config.mask_history,
        "chat_template": read_template(config.chat_template) if config.chat_template else None,
        "template_kwargs": config.template_kwargs,
        "stop_tokens": [*_generation_stop_tokens(config, tokenizer), *config.stop_token],
        "control_tokens": config.control_tokens,
        "max_length": config.max_length or _longest_context(config, tokenizer),
        "overflow": config.overflow,
    }


def adapter_base(model: str) -> str | None:
    """The base model of an adapter's folder; None for any other model. Raises UserError for a damaged folder."""
    path = Path(model) / "adapter_config.json"
    if not path.is_file():
        return None
    try:
        base = json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"]
        if not isinstance(base, str) or not base:
            raise TypeError("it is no text")
        return base
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: no base_model_name_or_path can be read ({error}); mend it.") from None


def load_rows(config: DataConfig, paths: list[str] | None = None, unread: Counter[str] | None = None) -> Iterator[Row]:
    """The rows of the settings' data, or of `paths`. `unread` counts the messages' fields that nothing reads."""
    chosen = config.data if paths is None else paths
    return read_rows(chosen, config.data_format, config.reasoning, config.agent_format, unread, config.columns)


def prepare_all(config: DataConfig, preparer: Preparer, paths: list[str] | None = None) -> Iterator[Example]:
    """Every row of the settings' data, or of `paths`, as an example."""
    return preparer.prepare(load_rows(config, paths))


def _generation_stop_tokens(config: DataConfig, tokenizer: Any) -> list[str]:
    """The eos tokens of the model's generation config, which servers stop at; an adapter's are its base's."""
    from transformers import GenerationConfig

    try:
        ids = GenerationConfig.from_pretrained(adapter_base(config.model) or config.model).eos_token_id
    except Exception:  # there is none, or it is damaged
        return []
    known = (n for n in (ids if isinstance(ids, list) else [ids]) if type(n) is int and 0 <= n < len(tokenizer))
    return [tokenizer.convert_ids_to_tokens(number) for number in known]


def _longest_context(config: DataConfig, tokenizer: Any) -> int | None:
    """The smaller of the tokenizer's and the model's own limit, where they say one."""
    from transformers import AutoConfig

    limits = [tokenizer.model_max_length] if tokenizer.model_max_length < _UNBOUNDED else []
    try:
        weights = adapter_base(config.model) or config.model
        model = AutoConfig.from_pretrained(weights, trust_remote_code=config.trust_remote_code)
        limits.append(getattr(model.get_text_config(), "max_position_embeddings", None))
    except Exception:  # there is none, or it is damaged: preview and check need none, and training says so
        return limits[0] if limits else None
    return min((limit for limit in limits if isinstance(limit, int) and limit > 0), default=None)
