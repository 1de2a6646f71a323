"""Token trees: the turns of a conversation merged where their ids agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from agentsft.types import LABELS, TokenTree

_PROMPT = LABELS.index("prompt")


@dataclass(frozen=True, slots=True, eq=False)
class TurnIds:
    """One turn as tokens: `prompt` int32[p], `response` int32[r] (stop token included), and per response token its
    `weight` float32[r] and `label` int8[r]."""

    prompt: np.ndarray
    response: np.ndarray
    weight: np.ndarray
    label: np.ndarray


@dataclass(slots=True, eq=False)
class _Node:
    """A run of tokens without a fork. `at` is its first token's index in depth-first order, `depth` its depth."""

    ids: np.ndarray
    depth: int
    children: dict[int, _Node] = field(default_factory=dict)
    at: int = 0


def build_tree(turns: Sequence[TurnIds], train_prompts: bool = False) -> TokenTree:
    """Merge turns into a prefix trie, laid out depth first, children in the order in which turns bring them.

    With `train_prompts` every token outside the responses is a target too, of weight 1 and label `prompt`.
    Targets of weight 0 are left out.
    """
    root = _Node(np.empty(0, np.int32), 0)
    paths = [np.concatenate([turn.prompt, turn.response]) for turn in turns]
    for ids in paths:
        _insert(root, ids)
    input_ids, position_ids, subtree_end, parent = _lay_out(root)

    source, token, weight, label = [], [], [], []
    responded = np.zeros(len(input_ids), dtype=bool)
    for turn, ids in zip(turns, paths, strict=True):
        path = path_positions(root, ids)
        start = len(turn.prompt)
        responded[path[start:]] = True
        kept = np.flatnonzero(turn.weight > 0)
        source.append(path[start - 1 + kept])
        token.append(turn.response[kept])
        weight.append(turn.weight[kept])
        label.append(turn.label[kept])
    if train_prompts:
        rest = np.flatnonzero(~responded & (parent >= 0))
        source.append(parent[rest])
        token.append(input_ids[rest])
        weight.append(np.ones(len(rest), np.float32))
        label.append(np.full(len(rest), _PROMPT, np.int8))
    return TokenTree(
        input_ids,
        position_ids,
        subtree_end,
        _joined(source, np.int32),
        _joined(token, np.int32),
        _joined(weight, np.float32),
        _joined(label, np.int8),
    )


def leaves(tree: TokenTree) -> np.ndarray:
    """Positions of the tokens without successor, int64[l], ascending. The path to each is one sequence."""
    return np.flatnonzero(tree.subtree_end == np.arange(1, len(tree) + 1))


def split_tokens(tree: TokenTree) -> int:
    """Tokens of all root-to-leaf paths together: what training them one by one would cost."""
    return int((tree.position_ids[leaves(tree)] + 1).sum())


def leaf_paths(tree: TokenTree) -> list[np.ndarray]:
    """The root-to-leaf paths of a tree (or forest) as positions, int32 each, in depth-first order.

    A leaf's path holds every token whose subtree holds the leaf.
    """
    paths = []
    for leaf in leaves(tree):
        before = tree.subtree_end[: leaf + 1] > leaf
        paths.append(np.flatnonzero(before).astype(np.int32))
    return paths


def path_positions(root: _Node, ids: np.ndarray) -> np.ndarray:
    """Where in depth-first order the tokens of a path lie that was inserted before."""
    positions, node, taken = [], root, 0
    while taken < len(ids):
        node = node.children[int(ids[taken])]
        count = min(len(node.ids), len(ids) - taken)
        positions.append(np.arange(node.at, node.at + count, dtype=np.int32))
        taken += count
    return np.concatenate(positions) if positions else np.empty(0, np.int32)


def _insert(root: _Node, ids: np.ndarray) -> None:
    node, taken = root, 0
    while taken < len(ids):
        child = node.children.get(int(ids[taken]))
        if child is None:
            node.children[int(ids[taken])] = _Node(ids[taken:], taken)
            return
        same = common_length(child.ids, ids[taken:])
        taken += same
        if same < len(child.ids):
            if taken == len(ids):
                return  # the path ends inside a run, which needs no fork
            _fork(child, same)
        node = child


def _fork(node: _Node, at: int) -> None:
    """Cut a run in two, so that another may branch off between them."""
    tail = _Node(node.ids[at:], node.depth + at, node.children)
    node.ids, node.children = node.ids[:at], {int(tail.ids[0]): tail}


def common_length(a: np.ndarray, b: np.ndarray) -> int:
    """How many ids two arrays share at their start."""
    n = min(len(a), len(b))
    differ = a[:n] != b[:n]
    first = int(differ.argmax()) if n else 0
    return first if n and differ[first] else n


def _lay_out(root: _Node) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """input_ids, position_ids, subtree_end and parent (-1 at a root), each int32[n], in depth-first order."""
    runs: list[tuple[_Node, int]] = []
    total = 0
    stack = [(child, -1) for child in reversed(root.children.values())]
    while stack:
        node, parent = stack.pop()
        node.at = total
        runs.append((node, parent))
        total += len(node.ids)
        stack += [(child, total - 1) for child in reversed(node.children.values())]

    subtree_end = np.empty(total, np.int32)
    parents = np.arange(-1, total - 1, dtype=np.int32)
    position_ids = np.empty(total, np.int32)
    for node, parent in reversed(runs):
        last = max((int(subtree_end[child.at]) for child in node.children.values()), default=node.at + len(node.ids))
        subtree_end[node.at : node.at + len(node.ids)] = last
        position_ids[node.at : node.at + len(node.ids)] = np.arange(node.depth, node.depth + len(node.ids))
        parents[node.at] = parent
    input_ids = np.concatenate([node.ids for node, _ in runs]) if runs else np.empty(0, np.int32)
    return input_ids, position_ids, subtree_end, parents


def _joined(parts: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(parts).astype(dtype, copy=False) if parts else np.empty(0, dtype)
