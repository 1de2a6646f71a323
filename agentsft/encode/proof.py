"""The proof that closes the preparation of a row: weights stand inside responses, and nowhere else.

That the ids of a response decode to its text is proven where they are made (`ChunkEncoder.encode_responses`). What is
proven here does not trust what made it: spans may come from anybody's table, and the tree is read back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from agentsft.encode.tree import TurnIds, leaf_paths
from agentsft.types import LABELS, TokenTree, Turn


def span_fault(turn: Turn) -> str | None:
    """How the spans of a turn fail to partition its response, in one line, or None."""
    at = 0
    for span in turn.spans:
        if span.start != at or span.end <= at:
            return f"a span from {span.start} to {span.end} does not follow one that ends at {at}"
        if not 0 <= span.weight < math.inf:
            return f"the span from {span.start} to {span.end} has the weight {span.weight}"
        if span.label not in LABELS:
            return f"the span from {span.start} to {span.end} has the unknown label {span.label!r}"
        at = span.end
    if at != len(turn.response):
        return f"the spans end at {at}, the response at {len(turn.response)}"
    return None if 0 <= turn.suffix_weight < math.inf else f"the stop token has the weight {turn.suffix_weight}"


def tree_fault(tree: TokenTree, turns: Sequence[TurnIds], train_prompts: bool = False) -> str | None:
    """How the targets of a tree differ from the weights of its turns' responses, in one line, or None.

    Each turn's ids must stand on a path from the root, and the targets must be just the tokens of the responses that
    weigh more than 0, each predicted from the token before it. With `train_prompts`, further targets of weight 1 must
    lie outside the responses.
    """
    paths = leaf_paths(tree)
    # Bytes compare many times faster than arrays of this size.
    texts = [tree.input_ids[path].tobytes() for path in paths]
    width = tree.input_ids.itemsize
    before, own = [], []
    for number, turn in enumerate(turns):
        start, end = len(turn.prompt), len(turn.prompt) + len(turn.response)
        if not start:
            return f"the prompt of turn {number} has no token that could predict the response's first"
        prompt, response = turn.prompt.tobytes(), turn.response.tobytes()
        path = next(
            (
                p
                for p, t in zip(paths, texts, strict=True)
                if t.startswith(response, width * start) and t.startswith(prompt)
            ),
            None,
        )
        if path is None:
            return f"the tokens of turn {number} are on no path of the tree"
        before.append(path[start - 1 : end - 1])
        own.append(path[start:end])
    weight = np.concatenate([turn.weight for turn in turns])
    kept = weight > 0
    wanted = (np.concatenate(before)[kept], np.concatenate([turn.response for turn in turns])[kept], weight[kept])
    count = len(wanted[0])
    for name, one, other in zip(
        ("source", "token", "weight"), wanted, (tree.source, tree.token, tree.weight), strict=True
    ):
        if one.tobytes() != other[:count].tobytes():
            return f"the targets' {name} is not that of the responses"
    if not train_prompts:
        outside = len(tree.source) - count
        return f"{outside} targets lie outside the responses" if outside else None
    responded = np.zeros(len(tree), dtype=bool)
    responded[np.concatenate(own)] = True
    return _prompt_fault(tree, slice(count, None), responded)


def _prompt_fault(tree: TokenTree, rest: slice, responded: np.ndarray) -> str | None:
    """What is wrong with the targets of prompts: each is a token outside the responses, once, from the one before."""
    parent = tree.source[rest]
    # A prompt token's place: the position after its source, or another child of it behind earlier subtrees.
    outside = np.flatnonzero(~responded & (tree.position_ids > 0))
    if len(outside) != len(parent) or not np.array_equal(tree.input_ids[outside], tree.token[rest]):
        return "the prompts' targets are not the tokens outside the responses"
    before = (parent < outside) & (tree.subtree_end[parent] > outside)
    if not (before & (tree.position_ids[parent] + 1 == tree.position_ids[outside])).all():
        return "a prompt's target is not predicted from the token before it"
    return None if (tree.weight[rest] == 1).all() else "a prompt's target has another weight than 1"
