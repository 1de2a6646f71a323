"""Packed rows: nothing lost, nothing that HTML minds, little space."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agentsft.config import DataConfig
from agentsft.encode.load import load_preparer
from agentsft.encode.prepare import Preparer
from agentsft.encode.view import path_views, tree_view
from agentsft.page.pack import Packer, packed, unpacked
from agentsft.page.write import page_lines
from agentsft.types import Conversation, Example, Message, Row

TEXT = st.text(st.characters(), max_size=30) | st.sampled_from(
    ["</script>", "\u2028", "\ud800", "\udfff\ud800", "<!--"]
)
JSON = st.recursive(
    TEXT | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=8
)


@given(JSON)
def test_packing_is_undone_and_leaves_no_markup(value: Any) -> None:
    text = packed(value)
    assert unpacked(text) == value
    assert re.fullmatch(r"[A-Za-z0-9+/=]+", text)


def thinking(tokenizer: Any, turns: int) -> tuple[Preparer, Example]:
    """A conversation of which Qwen3's template drops old thinking, so that its tree branches."""
    preparer = load_preparer(DataConfig(model=tokenizer.name_or_path, loss_scale="react"), tokenizer)
    messages = [
        message
        for n in range(turns)
        for message in (
            Message("user", f"Step {n}? 你好🙂é"),
            Message("assistant", f"Thought: {n}👩‍👧\nAction: go\nAction Input: {n}", reasoning=f"I think of {n}."),
        )
    ]
    (example,) = preparer.prepare([Row(0, "made", Conversation(tuple(messages)))])
    return preparer, example


def test_a_tree_s_view_agrees_with_its_paths_token_by_token(qwen_tokenizer: Any) -> None:
    preparer, example = thinking(qwen_tokenizer, 6)
    view = tree_view(preparer, example)
    paths = path_views(preparer, example)
    assert len(paths) == len(view.branches) > 4
    for number, (path, branch) in enumerate(zip(paths, view.branches, strict=True)):
        assert path.shared == branch.shared
        for token, k in zip(path.tokens[path.shared :], view.own(number), strict=True):
            segment = branch.segments[branch.owners[token.position]]
            assert (token.text, token.id, token.weight) == (view.texts[k], view.ids[k], view.weights[k])
            assert (token.kind, token.message) == (segment.kind, segment.message)
    assert sum(len(view.own(number)) for number in range(len(paths))) == len(view.ids)


def test_the_packed_row_holds_every_token_once_with_its_weight(qwen_tokenizer: Any) -> None:
    preparer, example = thinking(qwen_tokenizer, 4)
    packer = Packer()
    row = unpacked(packer.add(example, tree_view(preparer, example)))
    index = unpacked(packer.index({}))
    assert example.tree is not None
    assert [index["ids"][n] for n in row["t"]] == example.tree.input_ids.tolist()
    classes = np.repeat(row["c"][1::2], row["c"][::2])
    weights = np.array([index["classes"][n][1] for n in classes])
    assert (weights > 0).sum() == len(example.tree.source)
    assert weights.sum() == example.tree.weight.sum()
    assert sum(count for _, count in index["rows"][0]["counts"]) == len(example.tree)


def test_a_page_costs_a_few_bytes_a_token(qwen_tokenizer: Any) -> None:
    preparer, example = thinking(qwen_tokenizer, 40)
    packer = Packer()
    rows = [packer.add(example, tree_view(preparer, example)) for _ in range(3)]
    assert example.tree is not None
    assert sum(map(len, rows)) / (3 * len(example.tree)) < 2.5


def test_the_policy_names_the_page_s_own_style_and_script_alone() -> None:
    page = "\n".join(page_lines(Packer(), [], {"settings": [], "scales": ["default"], "view": "text"}))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    rules = dict(rule.split(maxsplit=1) for rule in policy.group(1).split("; "))
    assert rules["default-src"] == "'none'"
    assert all(re.fullmatch(r"'sha256-[\w+/=]{44}'", rules[name]) for name in ("style-src", "script-src"))
    outside = [name for name in re.findall(r"(?:src|href|action)=\"([^\"]*)\"", page) if not name.startswith("#")]
    assert outside == ["data:,"]
    static = Path(__file__).resolve().parents[2] / "agentsft" / "page" / "static"
    assert not any(
        word in path.read_text() for path in static.iterdir() for word in ("http:", "https:", "innerHTML", "eval(")
    )
