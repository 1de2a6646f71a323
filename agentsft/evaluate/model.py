"""The model, or adapter, that is evaluated, with the tokenizer and the contexts of its serving."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentsft.data.agent_format import AGENT_FORMATS
from agentsft.encode.load import adapter_base, load_preparer, load_tokenizer
from agentsft.encode.prepare import Preparer
from agentsft.errors import UserError
from agentsft.evaluate.settings import EvalConfig

_SAMPLES, _SAMPLE = 64, 4096


def with_saved_format(config: EvalConfig) -> tuple[EvalConfig, str]:
    """The settings with the agent format in whose words the model was trained, and a note; both as they are without.

    Training with --agent-format leaves agent_format.json beside the model, for whoever serves it.
    """
    path = Path(config.model) / "agent_format.json"
    if config.agent_format is not None or not path.is_file():
        return config, ""
    try:
        name = json.loads(path.read_text(encoding="utf-8"))["agent_format"]
    except (OSError, ValueError, KeyError, TypeError):
        name = None
    if name not in AGENT_FORMATS:
        raise UserError(f"{path}: names no known agent format; remove it, or say --agent-format.")
    return replace(config, agent_format=name), f"agent format {name}, as {path} says"


def load_contexts(config: EvalConfig) -> Preparer:
    """A preparer with the model's tokenizer and template, and what its serving knows. Raises UserError.

    An adapter's folder has the tokenizer with which it was trained; limits and stop tokens are its base's.
    """
    base = adapter_base(config.model)
    if base is None:
        return load_preparer(config)
    own = (Path(config.model) / "tokenizer_config.json").is_file()
    tokenizer = load_tokenizer(config if own else replace(config, model=base))
    return load_preparer(replace(config, model=base), tokenizer)


def load_model(config: EvalConfig) -> Any:
    """The model in eval mode on the GPU, or the CPU without one; an adapter stays beside its base, as it was trained.

    Raises UserError for what cannot be loaded, and for a precision that the device has not.
    """
    import torch

    from agentsft.train.model import resolve_precision

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    names = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    dtype = names[resolve_precision(config.precision, device)]
    base = adapter_base(config.model)
    model = _loaded(base or config.model, dtype, config.trust_remote_code, "the adapter's base " if base else "")
    if base:
        from peft import PeftModel

        try:
            model = PeftModel.from_pretrained(model, config.model)
        except Exception as error:  # damaged files make the libraries raise all kinds
            raise UserError(f"adapter {config.model}: cannot be loaded ({_line(error)}).") from None
    return model.to(device).eval()


def _loaded(path: str, dtype: Any, trust_remote_code: bool, what: str) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(path, dtype=dtype, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise UserError(f"{what}model {path}: cannot be loaded ({_line(error)}).") from None


def fingerprint(model: str) -> dict[str, str]:
    """What tells one model's weights from another's: a digest for each file of weights, of samples of it.

    4 KiB at 64 places of a file and its size: after a step of training hardly any such place is as it was. A model
    that is no folder has its name alone, and its base's files are added to an adapter's.
    """
    folder = Path(model)
    files = sorted(folder.glob("*.safetensors")) + sorted(folder.glob("*.bin")) if folder.is_dir() else []
    marks = {file.name: _digest(file) for file in files}
    base = adapter_base(model)
    return marks | ({f"base {name}": mark for name, mark in fingerprint(base).items()} if base else {})


def _digest(path: Path) -> str:
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for number in range(_SAMPLES):
            file.seek(max(0, size - _SAMPLE) * number // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE))
    return digest.hexdigest()[:16]


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
