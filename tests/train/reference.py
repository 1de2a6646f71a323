"""The same loss written with Transformers alone: one plain forward pass per path, cross-entropy, weights."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from agentsft.types import TokenTree


def reference(model: Any, trees: list[TokenTree], by_weights: bool = False) -> tuple[float, torch.Tensor]:
    """Loss and gradient (one vector, parameters by name) of an optimizer step over `trees`."""
    count = sum(float(tree.weight.sum()) if by_weights else len(tree.weight) for tree in trees)
    model.zero_grad()
    loss = 0.0
    for tree in trees:
        trained: set[int] = set()
        for leaf in (q for q in range(len(tree)) if tree.subtree_end[q] == q + 1):
            path = [k for k in range(leaf + 1) if leaf < tree.subtree_end[k]]
            targets = [j for j, source in enumerate(tree.source) if source in path and j not in trained]
            trained.update(targets)
            if not targets:
                continue
            logits = model(input_ids=torch.tensor(tree.input_ids[path])[None].long()).logits[0]
            rows = torch.tensor([path.index(int(tree.source[j])) for j in targets])
            nll = F.cross_entropy(logits[rows], torch.tensor(tree.token[targets]).long(), reduction="none")
            part = (torch.tensor(tree.weight[targets]) * nll).sum() / count
            part.backward()
            loss += float(part.detach())
    gradients = sorted((name, p.grad) for name, p in model.named_parameters() if p.requires_grad)
    vector = torch.cat([g.flatten() for _, g in gradients])
    model.zero_grad()
    return loss, vector
