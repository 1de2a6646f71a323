"""Two ways of computing a model, compared layer by layer: what they round otherwise does not add up with the depth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from agentsft.batch.collate import MicroBatch

NOISE = 5e-2
"""How far what a layer adds to a token may lie apart, as a share of its norm, where numbers have 16 bits."""

ROUNDED = 2.0**-8
"""How far the sum may lie apart beside that, as a share of its norm: bfloat16's rounding, once on each side."""

States = list[dict[int, tuple[torch.Tensor, torch.Tensor]]]
"""For each layer the hidden state that goes into it and that comes out, float32[d], by the token's id."""


def layer_states(
    layers: Sequence[nn.Module], batch: MicroBatch, run: Callable[[], Any], given: States | None = None
) -> States:
    """What goes into each layer and comes out of it while `run()` computes `batch`, whose tokens have ids of their own.

    `given` replaces what goes in. Padding has the id 0 and is left as it is.
    """
    ids = batch.input_ids.flatten()
    places = ids.nonzero().flatten()
    tokens = ids[places].tolist()
    states: States = []

    def before(layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        hidden = args[0]
        if given is not None:
            wanted = torch.stack([given[len(states)][token][0] for token in tokens]).to(hidden.dtype)
            hidden = hidden.flatten(0, 1).index_copy(0, places, wanted).view_as(hidden)
        states.append({token: (state, state) for token, state in _by_token(tokens, places, hidden)})
        return (hidden, *args[1:]), named

    def behind(layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        states[-1] |= {token: (states[-1][token][0], state) for token, state in _by_token(tokens, places, hidden)}

    hooks = [layer.register_forward_pre_hook(before, with_kwargs=True) for layer in layers]
    hooks += [layer.register_forward_hook(behind) for layer in layers]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return states


def _by_token(tokens: list[int], places: torch.Tensor, hidden: torch.Tensor) -> Iterable[tuple[int, torch.Tensor]]:
    return zip(tokens, hidden.detach().flatten(0, 1)[places].float(), strict=True)


def merged(some: States, others: States) -> States:
    """The states of both, those of `some` where a token is in both."""
    return [other | one for one, other in zip(some, others, strict=True)]


def layers_agree(ours: States, theirs: States) -> bool:
    """Whether each layer makes the same of the same inputs, but for what 16 bits round.

    A token that sees others than it should is off by a good part of what attention adds to it.
    """
    if len(ours) != len(theirs):
        return False
    for mine, other in zip(ours, theirs, strict=True):
        entered, expected = (torch.stack([other[token][side] for token in mine]) for side in (0, 1))
        found = torch.stack([state for _, state in mine.values()])
        limit = NOISE * (expected - entered).norm(dim=-1) + ROUNDED * expected.norm(dim=-1)
        if not bool(((found - expected).norm(dim=-1) <= limit).all()):
            return False
    return True
