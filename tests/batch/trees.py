"""Random token trees, and what they mean, spelled out the slow way."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from agentsft.types import LABELS, TokenTree

VOCAB = 300


def random_tree(random: np.random.Generator, n: int, branching: float = 0.1, targets: float = 0.5) -> TokenTree:
    """A tree of `n` tokens. Some sources have several targets, some trees several roots."""
    parents = [-1]
    for _ in range(1, n):
        path = ancestors(parents, len(parents) - 1)
        parents.append(int(random.choice([-1, *path])) if random.random() < branching else path[-1])
    depth, end = np.zeros(n, np.int32), np.zeros(n, np.int32)
    for node in range(n):
        path = ancestors(parents, node)
        depth[node] = len(path) - 1
        end[path] = node + 1
    source = np.sort(random.choice(n, size=round(n * targets), replace=True)).astype(np.int32)
    m = len(source)
    return TokenTree(
        input_ids=random.integers(0, VOCAB, n).astype(np.int32),
        position_ids=depth,
        subtree_end=end,
        source=source,
        token=random.integers(0, VOCAB, m).astype(np.int32),
        weight=random.choice([0.5, 1.0, 2.0, 3.0], m).astype(np.float32),
        label=random.integers(0, len(LABELS), m).astype(np.int8),
    )


def ancestors(parents: list[int], node: int) -> list[int]:
    """The path from a root to `node`, with both ends."""
    path = [node]
    while parents[path[0]] >= 0:
        path.insert(0, parents[path[0]])
    return path


def context(tree: TokenTree, q: int) -> tuple[int, ...]:
    """The tokens that position `q` sees, itself the last."""
    return tuple(int(tree.input_ids[k]) for k in range(q + 1) if q < tree.subtree_end[k])


def lessons(trees: list[TokenTree]) -> list[tuple]:
    """What `trees` teach: each target's context, token, weight and label, sorted."""
    return sorted(
        (context(tree, s), int(t), float(w), int(label))
        for tree in trees
        for s, t, w, label in zip(tree.source, tree.token, tree.weight, tree.label, strict=True)
    )


@st.composite
def token_trees(draw: st.DrawFn, most: int = 40) -> TokenTree:
    """A hypothesis strategy of random trees."""
    seed = draw(st.integers(0, 2**32 - 1))
    n = draw(st.integers(1, most))
    return random_tree(np.random.default_rng(seed), n, draw(st.sampled_from([0.0, 0.1, 0.5])), draw(st.floats(0, 1.5)))
