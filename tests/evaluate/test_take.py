"""The turns that are judged stand in just the contexts that a server would give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentsft.encode.load import load_preparer
from agentsft.encode.prepare import Preparer
from agentsft.errors import UserError
from agentsft.evaluate.settings import EvalConfig
from agentsft.evaluate.take import take_turns
from tests.conversations import WEATHER

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "data"


def as_served(tokenizer: Any, row: dict[str, Any], message: int) -> str:
    messages = [dict(m, content=m.get("content") or "") for m in row["messages"][:message]]
    for m in messages:
        for call in m.get("tool_calls") or []:
            arguments = call["function"]["arguments"]
            call["function"]["arguments"] = json.loads(arguments) if isinstance(arguments, str) else arguments
        m |= {"thinking": m["reasoning_content"]} if "reasoning_content" in m else {}
    return tokenizer.apply_chat_template(messages, tools=row.get("tools"), tokenize=False, add_generation_prompt=True)


@pytest.mark.parametrize("name", ["tool_calls", "thinking", "react_eval"])
def test_prompts_are_what_the_tokenizer_renders_for_serving(name: str, qwen_tokenizer: Any) -> None:
    path = EXAMPLES / f"{name}.jsonl"
    config = EvalConfig(model="qwen", data=[str(path)], limit=12)
    held_out = take_turns(config, Preparer(qwen_tokenizer, stop_tokens=["<|endoftext|>"]))
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len({turn.conversation for turn in held_out.turns}) == 12
    for turn in held_out.turns:
        prompt = as_served(qwen_tokenizer, rows[int(turn.source.rpartition(":")[2]) - 1], turn.message)
        assert turn.reference.prompt == prompt
        assert turn.prompt_ids.tolist() == qwen_tokenizer(prompt, add_special_tokens=False)["input_ids"]


def test_every_assistant_message_of_the_examples_is_judged_and_read_back(qwen_tokenizer: Any) -> None:
    config = EvalConfig(model="qwen", data=[str(EXAMPLES / "tool_calls.jsonl"), str(EXAMPLES / "thinking.jsonl")])
    held_out = take_turns(config, Preparer(qwen_tokenizer))
    assert held_out.format_known
    assert held_out.unread == 0
    assert not held_out.left_out
    assert sum(turn.reference.strict_schemas for turn in held_out.turns) > 100
    assert sum(bool(turn.reference.thinking) for turn in held_out.turns) > 50


def test_schemas_of_folded_tools_are_those_of_the_row(smollm2_tokenizer: Any, tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Bonn"}'}}
    messages = [{"role": "user", "content": "Bonn?"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"messages": messages, "tools": [WEATHER]}), encoding="utf-8")
    config = EvalConfig(model="smollm2", data=[str(path)], agent_format="react")
    turn = take_turns(config, Preparer(smollm2_tokenizer)).turns[0]
    assert turn.reference.strict_schemas
    assert turn.reference.calls[0].react
    assert turn.reference.calls[0].arguments == {"city": "Bonn"}


def test_data_without_any_turn_is_an_error_with_its_reason(smollm2: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "Hi"}]}\n', encoding="utf-8")
    config = EvalConfig(model=str(smollm2), data=[str(path)])
    with pytest.raises(UserError, match=r"no row of .*rows\.jsonl can be evaluated: .*rows\.jsonl:1"):
        take_turns(config, load_preparer(config))
