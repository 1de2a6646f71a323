"""Attention on token trees: one mask rule, `visible`, carried out by flex attention, SDPA or an explicit mask."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from agentsft.batch.blocks import FLEX_BLOCK, OF_KEYS, OF_QUERIES, lists_of
from agentsft.batch.collate import MicroBatch
from agentsft.train import flash

NAME = "agentsft"
"""The name under which `tree_attention` is registered with Transformers."""


def visible(q: torch.Tensor, k: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
    """Whether token q sees token k: k is q itself or one of its ancestors. Any shape, bool.

    `q` and `k` are depth-first indices, `end` is the subtree_end of k.
    """
    return (k <= q) & (q < end)


def dense_mask(subtree_end: torch.Tensor) -> torch.Tensor:
    """`visible` for all pairs of n tokens in depth-first order: bool[1, 1, n, n], queries before keys."""
    index = torch.arange(len(subtree_end), device=subtree_end.device)
    return visible(index[:, None], index[None, :], subtree_end[None, :])[None, None]


class Attention:
    """Gives a decoder the arguments that make it attend as a micro-batch says.

    `mode` is one of
    - `flex`: flex attention with a block mask (CUDA);
    - `sdpa`: SDPA on each tree by itself, causal for chains, so that no pair between trees is ever computed;
    - `mask`: SDPA with one boolean mask for the whole pack, for compiled layers without flex attention;
    - `eager`: the same as an additive mask, for models that know nothing else;
    - `rows`: the model's own attention on padded rows, for models that can take no mask.

    With `flash`, `flex` computes through FlashAttention-4 where the numbers are of 16 bits; `backward_queries` is how
    many queries a block has in its backward pass.
    """

    def __init__(self, mode: str, device: torch.device) -> None:
        self.mode = mode
        self.flash = False
        self.backward_queries = FLEX_BLOCK
        self._block_mask = _BlockMasks(device) if mode == "flex" else None

    def reserve(self, tokens: int) -> None:
        """Makes room for packs of so many tokens; a longer one has the mask's function compiled anew."""
        if self._block_mask is not None:
            self._block_mask.reserve(tokens)

    def arguments(self, batch: MicroBatch) -> dict[str, Any]:
        """Keyword arguments for the decoder, beside input_ids and position_ids."""
        if batch.subtree_end is None:
            return {"attention_mask": batch.attention_mask}
        if self._block_mask is not None:
            tree = {"tree_lists": flash.tree_lists(batch, self.backward_queries)} if self.flash else {}
            return {"attention_mask": self._block_mask(batch)} | tree
        if len(batch.spans) <= 1 and all(chain for *_, chain in batch.spans):
            return {"attention_mask": None}
        if self.mode == "sdpa":
            return {"attention_mask": None, "tree_spans": _spans(batch.subtree_end, batch.spans)}
        mask = dense_mask(batch.subtree_end)
        if self.mode == "eager":
            mask = torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, torch.finfo(torch.float32).min)
        return {"attention_mask": mask}


def whole_blocks(query: torch.Tensor) -> None:
    """Tells the compiler that the length of `query` [b, heads, n, d] is whole blocks.

    Where lengths are symbolic, flex attention's kernels would otherwise check the bounds of every block.
    """
    torch._check(query.shape[2] % FLEX_BLOCK == 0)


def _spans(
    subtree_end: torch.Tensor, spans: tuple[tuple[int, int, bool], ...]
) -> tuple[tuple[int, torch.Tensor | None], ...]:
    """Length of each tree and, where it branches, its mask. Made once a micro-batch, used by every layer."""
    return tuple((e - s, None if chain else dense_mask(subtree_end[s:e] - s)) for s, e, chain in spans)


class _BlockMasks:
    """Block masks whose function reads buffers that stay: one that closed over new tensors would be compiled anew."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.reserve(0)

    def __call__(self, batch: MicroBatch) -> BlockMask:
        assert batch.dfs is not None
        assert batch.subtree_end is not None
        assert batch.blocks is not None
        n = len(batch.dfs)
        if n > len(self.end):
            self.reserve(n)
        self.dfs[:n].copy_(batch.dfs)
        self.end[:n].copy_(batch.subtree_end)
        lists = [*lists_of(batch.blocks, n, OF_QUERIES), *lists_of(batch.blocks, n, OF_KEYS)]
        arguments: list[Any] = [(n, n), *lists, (FLEX_BLOCK, FLEX_BLOCK), self.mask_mod]
        return BlockMask(*arguments)

    def reserve(self, n: int) -> None:
        self.dfs = dfs = torch.zeros(n, dtype=torch.int32, device=self.device)
        self.end = end = torch.zeros(n, dtype=torch.int32, device=self.device)

        def mask_mod(b: torch.Tensor, h: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
            return visible(dfs[q], dfs[k], end[k])

        self.mask_mod = mask_mod


def tree_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | BlockMask | None,
    tree_spans: tuple[tuple[int, torch.Tensor | None], ...] = (),
    tree_lists: tuple[torch.Tensor, ...] | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention of one layer as Transformers calls it. query, key, value [b, heads, n, d]; gives [b, n, heads, d]."""
    if isinstance(attention_mask, BlockMask):
        # Under autocast the rotary embedding leaves query and key in float32; flex attention wants one dtype.
        query, key = query.to(value.dtype), key.to(value.dtype)
        plain = all(kwargs.get(name) is None for name in ("softcap", "s_aux", "position_bias"))
        if tree_lists is not None and plain and value.dtype != torch.float32:
            scale = kwargs.get("scaling") or query.shape[-1] ** -0.5
            return flash.flash_tree_attention(query, key, value, tree_lists, scale), None
        whole_blocks(query)
        return flex_attention_forward(module, query, key, value, attention_mask, **kwargs)
    if not tree_spans:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    lengths = [length for length, _ in tree_spans]
    trees = zip(*(tensor.split(lengths, dim=2) for tensor in (query, key, value)), tree_spans, strict=True)
    outputs = [sdpa_attention_forward(module, q, k, v, mask, **kwargs)[0] for q, k, v, (_, mask) in trees]
    return torch.cat(outputs, dim=1), None


AttentionInterface.register(NAME, tree_attention)
