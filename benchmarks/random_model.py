"""A model of a known shape with random weights, and a real tokenizer, as a folder that `agentsft train` takes.

python benchmarks/random_model.py --shape qwen3-1.7b --tokenizer FOLDER --out FOLDER

`--config-only` writes no weights, which is all that `agentsft plan` needs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

SHAPES = {
    "tiny": (64, 128, 2, 2, 1, True),
    "qwen3-0.6b": (1024, 3072, 28, 16, 8, True),
    "qwen3-1.7b": (2048, 6144, 28, 16, 8, True),
    "qwen3-4b": (2560, 9728, 36, 32, 8, True),
    "qwen3-8b": (4096, 12288, 36, 32, 8, False),
    "qwen3-14b": (5120, 17408, 40, 40, 8, False),
    "qwen3-32b": (5120, 25600, 64, 64, 8, False),
}
"""hidden_size, intermediate_size, layers, query heads, key heads, whether the embeddings are tied."""


def build(
    shape: str, tokenizer: Path, out: Path, layers: int | None = None, context: int = 40960, weights: bool = True
) -> None:
    """Write config, bfloat16 weights (seed 0) and tokenizer to `out`; with `layers`, so many layers of the shape."""
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    hidden, intermediate, all_layers, heads, key_heads, tied = SHAPES[shape]
    config = Qwen3Config(
        vocab_size=151936,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers or all_layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        head_dim=128,
        max_position_embeddings=context,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        tie_word_embeddings=tied,
        dtype="bfloat16",
    )
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(out)
    if not weights:
        config.save_pretrained(out)
        return
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(device):
        model = Qwen3ForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="qwen3-1.7b")
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--layers", type=int, help="so many layers of the shape")
    parser.add_argument("--context", type=int, default=40960, help="max_position_embeddings")
    parser.add_argument("--config-only", action="store_true")
    given = parser.parse_args()
    build(given.shape, given.tokenizer, given.out, given.layers, given.context, not given.config_only)
