"""Gradients of weights, in float32, added up over a step's passes by the matrix products that give them.

Autograd adds a pass's gradients to those of the passes before in a pass of its own over all weights: 16 bytes a
parameter are written and read where the product itself could have added its result, with 8.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import fx, nn

_SUMS: dict[int, torch.Tensor] = {}
"""Gradients of the passes before, by the address of the weight, while a pass runs."""
_GIVEN: set[int] = set()
"""Addresses of the weights whose gradients products have given."""


@contextmanager
def adding_up(weights: Iterable[nn.Parameter]) -> Iterator[None]:
    """Around a backward pass: its products add to the gradients that `weights` have already.

    They find them here and give them back, with their own added, as the gradients of the pass. What comes another way
    is added to them before autograd and DDP see it. Weights whose gradients no product gave in a pass before are left
    to autograd.
    """
    had = [weight for weight in weights if weight.grad is not None and weight.data_ptr() in _GIVEN]
    hooks = [weight.register_hook(partial(_with_sum, weight.data_ptr())) for weight in had]
    for weight in had:
        assert weight.grad is not None
        _SUMS[weight.data_ptr()], weight.grad = weight.grad, None
    try:
        yield
    finally:
        for weight, hook in zip(had, hooks, strict=True):
            hook.remove()
            left = _SUMS.pop(weight.data_ptr(), None)
            if left is not None:  # the pass failed, or did not use the weight
                weight.grad = left


def _with_sum(address: int, gradient: torch.Tensor) -> torch.Tensor | None:
    total = _SUMS.pop(address, None)
    return None if total is None else total.add_(gradient).detach()


@torch.library.custom_op("agentsft::weight_gradient", mutates_args=())
def _weight_gradient(weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a @ b in float32, the gradient of `weight`; with what `adding_up` keeps for it, the sum of both."""
    _GIVEN.add(weight.data_ptr())
    total = _SUMS.pop(weight.data_ptr(), None)
    if a.device.type != "cuda":
        product = a.float() @ b.float()
        total = product if total is None else total.add_(product)
    elif total is None:
        total = torch.mm(a, b, out_dtype=torch.float32)
    else:
        torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
    return total.detach()  # DDP holds its own reference, and autograd would copy what others hold


@_weight_gradient.register_fake
def _(weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return weight.new_empty(weight.shape)


def give_gradients(graph: fx.Graph, device: str = "cuda") -> None:
    """Puts `_weight_gradient` where a graph of forward and backward pass gives the float32 gradient of a weight.

    By itself torch rounds the product to 16 bits and casts it in one more pass over all weights. The last results of
    such a graph are the gradients of its inputs, one for each.
    """
    inputs = [node for node in graph.find_nodes(op="placeholder") if not node.name.startswith("tangents")]
    results: Any = graph.output_node().args[0]
    if isinstance(results, fx.Node):  # a graph within a graph, such as flex attention's mask
        return
    for weight, cast in zip(inputs, results[-len(inputs) :], strict=False):
        factors = _factors(weight, cast, device)
        if factors is None:
            continue
        with graph.inserting_before(cast):
            whole = graph.call_function(torch.ops.agentsft.weight_gradient.default, (weight, *factors))
        whole.meta.update(cast.meta)
        cast.replace_all_uses_with(whole)
    graph.eliminate_dead_code()


def _factors(weight: fx.Node, cast: Any, device: str) -> list[fx.Node] | None:
    """The 16-bit matrices whose product is cast to the gradient of `weight`, and is nothing else; None for others."""
    aten = torch.ops.aten
    casts = (torch.ops.prims.convert_element_type.default, aten._to_copy.default)
    if not isinstance(cast, fx.Node) or cast.target not in casts:
        return None
    chain: list[Any] = [cast.args[0]]
    while chain[-1].target in (aten.permute.default, aten.t.default):
        chain.append(chain[-1].args[0])
    product = chain[-1]
    if product.target != aten.mm.default or any(len(node.users) > 1 for node in chain):
        return None
    value, wanted = product.meta["val"], weight.meta["val"]
    if value.device.type != device or value.dtype not in (torch.bfloat16, torch.float16):
        return None
    if not isinstance(wanted, torch.Tensor) or wanted.dtype != torch.float32 or cast.meta["val"].shape != wanted.shape:
        return None
    if len(chain) % 2:
        return list(product.args)
    return [_turned(product.graph, product, factor) for factor in reversed(product.args)]


def _turned(graph: fx.Graph, before: fx.Node, matrix: fx.Node) -> fx.Node:
    with graph.inserting_before(before):
        turned = graph.call_function(torch.ops.aten.permute.default, (matrix, [1, 0]))
    turned.meta["val"] = matrix.meta["val"].t()
    return turned
