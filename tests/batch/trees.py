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


def with_beginning(tree: TokenTree, ids: list[int]) -> TokenTree:
    """`tree` behind a beginning that others share, whose last token has a target."""
    k, n = len(ids), len(ids) + len(tree)
    return TokenTree(
        input_ids=np.concatenate([np.array(ids, np.int32), tree.input_ids]),
        position_ids=np.concatenate([np.arange(k, dtype=np.int32), tree.position_ids + k]),
        subtree_end=np.concatenate([np.full(k, n, np.int32), tree.subtree_end + k]),
        source=np.concatenate([np.array([k - 1], np.int32), tree.source + k]),
        token=np.concatenate([tree.input_ids[:1], tree.token]),
        weight=np.concatenate([np.ones(1, np.float32), tree.weight]),
        label=np.concatenate([np.zeros(1, np.int8), tree.label]),
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


def sample_step() -> list[TokenTree]:
    """The conversations of one step, some of which begin alike."""
    random = np.random.default_rng(7)
    made = [random_tree(random, int(n)) for n in random.integers(5, 60, 9)]
    # Six conversations begin alike: four share 30 tokens, of which the other two have the first 20.
    beginnings = [range(30), range(30), range(20), range(30), range(30), range(20)]
    alike = [with_beginning(tree, list(ids)) for tree, ids in zip(made, beginnings, strict=False)]
    return [*alike, *made[6:]]


@st.composite
def token_trees(draw: st.DrawFn, most: int = 40) -> TokenTree:
    """A hypothesis strategy of random trees."""
    seed = draw(st.integers(0, 2**32 - 1))
    n = draw(st.integers(1, most))
    return random_tree(np.random.default_rng(seed), n, draw(st.sampled_from([0.0, 0.1, 0.5])), draw(st.floats(0, 1.5)))
