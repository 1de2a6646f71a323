"""Matrix products of one input are computed as one, and products add their results to the residual stream.

Gate and up are two products of the same hidden states. As one they fill the GPU better, and their gradients for what
they share are added up inside a product, not rounded one by one and added in another pass.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import fx
from torch._subclasses import FakeTensor
from torch.utils.checkpoint import CheckpointPolicy

aten = torch.ops.aten
CASTS = (torch.ops.prims.convert_element_type.default, aten._to_copy.default)
TURNS = (aten.permute.default, aten.t.default)
VIEWS = (aten.view.default, aten._unsafe_view.default, *TURNS, aten.transpose.int, aten.slice.Tensor)
SIXTEEN_BITS = (torch.bfloat16, torch.float16)


def join_products(graph: fx.Graph, device: str = "cuda") -> None:
    """Makes one product of those that multiply one 16-bit input with several weights that are cast to 16 bits.

    `graph` is that of forward and backward pass. A group is left as it is where anything but its products reads a cast,
    or the gradients of the input are not added up by themselves.
    """
    _share(graph)
    groups = defaultdict(list)
    for cast in _weights(graph, device):
        if linear := _linear(cast):
            groups[linear.forward.args[0]].append(linear)
    for linears in groups.values():
        total = _sum(linears) if len(linears) > 1 else None
        if total is not None:
            _join(graph, linears, total)
    graph.eliminate_dead_code()


def add_products(graph: fx.Graph, device: str = "cuda") -> None:
    """Lets a product add to what its result alone is added to: the residual stream, in 16 bits."""
    for product in graph.find_nodes(op="call_function", target=aten.mm.default):
        value = product.meta["val"]
        result = product
        while len(result.users) == 1 and next(iter(result.users)).target in VIEWS[:2]:
            result = next(iter(result.users))
        if value.device.type != device or value.dtype not in SIXTEEN_BITS or len(result.users) != 1:
            continue
        [adding] = result.users
        others = [arg for arg in adding.args if arg is not result]
        if adding.target != aten.add.Tensor or adding.kwargs or len(others) != 1 or not isinstance(others[0], fx.Node):
            continue
        whole = adding.meta["val"].shape[-1] == value.shape[1]
        if not whole or not _alike(others[0], adding) or not _alike(result, adding):
            continue
        with graph.inserting_before(adding):
            both = _new(graph, torch.ops.agentsft.add_product.default, (others[0], *product.args))
        adding.replace_all_uses_with(both)
    graph.eliminate_dead_code()


@torch.library.custom_op("agentsft::add_product", mutates_args=())
def _add_product(stream: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """stream [..., d] + a [n, k] @ b [k, d], rounded once."""
    return torch.addmm(stream.reshape(-1, stream.shape[-1]), a, b).view(stream.shape)


@_add_product.register_fake
def _(stream: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return stream.new_empty(stream.shape)


@torch.library.custom_op("agentsft::side_by_side", mutates_args=())
def _side_by_side(matrices: list[torch.Tensor]) -> torch.Tensor:
    """Matrices [n, .] as one, for compiled code to write its results into parts of it."""
    return torch.cat(matrices, dim=1)


@_side_by_side.register_fake
def _(matrices: list[torch.Tensor]) -> torch.Tensor:
    return matrices[0].new_empty(matrices[0].shape[0], sum(matrix.shape[1] for matrix in matrices))


def lower_side_by_side() -> None:
    """Tells Inductor that the parts are results of their own, each computed once.

    Its own way with `cat` would compute each column of the whole by the formulas of all parts.
    """
    from torch._inductor import ir
    from torch._inductor.lowering import lowerings, register_lowering

    operator = torch.ops.agentsft.side_by_side.default
    if operator in lowerings:
        return

    @register_lowering(operator, type_promotion_kind=None)
    def lower(matrices: list[Any]) -> Any:
        for matrix in matrices:
            if isinstance(matrix.data, ir.StorageBox):
                matrix.realize()
        return ir.TensorBox(ir.ConcatKernel.create(matrices, 1))


@dataclass(frozen=True)
class _Linear:
    """The product with a weight, and that which gives the gradient of its input; `cast` is the weight in 16 bits."""

    cast: fx.Node
    forward: fx.Node
    backward: fx.Node

    @property
    def leaf(self) -> tuple[fx.Node, list[fx.Node]]:
        """The gradient of the input as it is added to others, and the views and casts between, from the product on."""
        node, between = self.backward, []
        while len(node.users) == 1 and next(iter(node.users)).target in (*VIEWS[:2], *CASTS):
            node = next(iter(node.users))
            between.append(node)
        return node, between


def _weights(graph: fx.Graph, device: str) -> list[fx.Node]:
    """Casts to 16 bits of float32 matrices that come into the graph."""
    found = []
    for node in graph.nodes:
        if node.op == "call_function" and node.target in CASTS and node.args[0].op == "placeholder":
            value, before = node.meta["val"], node.args[0].meta["val"]
            wide = before.dtype == torch.float32 and value.dtype in SIXTEEN_BITS
            if wide and value.ndim == 2 and value.device.type == device:
                found.append(node)
    return found


def _linear(cast: fx.Node) -> _Linear | None:
    """The two products that read `cast`, turned and as it is; None where anything else does."""
    found: dict[bool, fx.Node] = {}
    waiting = [(cast, False)]
    while waiting:
        node, turned = waiting.pop()
        for user in node.users:
            if user.target in TURNS:
                waiting.append((user, not turned))
            elif user.target == aten.mm.default and user.args[1] is node and user.args[0] is not node:
                if turned in found:
                    return None
                found[turned] = user
            else:
                return None
    if len(found) < 2 or not _by_element(found[False].args[0], cast.meta["val"].shape[0]):
        return None
    return _Linear(cast, found[True], found[False])


def _by_element(gradient: Any, width: int) -> bool:
    """Whether rows of the gradient, of this width, are computed element by element: such can be written anywhere.

    Those of queries and keys come from norms of their heads, that of values from attention, each better by itself.
    """
    while gradient.target in VIEWS[:2]:
        gradient = gradient.args[0]
    elements = gradient.target in CASTS or torch.Tag.pointwise in getattr(gradient.target, "tags", ())
    return elements and gradient.meta["val"].shape[-1] == width


def _sum(linears: list[_Linear]) -> fx.Node | None:
    """The node that adds up the gradients of the input of all `linears`, and nothing else."""
    leaves = {linear.leaf[0] for linear in linears}
    node = next(iter(leaves))
    while len(node.users) == 1:
        [node] = node.users
        if node.target != aten.add.Tensor or node.kwargs:
            return None
        summands = _summands(node, leaves)
        if summands == leaves:
            return node if all(_alike(leaf, node) for leaf in leaves) else None
        if not summands < leaves:
            return None
    return None


def _summands(total: Any, leaves: set[fx.Node]) -> set[Any]:
    """What `total` adds up: `leaves`, and what is no sum by itself."""
    found: set[Any] = set()
    for arg in total.args:
        inner = isinstance(arg, fx.Node) and arg.target == aten.add.Tensor and len(arg.users) == 1
        found |= _summands(arg, leaves) if inner and arg not in leaves else {arg}
    return found


def _join(graph: fx.Graph, linears: list[_Linear], total: fx.Node) -> None:
    ends = [0, *accumulate(linear.cast.meta["val"].shape[0] for linear in linears)]
    order = {node: place for place, node in enumerate(graph.nodes)}
    first = min((linear.forward for linear in linears), key=order.__getitem__)
    casts = sorted((linear.cast for linear in linears), key=order.__getitem__)
    _behind(casts[0], casts[1:])  # they depend on what comes into the graph alone
    with graph.inserting_before(first):
        weight = _new(graph, aten.cat.default, ([linear.cast for linear in linears],))
        weight.meta["recompute"] = CheckpointPolicy.MUST_SAVE
        turned = _new(graph, aten.permute.default, (weight, [1, 0]))
        product = _new(graph, aten.mm.default, (first.args[0], turned))
        parts = [_new(graph, aten.slice.Tensor, (product, 1, *part)) for part in pairwise(ends)]
    for linear, part in zip(linears, parts, strict=True):
        linear.forward.replace_all_uses_with(part)
        _renew(part)
    gradients: list[Any] = [linear.backward.args[0] for linear in linears]
    with graph.inserting_before(total):
        gradient = _new(graph, torch.ops.agentsft.side_by_side.default, (gradients,))
        slices = [_new(graph, aten.slice.Tensor, (gradient, 1, *part)) for part in pairwise(ends)]
        result = _new(graph, aten.mm.default, (gradient, weight))
        for node in linears[0].leaf[1]:
            result = _new(graph, node.target, (result, *node.args[1:]), node.kwargs)
    total.replace_all_uses_with(result)
    for old, part in zip(gradients, slices, strict=True):
        for user in list(old.users):
            if user.target in TURNS and (later := _to_the_end(user)):
                user.replace_input_with(old, part)
                _behind(slices[-1], later)
                _renew(part)


def _to_the_end(node: fx.Node) -> list[fx.Node] | None:
    """`node` and what follows from it to a result of the graph, where that is a single line."""
    line = [node]
    while len(line[-1].users) == 1:
        [user] = line[-1].users
        if user.op == "output":
            return line
        line.append(user)
    return None


def _behind(place: fx.Node, nodes: list[fx.Node]) -> None:
    for node in nodes:
        place.append(node)
        place = node


def _share(graph: fx.Graph) -> None:
    """Casts, views and turned matrices that are there twice become one."""
    seen: dict[Any, fx.Node] = {}
    for node in list(graph.nodes):
        if node.op != "call_function" or node.target not in (*CASTS, *VIEWS):
            continue
        key = (node.target, _frozen(node.args), _frozen(node.kwargs), node.meta.get("recompute"))
        if (earlier := seen.setdefault(key, node)) is not node:
            node.replace_all_uses_with(earlier)
            graph.erase_node(node)


def _frozen(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return tuple(map(_frozen, value))
    return tuple((key, _frozen(one)) for key, one in value.items()) if isinstance(value, dict) else value


def _alike(one: fx.Node, other: fx.Node) -> bool:
    a, b = one.meta.get("val"), other.meta.get("val")
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
        return False
    return a.dtype == b.dtype and a.shape == b.shape


def _new(graph: fx.Graph, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> fx.Node:
    node = graph.call_function(target, args, kwargs)
    node.meta["val"] = _value(node)
    return node


def _renew(node: fx.Node) -> None:
    """The views of `node` know its strides again."""
    for user in node.users:
        if user.target in VIEWS:
            user.meta["val"] = _value(user)
            _renew(user)


def _value(node: fx.Node) -> Any:
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda one: one.meta["val"])
    compute: Any = node.target
    with next(value.fake_mode for value in _flat(args) if isinstance(value, FakeTensor)):
        return compute(*args, **kwargs)


def _flat(value: Any) -> list[Any]:
    return [one for part in value for one in _flat(part)] if isinstance(value, (list, tuple)) else [value]
