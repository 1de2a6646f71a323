"""The correctness gate: is the loss of agentsft's first step, and its gradient, what plain Transformers computes?

python -m benchmarks.gate reference --data FILE... --model FOLDER --loss-scale react --out FOLDER

computes a step of all rows of the files in float32, without trees, packing, autocast, fused loss or compilation: each
trained message alone after the prompt that is served before it, the loss as the README states it. `verdict` compares.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agentsft.config import DataConfig
from agentsft.encode.load import load_preparer, load_rows, load_tokenizer
from agentsft.types import Turn
from benchmarks.observed import chosen_gradients


@dataclass(frozen=True)
class Tolerance:
    """Relative differences allowed in the loss, the gradient's norm, and the gradient of a matrix as a vector.

    Where Transformers' own bfloat16 autocast differs by more from float32, `BY_ITSELF` times that is allowed.
    """

    loss: float
    norm: float
    gradient: float


TOLERANCES = {"cuda": Tolerance(2e-3, 2e-2, 5e-2), "cpu": Tolerance(1e-5, 1e-4, 1e-3)}
"""bfloat16 on CUDA, float32 on a CPU."""

BY_ITSELF = 3.0

Served = tuple[list[int], list[int], list[float]]
Result = tuple[float, float, dict[str, torch.Tensor]]


def token_weights(tokenizer: Any, turn: Turn) -> Served:
    """Ids of a turn's prompt, ids of its response with the stop token, and the weight of each of the latter.

    A token weighs what the heaviest of its characters does.
    """
    prompt = tokenizer(turn.prompt, add_special_tokens=False)["input_ids"]
    characters = np.zeros(len(turn.response) + len(turn.suffix))
    for span in turn.spans:
        characters[span.start : span.end] = span.weight
    characters[len(turn.response) :] = turn.suffix_weight
    coded = tokenizer(turn.response + turn.suffix, add_special_tokens=False, return_offsets_mapping=True)
    weights = [float(characters[start : max(end, start + 1)].max()) for start, end in coded["offset_mapping"]]
    return prompt, coded["input_ids"], weights


def reference(files: list[str], model_folder: str, loss_scale: str, device: str, out: Path) -> None:
    """Writes loss, gradient norm, number of trained tokens, and a few gradients to `out`."""
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    config = DataConfig(model=model_folder, data=files, loss_scale=loss_scale)
    tokenizer = load_tokenizer(config)
    preparer = load_preparer(config, tokenizer)
    examples = list(preparer.prepare(load_rows(config)))
    turns = [token_weights(tokenizer, turn) for example in examples for turn in example.turns]
    items = sum(sum(weight > 0 for weight in weights) for *_, weights in turns)

    torch.set_float32_matmul_precision("highest")
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32, attn_implementation="sdpa")
    model = model.to(device).train()
    loss, norm, gradients = compute(model, turns, items, autocast=False)
    by_itself = {"loss": 0.0, "norm": 0.0, "gradient": dict.fromkeys(gradients, 0.0)}
    if device == "cuda":
        rounded = compute(model, turns, items, autocast=True)
        by_itself = differences(rounded, (loss, norm, gradients))
    out.mkdir(parents=True, exist_ok=True)
    save_file(gradients, str(out / "gradients.safetensors"))
    facts = {"loss": loss, "grad_norm": norm, "items": items, "turns": len(turns), "rows": len(examples)}
    (out / "reference.json").write_text(json.dumps(facts | {"by_itself": by_itself}), encoding="utf-8")
    print(json.dumps(facts))


def compute(model: Any, turns: list[Served], items: int, autocast: bool) -> Result:
    """Loss, gradient norm and chosen gradients of one step, turn by turn."""
    model.zero_grad()
    device, total = model.device, 0.0
    for prompt, response, weights in turns:
        ids = torch.tensor([prompt + response], device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            logits = model(input_ids=ids, logits_to_keep=len(response) + 1, use_cache=False).logits[0, :-1]
        nll = torch.nn.functional.cross_entropy(logits.float(), ids[0, -len(response) :], reduction="none")
        loss = (torch.tensor(weights, device=device) * nll).sum() / items
        loss.backward()
        total += loss.item()
    norm = torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]))
    return total, float(norm), chosen_gradients(model)


def differences(ours: Result, theirs: Result) -> dict[str, Any]:
    """How far `ours` is from `theirs`, relatively: loss, norm, and each of the chosen gradients."""
    gradients = {name: float((ours[2][name] - theirs[2][name]).norm() / theirs[2][name].norm()) for name in theirs[2]}
    return {"loss": abs(ours[0] / theirs[0] - 1), "norm": abs(ours[1] / theirs[1] - 1), "gradient": gradients}


def verdict(out: Path, step: dict[str, Any], gradients: Path, tolerance: Tolerance) -> tuple[bool, dict[str, Any]]:
    """Whether agentsft's first `step` (its row of metrics) and its `gradients` agree with what `reference` wrote.

    Beside that the largest differences, what is allowed, and the matrix that comes closest to its limit.
    """
    from safetensors.torch import load_file

    facts = json.loads((out / "reference.json").read_text(encoding="utf-8"))
    theirs = (facts["loss"], facts["grad_norm"], load_file(out / "gradients.safetensors"))
    found = differences((step["loss"], step["grad_norm"], load_file(gradients)), theirs)
    itself = facts["by_itself"]
    allowed = {name: max(getattr(tolerance, name), BY_ITSELF * itself[name]) for name in ("loss", "norm")}
    matrices = {name: max(tolerance.gradient, BY_ITSELF * by) for name, by in itself["gradient"].items()}
    worst = max(matrices, key=lambda name: found["gradient"][name] / matrices[name])
    items = step["num_items_in_batch"] - facts["items"]
    passed = items == 0 and all(found[name] <= allowed[name] for name in allowed)
    passed = passed and all(found["gradient"][name] <= limit for name, limit in matrices.items())
    return passed, {
        "items": items,
        **{name: found[name] for name in allowed},
        "gradient": found["gradient"][worst],
        "matrix": worst,
        "allowed": allowed | {"gradient": matrices[worst]},
        "by_itself": {name: itself[name] for name in allowed} | {"gradient": itself["gradient"][worst]},
        "turns": facts["turns"],
        "rows": facts["rows"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("reference",))
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--loss-scale", default="default")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    reference(options.data, options.model, options.loss_scale, options.device, options.out)


if __name__ == "__main__":
    main()
