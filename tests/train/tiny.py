"""Tiny random models, a tokenizer in memory, and one training step without the rest of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from tokenizers import Tokenizer, models
from torch.distributed.tensor import DTensor
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GraniteConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from agentsft.batch.pack import Planner
from agentsft.config import TrainConfig
from agentsft.train.accelerated import ddp_settings, prepared
from agentsft.train.flops import Flops
from agentsft.train.launch import Sharding
from agentsft.train.layout import choose_layout
from agentsft.train.loop import Run, backward
from agentsft.train.module import LossModule, base_model
from agentsft.train.shard import shard
from agentsft.train.tail import find_tail
from agentsft.train.vocabulary import find_vocabulary
from agentsft.types import Example, TokenTree
from tests.batch.trees import VOCAB

SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "initializer_range": 0.1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

CONFIGS: dict[str, Any] = {
    "llama": lambda: LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "qwen3": lambda: Qwen3Config(**SHAPE, head_dim=16, tie_word_embeddings=False),
    "cohere": lambda: CohereConfig(**SHAPE, logit_scale=0.5),
    "granite": lambda: GraniteConfig(**SHAPE, logits_scaling=4.0),
    "gemma2": lambda: Gemma2Config(**SHAPE, head_dim=16, sliding_window=8, final_logit_softcapping=2.0),
    "gemma2-wide": lambda: Gemma2Config(**SHAPE, head_dim=16, sliding_window=512, final_logit_softcapping=2.0),
    "gemma3": lambda: Gemma3TextConfig(**SHAPE, head_dim=16, sliding_window=8),
}


def tiny_model(name: str, seed: int = 0) -> Any:
    """A random float32 model whose attention matters: its hidden states differ much where a mask is wrong."""
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(CONFIGS[name]()).train()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    words = models.WordLevel({f"w{i}": i for i in range(VOCAB)}, unk_token="w0")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), eos_token="w2")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    return tokenizer


def examples(trees: list[TokenTree]) -> list[Example]:
    return [Example(index=i, source=f"rows.jsonl:{i + 1}", tree=tree) for i, tree in enumerate(trees)]


def saved_model(name: str, folder: Path) -> str:
    tiny_model(name).save_pretrained(folder)
    return str(folder)


def step_run(
    model: Any,
    trees: list[TokenTree],
    budget: int = 4096,
    fill: int | None = None,
    sharding: Sharding | None = None,
    **config: Any,
) -> Run:
    """A run whose step 0 trains all of `trees` with `model`, in packs of at most `fill` tokens."""
    settings = TrainConfig(batch_size=len(trees), micro_batch_tokens=budget, learning_rate=0.0, **config)
    longest = max(int(tree.position_ids.max()) + 1 for tree in trees)
    layout = choose_layout(base_model(model), longest, settings.layout == "split", settings.attn_implementation, False)
    share = settings.share_prefixes is not False and not layout.split
    AcceleratorState._reset_state()  # another test may have left another precision
    accelerator = Accelerator(mixed_precision="no", kwargs_handlers=[ddp_settings()])
    tail, vocabulary = find_tail(base_model(model)), None if sharding else find_vocabulary(base_model(model))
    module = LossModule(model, layout.attention, tail=tail, vocabulary=vocabulary)
    if sharding:
        shard(module, sharding, accelerator.device, "fp32")
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=0.0)
    module, optimizer = prepared(accelerator, module, optimizer, sharding)
    return Run(
        config=settings,
        accelerator=accelerator,
        module=module,
        optimizer=optimizer,
        trees=trees,
        planner=Planner(budget, fill or budget, accelerator.num_processes, layout.split, layout.rows, share=share),
        multiple=1,
        total_steps=1,
        flops=Flops(model),
        peak=None,
        sharded=sharding is not None,
        sync_each=bool(settings.sync_each_batch),
    )


def loss_and_gradient(run: Run) -> tuple[float, torch.Tensor]:
    """Loss and gradient (one vector) of the run's step 0, over all ranks."""
    plan = run.plan(0)
    sums = run.accelerator.reduce(backward(run, plan), reduction="sum")
    named = sorted((name.removeprefix("module."), p) for name, p in run.module.named_parameters() if p.requires_grad)
    gradients = [torch.zeros(p.shape) if p.grad is None else p.grad for _, p in named]
    gradient = torch.cat([(g.full_tensor() if isinstance(g, DTensor) else g).flatten() for g in gradients])
    run.zero_grad()
    return float(sums[0]) / run.denominator(plan), gradient
