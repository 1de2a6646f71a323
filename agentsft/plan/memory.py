"""Memory of one GPU by part, from a model's shape, the pack and the settings."""

from __future__ import annotations

from dataclasses import dataclass, fields

from agentsft.plan.shape import Shape
from agentsft.train.loss import CHUNK_BYTES

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of each part at the peak of a pass."""

    weights: float
    gradients: float
    optimizer: float
    casts: float
    """The bfloat16 copies of float32 weights that autocast keeps during a pass, or of 4-bit weights for a product."""
    activations: float
    loss: float

    @property
    def total(self) -> float:
        return sum(getattr(self, field.name) for field in fields(self))


def memory(
    shape: Shape,
    pack: int,
    checkpointing: bool = False,
    shards: int = 1,
    offloading: bool = False,
    waiting: bool = False,
) -> Memory:
    """Memory of a pass over `pack` tokens in bf16 autocast, padding included.

    `shards` GPUs share weights, gradients and optimizer state (FSDP2); one layer and the head are then whole at a
    time. Weights that are trained are float32 with two moments of AdamW; a frozen base under an adapter is bfloat16
    but for its 4-bit matrices. The peak is where the backward pass begins: everything is there at once. With
    `checkpointing` it may also be within the backward pass of a layer, which is computed again there; the inputs of
    the layers are in host memory with `offloading`. `waiting`: shared gradients are whole on each GPU until the last
    pass of a step.
    """
    trained, frozen = shape.trainable, shape.parameters - shape.trainable - shape.quantized
    weights = (4 * trained + (2 if shape.adapter else 4) * frozen + shape.quantized_bytes) / shards
    casts = 2.0 * shape.largest if shape.adapter else 2.0 * shape.matrices
    if checkpointing and not shape.adapter:  # those of the layer that is computed again, or of the head
        casts = 2.0 * max(shape.layer_parameters, shape.head)
    if shards > 1:
        together = shape.parameters - shape.layers * shape.layer_parameters  # embeddings, last norm, head
        casts = 2.0 * (2 * shape.layer_parameters + max(together, shape.head))
    head = head_bytes(shape, shards)
    tokens, loss = activations(shape, checkpointing, offloading), 2.0 * CHUNK_BYTES["cuda"] + head
    at_loss, in_layer = (float(pack * each) for each in tokens)
    begins = at_loss + loss >= in_layer + head
    return Memory(
        weights=weights,
        gradients=4 * trained / (1 if waiting else shards),
        optimizer=8 * trained / shards,
        casts=casts,
        activations=at_loss if begins else in_layer,
        loss=loss if begins else head,
    )


def activations(shape: Shape, checkpointing: bool, offloading: bool) -> tuple[int, int]:
    """Bytes that each token of a pack takes: when the loss is computed, and within the backward pass of a layer."""
    layer = activation_bytes(shape)
    if not checkpointing:
        return shape.layers * layer, 0
    # Offloaded, the input of a layer is there, and that of the layer before is on its way. The last norm, which is
    # not compiled, keeps its input in float32 and its output in bfloat16 until the layers' turn has come.
    kept = 2 * layer_input_bytes(shape) if offloading else shape.layers * layer_input_bytes(shape)
    norm = 0 if offloading else 6 * shape.hidden
    return kept + norm, kept + layer + layer_gradient_bytes(shape)


def layer_input_bytes(shape: Shape) -> int:
    """Bytes of a token between two layers: the residual stream is bfloat16."""
    return 2 * shape.hidden


def host_bytes(shape: Shape, pack: int) -> float:
    """Bytes of pinned host memory that offloaded layer inputs take, for each process."""
    return float(pack * shape.layers * layer_input_bytes(shape))


def activation_bytes(shape: Shape) -> int:
    """Bytes that a compiled decoder layer keeps of each token for its backward pass.

    The residual stream before attention and before the feed-forward layer, queries and keys before their norm where
    there is one, queries, keys, values, attention's output, the feed-forward layer's gate and up. Outputs of norms and
    activations are computed again by the compiled layer. At Qwen3-1.7B's shape these are 51,200 bytes.
    """
    residual = 2 * 2 * shape.hidden
    before_norm = 2 * (shape.heads + shape.key_heads) if shape.query_norm else 0
    attention = 2 * (2 * shape.heads + 2 * shape.key_heads) + 4 * max(shape.heads // 128, 1)
    return residual + before_norm + attention + 2 * (2 if shape.gated else 1) * shape.intermediate


def layer_gradient_bytes(shape: Shape) -> int:
    """Bytes of a token's gradients within a layer where they are largest, in bfloat16: in the feed-forward layer.

    Those of its product, gate and up, of its output and of its input; and the product, which is computed again. An
    adapter has a part of its own in the product's gradient, added up later.
    """
    wide = (4 if shape.gated else 3) + (1 if shape.adapter else 0)
    return 2 * wide * shape.intermediate + 4 * shape.hidden


def head_bytes(shape: Shape, shards: int) -> float:
    """The head's gradient before it is added to that of the passes before, where it is not added at once."""
    return 4.0 * shape.head if shape.head_trained and (shape.adapter or shards > 1) else 0.0
