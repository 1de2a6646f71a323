from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import BloomConfig, LlamaConfig, MambaConfig, MistralConfig, Qwen2Config

from agentsft.train.attention import Attention, dense_mask
from agentsft.train.layout import choose_layout, mask_obstacle
from agentsft.train.probe import attention_fault
from tests.batch.trees import context, random_tree
from tests.train.tiny import SHAPE, tiny_model


def test_the_mask_shows_each_token_its_ancestors_and_itself() -> None:
    tree = random_tree(np.random.default_rng(0), 30, branching=0.3)
    mask = dense_mask(torch.from_numpy(tree.subtree_end))[0, 0].numpy()
    assert [tuple(tree.input_ids[row]) for row in mask] == [context(tree, q) for q in range(len(tree))]


@pytest.mark.parametrize(
    ("config", "obstacle"),
    [
        (LlamaConfig(**SHAPE), ""),
        (Qwen2Config(**SHAPE, use_sliding_window=False, sliding_window=8), ""),
        (
            Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=8, max_window_layers=1),
            "sliding attention over 8",
        ),
        (Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=100, max_window_layers=1), ""),
        (MistralConfig(**SHAPE, sliding_window=99), "sliding attention over 99"),
        (MistralConfig(**SHAPE, sliding_window=None), ""),
        (MambaConfig(num_hidden_layers=2), "linear attention"),
        (LlamaConfig(**SHAPE, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}), ""),
        (
            LlamaConfig(
                **SHAPE | {"max_position_embeddings": 50},
                rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
            ),
            "rotary",
        ),
    ],
)
def test_models_that_cannot_take_our_mask_are_known_by_their_configuration(config: object, obstacle: str) -> None:
    found = mask_obstacle(config, longest=100)
    assert (obstacle in found) if obstacle else not found


def test_a_window_that_is_never_reached_does_not_cost_the_tree_layout() -> None:
    layout = choose_layout(tiny_model("gemma2-wide"), 512, False, None, False)
    assert (layout.split, layout.rows, layout.notes) == (False, False, ())
    layout = choose_layout(tiny_model("gemma2-wide"), 513, False, None, False)
    assert (layout.split, layout.rows) == (True, True)
    assert "sliding attention over 512 tokens" in layout.notes[0]


def test_the_probe_finds_attention_that_does_not_follow_the_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    plain = Attention("sdpa", model.device)
    monkeypatch.setattr(plain, "arguments", lambda batch: {"attention_mask": None})
    assert "differ" in attention_fault(model, plain, "sdpa")


def test_a_model_that_no_mask_suits_is_split_with_the_reason_said() -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(BloomConfig(vocab_size=300, hidden_size=64, n_layer=2, n_head=4))
    layout = choose_layout(model, 100, False, None, False)
    assert layout.rows
    assert layout.notes[-1].startswith("Layout: split")
    layout = choose_layout(tiny_model("llama"), 100, False, "flash_attention_2", False)
    assert layout.rows
    assert "flash_attention_2" in layout.notes[-1]


def test_an_implementation_that_is_asked_for_is_taken() -> None:
    modes = [
        choose_layout(tiny_model("llama"), 100, False, name, False).attention.mode for name in (None, "sdpa", "eager")
    ]
    assert modes == ["sdpa", "sdpa", "eager"]
    assert choose_layout(tiny_model("llama"), 100, False, None, True).attention.mode == "mask"
