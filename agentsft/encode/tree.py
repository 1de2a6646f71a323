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
    """A run of tokens without a fork.

    `at` is its first token's index in depth-first order, `end` the index behind its subtree, `depth` its depth.
    """

    ids: np.ndarray
    depth: int
    children: dict[int, _Node] = field(default_factory=dict)
    at: int = 0
    end: int = 0


def build_tree(turns: Sequence[TurnIds], train_prompts: bool = False) -> TokenTree:
    """Merge turns into a prefix trie, laid out depth first, children in the order in which turns bring them.

    With `train_prompts` every token outside the responses is a target too, of weight 1 and label `prompt`.
    Targets of weight 0 are left out.
    """
    root = _Node(np.empty(0, np.int32), 0)
    paths = [np.concatenate([turn.prompt, turn.response]) for turn in turns]
    for ids in paths:
        _insert(root, ids)
    runs, input_ids, position_ids, subtree_end = _lay_out(root)

    # Each response's positions, with the one before them.
    ends = [path_positions(root, ids, max(len(turn.prompt) - 1, 0)) for turn, ids in zip(turns, paths, strict=True)]
    source = [end[: len(turn.response)] for turn, end in zip(turns, ends, strict=True)]
    weight = _joined([turn.weight for turn in turns], np.float32)
    kept = weight > 0
    targets = [
        _joined(source, np.int32)[kept],
        _joined([turn.response for turn in turns], np.int32)[kept],
        weight[kept],
        _joined([turn.label for turn in turns], np.int8)[kept],
    ]
    if train_prompts:
        parent = _parents(runs, len(input_ids))
        outside = parent >= 0
        for turn, end in zip(turns, ends, strict=True):
            outside[end[len(end) - len(turn.response) :]] = False
        rest = outside.nonzero()[0]
        prompts: list[np.ndarray] = [
            parent[rest],
            input_ids[rest],
            np.ones(len(rest), np.float32),
            np.full(len(rest), _PROMPT, np.int8),
        ]
        targets = [np.concatenate(pair) for pair in zip(targets, prompts, strict=True)]
    return TokenTree(input_ids, position_ids, subtree_end, *targets)


def leaves(tree: TokenTree) -> np.ndarray:
    """Positions of the tokens without successor, int64[l], ascending. The path to each is one sequence."""
    return (tree.subtree_end == np.arange(1, len(tree) + 1)).nonzero()[0]


def split_tokens(tree: TokenTree) -> int:
    """Tokens of all root-to-leaf paths together: what training them one by one would cost."""
    return int((tree.position_ids[leaves(tree)] + 1).sum())


def leaf_paths(tree: TokenTree) -> list[np.ndarray]:
    """The root-to-leaf paths of a tree (or forest) as positions, int32 each, in depth-first order.

    A leaf's path holds every token whose subtree holds the leaf.
    """
    paths = []
    for leaf in leaves(tree).tolist():
        before = tree.subtree_end[: leaf + 1] > leaf
        paths.append(before.nonzero()[0].astype(np.int32))
    return paths


def path_positions(root: _Node, ids: np.ndarray, first: int = 0) -> np.ndarray:
    """Where in depth-first order the tokens of a path lie that was inserted before, from number `first` on."""
    positions, node, taken = [], root, 0
    while taken < len(ids):
        node = node.children[int(ids[taken])]
        count = min(len(node.ids), len(ids) - taken)
        if taken + count > first:
            positions.append(np.arange(node.at + max(first - taken, 0), node.at + count, dtype=np.int32))
        taken += count
    return _joined(positions, np.int32)


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


def _lay_out(root: _Node) -> tuple[list[_Node], np.ndarray, np.ndarray, np.ndarray]:
    """The runs in depth-first order, and input_ids, position_ids and subtree_end, each int32[n], in this order."""
    runs: list[_Node] = []
    total = 0
    stack = [*reversed(root.children.values())]
    while stack:
        node = stack.pop()
        node.at = total
        runs.append(node)
        total += len(node.ids)
        stack += reversed(node.children.values())

    subtree_end = np.empty(total, np.int32)
    position_ids = np.arange(total, dtype=np.int32)
    for node in reversed(runs):
        behind = node.at + len(node.ids)
        node.end = next(reversed(node.children.values())).end if node.children else behind
        subtree_end[node.at : behind] = node.end
        if node.at > node.depth:
            position_ids[node.at : behind] -= node.at - node.depth
    return runs, _joined([node.ids for node in runs], np.int32), position_ids, subtree_end


def _parents(runs: list[_Node], total: int) -> np.ndarray:
    """The index of each token's predecessor, int32[total]; -1 at a root."""
    parents = np.arange(-1, total - 1, dtype=np.int32)
    for node in runs:
        if not node.depth:
            parents[node.at] = -1
        for child in node.children.values():
            parents[child.at] = node.at + len(node.ids) - 1
    return parents


def _joined(parts: list[np.ndarray], dtype: type) -> np.ndarray:
    """The arrays of one `dtype` behind one another; one alone as it is."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts) if parts else np.empty(0, dtype)
