"""Decoder layers, compiled one by one: quick, and reused by all of them, whatever the length of a pack."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn
from torch.utils.checkpoint import CheckpointPolicy

from agentsft.train import joined, weight_gradients
from agentsft.train.joined import add_products, join_products, lower_side_by_side
from agentsft.train.model import decoder_layers
from agentsft.train.weight_gradients import give_gradients


def compile_layers(model: Any, inside: bool = False, norm: nn.Module | None = None) -> str:
    """Compiles each decoder layer by itself, and the last `norm`; a note where that fails.

    Lengths are symbolic, so packs need no padding to a common one. `inside` leaves the layers' hooks out of what is
    compiled: FSDP2's gather and free the weights around it.
    """
    layers = decoder_layers(model)
    if layers is None:
        return "torch_compile is not used, since the model has no list of layers."
    save_less()
    compile_once()
    for layer in [*layers, *filter(None, [norm])]:
        if inside:
            layer.forward = torch.compile(layer.forward, dynamic=True)
        else:
            layer.compile(dynamic=True)
    return ""


def save_less() -> None:
    """Lets compiled code compute again, in the backward pass, what costs no more there than to read it.

    By default torch keeps every factor of a product: the outputs of norms and activations too, a third of all that
    waits for the backward pass. Computed again they take part in kernels that run there anyway. The weights' copies of
    16 bits are kept, since they would be one more pass over all weights. Attention and products are never repeated.
    """
    import torch._functorch.config as partitioner
    import torch._inductor.config as inductor
    from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files

    class Passes(CustomGraphPass):
        def __call__(self, graph: fx.Graph) -> None:
            join_products(graph)
            add_products(graph)
            keep_weights(graph)
            give_gradients(graph)
            scale_behind(graph)

        def uuid(self) -> Any:
            return get_hash_for_files((__file__, joined.__file__, weight_gradients.__file__))

    lower_side_by_side()
    for name in ("materialized_backward", "used_far_apart", "long_fusible_chains"):
        setattr(partitioner, f"ban_recompute_{name}", False)
    inductor.joint_custom_post_pass = Passes()


def compile_once() -> None:
    """Makes one graph of a layer do for packs of all lengths, and under DDP."""
    import torch._dynamo.config as dynamo
    import torch._inductor.config as inductor

    # DDP would cut a layer's graph at its buckets, and what crosses the cuts could not be fused. Its gradients are
    # exchanged layer by layer anyway.
    dynamo.optimize_ddp = False
    # Reductions over rows and columns of one matrix are fused where it is large: a guard on the length.
    if hasattr(inductor.triton, "mix_order_reduction_non_strict_mode"):
        inductor.triton.mix_order_reduction_non_strict_mode = True
    # Rows of which one program adds up a norm's weight gradient: by torch's own choice a pass over all programs' sums
    # takes a third of the time of these backward passes.
    if hasattr(inductor.triton, "mix_order_reduction_split_size"):
        inductor.triton.mix_order_reduction_split_size = 64


def keep_weights(graph: fx.Graph) -> None:
    """Marks the casts of matrices that come into a graph of forward and backward pass as results to keep."""
    for node in graph.nodes:
        if node.op == "call_function" and _is_cast(node) and node.args[0].op == "placeholder":
            value = node.meta.get("val")
            if isinstance(value, torch.Tensor) and value.dim() == 2:
                node.meta["recompute"] = CheckpointPolicy.MUST_SAVE


def scale_behind(graph: fx.Graph) -> None:
    """Moves a product with a number behind the matrix products that alone read it, where these give fewer columns.

    PEFT scales what an adapter adds. In the backward pass that would make a second copy of each layer's gradient, only
    for products with the adapter's narrow matrices.
    """
    for scaling in graph.find_nodes(op="call_function", target=torch.ops.aten.mul.Tensor):
        value, factor = scaling.args
        products = _products(scaling)
        if not (_is_number(factor) and isinstance(value, fx.Node) and products):
            continue
        widths = [node.meta["val"].shape[-1] for node in (scaling, *products)]
        same = value.meta["val"].dtype == scaling.meta["val"].dtype
        if not same or not all(isinstance(width, int) for width in widths) or 2 * max(widths[1:]) > widths[0]:
            continue
        scaling.replace_all_uses_with(value)
        graph.erase_node(scaling)
        for product in products:
            readers = list(product.users)
            with graph.inserting_after(product):
                scaled = graph.call_function(torch.ops.aten.mul.Tensor, (product, factor))
            scaled.meta.update(product.meta)
            for reader in readers:
                reader.replace_input_with(product, scaled)


def _products(node: fx.Node) -> list[fx.Node]:
    """The matrix products that read `node`, turned or seen in another shape; none where anything else reads it."""
    aten = torch.ops.aten
    found = []
    for user in node.users:
        if user.target in (aten.mm.default, aten.mm.dtype):
            found.append(user)
        elif user.target in (aten.view.default, aten.permute.default, aten.t.default) and (more := _products(user)):
            found += more
        else:
            return []
    return found


def _is_number(value: Any) -> bool:
    if isinstance(value, fx.Node):
        return isinstance(value.meta.get("val"), torch.Tensor) and value.meta["val"].ndim == 0
    return isinstance(value, (int, float))


def _is_cast(node: fx.Node) -> bool:
    return node.target in (torch.ops.prims.convert_element_type.default, torch.ops.aten._to_copy.default)
