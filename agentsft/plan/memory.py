"""Memory of one GPU by part, from a model's shape, the pack and the settings."""

from __future__ import annotations

from dataclasses import dataclass, fields

from agentsft.plan.shape import Shape
from agentsft.train.loss import CHUNK_BYTES

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of each part at the peak, which is where the backward pass begins: everything is there at once."""

    weights: float
    gradients: float
    optimizer: float
    casts: float
    """The bfloat16 copies of float32 weights that autocast keeps during a pass."""
    activations: float
    loss: float

    @property
    def total(self) -> float:
        return sum(getattr(self, field.name) for field in fields(self))


def memory(shape: Shape, pack: int, checkpointing: bool = False, shards: int = 1) -> Memory:
    """Memory of a pass over `pack` tokens in bf16 autocast, padding included.

    `shards` GPUs share weights, gradients and optimizer state (FSDP2); one layer and the head are then whole at a
    time. Weights that are trained are float32 with two moments of AdamW; a frozen base under an adapter is bfloat16.
    """
    trained, frozen = shape.trainable, shape.parameters - shape.trainable
    weights = (4 * trained + (2 if shape.adapter else 4) * frozen) / shards
    casts = 0.0 if shape.adapter else 2.0 * shape.matrices
    if shards > 1:
        casts = 2.0 * (2 * shape.layer_parameters + shape.head)
    layer = activation_bytes(shape)
    kept = (2 if shape.adapter else 4) * shape.hidden  # the input of each layer
    tokens = (shape.layers * kept + layer) if checkpointing else shape.layers * layer
    return Memory(
        weights=weights,
        gradients=4 * trained / shards,
        optimizer=8 * trained / shards,
        casts=casts,
        activations=float(pack * tokens),
        loss=loss_bytes(shape),
    )


def activation_bytes(shape: Shape) -> int:
    """Bytes that a compiled decoder layer keeps of each token for its backward pass.

    The residual stream before attention and before the feed-forward layer (float32 where the weights are), queries
    and keys before their norm where there is one, queries, keys, values, attention's output, the feed-forward layer's
    gate, up and product. Outputs of norms are computed again by the compiled layer. At Qwen3-1.7B's shape these are
    71,680 bytes; two measured runs whose packs differ by 4,224 tokens differ by 72,600 bytes a token and layer.
    """
    residual = 2 * (2 if shape.adapter else 4) * shape.hidden
    before_norm = 2 * (shape.heads + shape.key_heads) if shape.query_norm else 0
    attention = 2 * (2 * shape.heads + 2 * shape.key_heads) + 4 * max(shape.heads // 128, 1)
    return residual + before_norm + attention + 2 * (3 if shape.gated else 2) * shape.intermediate


def loss_bytes(shape: Shape) -> float:
    """A chunk of logits, their gradient, and the head's gradient before it is added to that of the passes before."""
    return 2.0 * CHUNK_BYTES["cuda"] + (4.0 * shape.head if shape.head_trained else 0.0)
