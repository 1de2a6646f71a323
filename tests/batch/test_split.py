from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsft.batch.split import chains, split_tree
from agentsft.encode.tree import leaves, split_tokens
from agentsft.types import TokenTree
from tests.batch.trees import context, lessons, token_trees


@settings(deadline=None)
@given(token_trees(), st.integers(0, 50))
def test_split_trees_teach_exactly_what_the_tree_taught(tree: TokenTree, budget: int) -> None:
    pieces = split_tree(tree, budget)
    assert lessons(pieces) == lessons([tree])
    for piece in pieces:
        assert len(piece) <= budget or piece.is_chain
        assert [len(context(piece, q)) - 1 for q in range(len(piece))] == piece.position_ids.tolist()


@settings(deadline=None)
@given(token_trees())
def test_chains_are_the_paths_to_the_leaves(tree: TokenTree) -> None:
    paths = chains(tree)
    assert lessons(paths) == lessons([tree])
    assert [tuple(path.input_ids) for path in paths] == [context(tree, leaf) for leaf in leaves(tree)]
    assert all(path.is_chain for path in paths)
    assert split_tokens(tree) == sum(map(len, paths))


def test_a_large_tree_is_cut_into_few_pieces_that_repeat_only_the_trunk() -> None:
    trunk, branch, branches = 100, 10, 9
    n = trunk + branch * branches
    end = np.full(n, n, np.int32)
    position = np.arange(n, dtype=np.int32)
    for b in range(branches):
        place = slice(trunk + b * branch, trunk + (b + 1) * branch)
        end[place], position[place] = place.stop, np.arange(trunk, trunk + branch)
    none = np.zeros(0, np.int32)
    tree = TokenTree(np.arange(n, dtype=np.int32), position, end, none, none, none.astype(np.float32), none)
    assert [len(piece) for piece in split_tree(tree, 135)] == [130, 130, 130]
