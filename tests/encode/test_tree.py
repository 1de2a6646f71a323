"""Token trees against brute force on random turns."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsft.encode.linear import linear_view
from agentsft.encode.tree import TurnIds, build_tree, leaf_paths
from agentsft.types import LABELS

Ids = tuple[int, ...]


@st.composite
def turns(draw: st.DrawFn) -> list[TurnIds]:
    """Turns that grow from each other and now and then branch off, over a small vocabulary so that they collide."""
    ids = st.integers(0, 3)
    made: list[TurnIds] = []
    paths: set[Ids] = set()
    text: list[int] = []
    for _ in range(draw(st.integers(1, 6))):
        keep = draw(st.integers(0, len(text)))
        prompt = text[: keep if draw(st.booleans()) else len(text)] + draw(st.lists(ids, min_size=1, max_size=4))
        response = draw(st.lists(ids, min_size=1, max_size=4))
        text = prompt + response
        if any(path[: len(prompt)] == tuple(prompt) for path in paths):
            continue  # two turns of a conversation never have the same prompt
        paths.add(tuple(text))
        weight = draw(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=len(response), max_size=len(response)))
        made.append(
            TurnIds(
                np.array(prompt, np.int32),
                np.array(response, np.int32),
                np.array(weight, np.float32),
                np.zeros(len(response), np.int8),
            )
        )
    return made


def full(turn: TurnIds) -> Ids:
    return (*turn.prompt.tolist(), *turn.response.tolist())


def prefixes(made: list[TurnIds]) -> set[Ids]:
    return {full(turn)[:k] for turn in made for k in range(1, len(full(turn)) + 1)}


@settings(max_examples=300)
@given(turns())
def test_each_token_sees_exactly_its_own_past(made: list[TurnIds]) -> None:
    tree = build_tree(made)
    seen = set()
    for q in range(len(tree)):
        visible = [k for k in range(len(tree)) if k <= q < tree.subtree_end[k]]
        past = tuple(tree.input_ids[visible].tolist())
        assert tree.position_ids[q] == len(past) - 1
        seen.add(past)
    assert seen == prefixes(made)
    assert len(tree) == len(seen)  # no prefix stands in the tree twice


@settings(max_examples=300)
@given(turns())
def test_each_trained_token_is_one_target_behind_its_own_past(made: list[TurnIds]) -> None:
    tree = build_tree(made)
    got = []
    for source, token, weight in zip(tree.source, tree.token, tree.weight, strict=True):
        visible = [k for k in range(source + 1) if source < tree.subtree_end[k]]
        got.append(((*tree.input_ids[visible].tolist(), int(token)), float(weight)))
    wanted = [
        (full(turn)[: len(turn.prompt) + k + 1], float(weight))
        for turn in made
        for k, weight in enumerate(turn.weight)
        if weight > 0
    ]
    assert sorted(got) == sorted(wanted)


@settings(max_examples=300)
@given(turns())
def test_the_paths_hold_every_target_once(made: list[TurnIds]) -> None:
    tree = build_tree(made)
    views = linear_view(tree)
    paths = {full(turn) for turn in made}
    leaves = {path for path in paths if not any(other != path and other[: len(path)] == path for other in paths)}
    assert {tuple(view.input_ids.tolist()) for view in views} == leaves
    assert len(views) == len(leaves) == len(leaf_paths(tree))
    for view in views:
        assert view.position_ids.tolist() == list(range(len(view.input_ids)))
        trained = view.labels != -100
        assert (view.labels[trained] == view.input_ids[trained]).all()
        assert ((view.loss_scale > 0) == trained).all()
        assert ((view.label_ids >= 0) == trained).all()
    assert sum(int((view.labels != -100).sum()) for view in views) == len(tree.source)
    assert np.isclose(sum(view.loss_scale.sum() for view in views), tree.weight.sum())


@given(turns())
def test_training_prompts_too_makes_every_token_but_the_roots_a_target(made: list[TurnIds]) -> None:
    ones = [TurnIds(t.prompt, t.response, np.ones(len(t.response), np.float32), t.label) for t in made]
    tree = build_tree(ones, train_prompts=True)
    assert len(tree.source) == len(tree) - int((tree.position_ids == 0).sum())
    prompts = tree.label == LABELS.index("prompt")
    responses = {full(t)[:k] for t in made for k in range(len(t.prompt) + 1, len(full(t)) + 1)}
    assert int((~prompts).sum()) == len(responses)


def test_a_conversation_whose_history_stays_is_one_chain() -> None:
    def turn(prompt: list[int], response: list[int]) -> TurnIds:
        ones = np.ones(len(response), np.float32)
        return TurnIds(np.array(prompt, np.int32), np.array(response, np.int32), ones, ones.astype(np.int8))

    tree = build_tree([turn([1, 2], [3, 4]), turn([1, 2, 3, 4, 5], [6])])
    assert tree.is_chain
    assert tree.input_ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert tree.source.tolist() == [1, 2, 4]
    assert tree.token.tolist() == [3, 4, 6]
