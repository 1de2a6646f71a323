"""The example conversations: made by tools that run, in the formats they claim, without repetitions."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

EXAMPLES = Path(__file__).parents[1] / "examples"
DATA = EXAMPLES / "data"
FILES = {
    "react.jsonl": 60,
    "react_eval.jsonl": 16,
    "tool_calls.jsonl": 40,
    "sharegpt.json": 30,
    "thinking.jsonl": 40,
    "chinese.jsonl": 15,
    "alpaca.json": 15,
    "weights.jsonl": 6,
}
FLAGS = {"loss", "train", "trainable", "training", "weight", "loss_weight", "loss_scale"}
# Tools whose result follows from their arguments alone, so that a test can run them again.
STATELESS = {"calculator", "convert_units", "convert_currency", "exchange_rate", "add_days", "days_between", "weekday"}


class Called(NamedTuple):
    """A call, the arguments' schema as the row or the toolbox states it, and what the tool returned."""

    name: str
    arguments: dict[str, Any]
    schema: dict[str, Any]
    observation: str


def rows_of(name: str) -> list[dict[str, Any]]:
    text = (DATA / name).read_text(encoding="utf-8")
    return json.loads(text) if name.endswith(".json") else [json.loads(line) for line in text.splitlines()]


def all_rows() -> Iterator[tuple[str, dict[str, Any]]]:
    for name in FILES:
        for row in rows_of(name):
            yield name, row


def plain(row: dict[str, Any]) -> list[tuple[str, str]]:
    """A row as (user | tool | assistant, text), without thinking; ReAct's observations are the tool's."""
    pairs: list[tuple[str, str]] = []
    if "output" in row:
        pairs.append(("user", row["input"]))
        for number, part in enumerate(re.split(r"\nObservation: |\n(?=Thought: )", row["output"])):
            pairs.append(("tool" if number and not part.startswith("Thought: ") else "assistant", part))
    for message in row.get("messages", []):
        text = re.sub(r"<think>.*?</think>", "", message["content"] or "", flags=re.DOTALL)
        role = "tool" if text.startswith("Observation: ") else message["role"]
        pairs.append((role, text))
    roles = {"human": "user", "gpt": "assistant", "function_call": "call", "observation": "tool", "system": "system"}
    pairs += [(roles[turn["from"]], turn["value"]) for turn in row.get("conversations", [])]
    return pairs


def react_calls(pairs: list[tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    for (_, text), (_, observation) in pairwise(pairs):
        if action := re.search(r"Action: (\w+)\nAction Input: (\{.*\})", text):
            yield action[1], action[2], observation.removeprefix("Observation: ")


def calls(row: dict[str, Any], toolbox: Any) -> Iterator[Called]:
    """Every call of a row, in whatever format it is written."""
    tools = json.loads(row["tools"]) if isinstance(row.get("tools"), str) else row.get("tools", [])
    functions = [tool.get("function", tool) for tool in tools]
    schemas = {function["name"]: function["parameters"] for function in functions}
    pairs = plain(row)
    for name, text, observation in react_calls(pairs):
        yield Called(name, json.loads(text), toolbox.TOOLS[name]["parameters"], observation)
    for (role, text), (_, observation) in pairwise(pairs):
        if role == "call":
            call = json.loads(text)
            yield Called(call["name"], call["arguments"], schemas[call["name"]], observation)
    messages = row.get("messages", [])
    for number, message in enumerate(messages):
        for place, call in enumerate(message.get("tool_calls", [])):
            name, arguments = call["function"]["name"], call["function"]["arguments"]
            answer = messages[number + 1 + place]
            assert (answer["role"], answer["tool_call_id"], answer["name"]) == ("tool", call["id"], name)
            arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
            yield Called(name, arguments, schemas[name], answer["content"])


def numbers(text: str) -> set[float]:
    return {float(number) for number in re.findall(r"\d+(?:\.\d+)?", text)}


@pytest.fixture
def toolbox(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(EXAMPLES)
    from agent_tasks import tools

    return tools


def test_the_script_writes_the_committed_bytes_whatever_the_hash_seed(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "make_data.py"), "--out", str(tmp_path)]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONHASHSEED": "12345", "TZ": "Asia/Tokyo"})
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (DATA / name).read_bytes(), f"{name}: run examples/make_data.py again"


def test_there_are_enough_rows_and_they_stay_small() -> None:
    counts = {name: len(rows_of(name)) for name in FILES}
    assert all(counts[name] >= least for name, least in FILES.items())
    assert sum(counts.values()) >= 240
    assert sum((DATA / name).stat().st_size for name in FILES) < 1_500_000
    table = (DATA / "README.md").read_text(encoding="utf-8")
    assert all(f"| {name} | {count} |" in table for name, count in counts.items())
    assert table.split()[3] == str(sum(counts.values()))


def test_no_two_rows_say_the_same() -> None:
    texts = [json.dumps(plain(row)) for _, row in all_rows()]
    assert len(set(texts)) == len(texts)
    ids = [row["id"] for _, row in all_rows()]
    assert len(set(ids)) == len(ids)
    asked = [row["messages"][1]["content"] for _, row in all_rows() if row["id"].startswith("react")]
    assert len(set(asked)) == len(asked)


def test_arguments_follow_the_schema_of_their_tool(toolbox: Any) -> None:
    called = set()
    validators: dict[str, jsonschema.Draft202012Validator] = {}
    for _, row in all_rows():
        for call in calls(row, toolbox):
            text = json.dumps(call.schema)
            if text not in validators:
                jsonschema.Draft202012Validator.check_schema(call.schema)
                validators[text] = jsonschema.Draft202012Validator(call.schema)
            validators[text].validate(call.arguments)
            called.add(call.name)
    assert called == set(toolbox.TOOLS)


def test_observations_are_what_the_tools_return(toolbox: Any) -> None:
    box = toolbox.Toolbox(world=None)
    checked, failed = 0, 0
    for _, row in all_rows():
        for call in calls(row, toolbox):
            if call.name in STATELESS:
                assert box.call(call.name, call.arguments) == call.observation
                checked += 1
                failed += call.observation.startswith("Error: ")
    assert checked > 200
    assert failed > 15


def test_answers_take_their_numbers_from_observations_or_questions() -> None:
    answers = 0
    for _, row in all_rows():
        known: set[float] = set()
        for role, text in plain(row):
            if role in ("user", "tool"):
                known |= numbers(text)
            elif role == "assistant" and ("Final Answer: " in text or "Action: " not in text):
                assert numbers(text.rpartition("Final Answer: ")[2]) <= known, (row["id"], text)
                answers += 1
    assert answers > 300


def test_react_rows_alternate_and_end_on_a_final_answer() -> None:
    steps = set()
    for name in ("react.jsonl", "react_eval.jsonl"):
        for row in rows_of(name):
            roles = [message["role"] for message in row["messages"]]
            assert roles == ["system"] + ["user", "assistant"] * (len(roles) // 2)
            *before, last = [message["content"] for message in row["messages"] if message["role"] == "assistant"]
            assert all(re.fullmatch(r"Thought: .+\nAction: \w+\nAction Input: \{.*\}", text) for text in before)
            assert re.fullmatch(r"Thought: .*I now know the final answer\nFinal Answer: .+", last)
            steps.add(len(before))
    assert steps == {1, 2, 3, 4, 5}


def test_every_file_shows_what_its_description_promises() -> None:
    messages = {name: [message for row in rows_of(name) for message in row.get("messages", [])] for name in FILES}
    callers = [message for message in messages["tool_calls.jsonl"] if message.get("tool_calls")]
    assert any(len(message["tool_calls"]) > 2 for message in callers)
    assert {message["content"] is None for message in callers} == {True, False}
    assert any([role for role, _ in plain(row)].count("user") > 2 for row in rows_of("tool_calls.jsonl"))
    thinking = messages["thinking.jsonl"]
    assert any(message.get("reasoning_content") and message.get("tool_calls") for message in thinking)
    assert sum(message["content"].startswith("<think>\n\n</think>\n\n") for message in thinking) > 20
    assert sum(bool(re.match(r"<think>\n[^\n]+\n</think>\n\n", message["content"])) for message in thinking) > 20
    turns = [turn["from"] for row in rows_of("sharegpt.json") for turn in row["conversations"]]
    assert set(turns) == {"system", "human", "gpt", "function_call", "observation"}
    chinese = rows_of("chinese.jsonl")
    assert all(re.search(r"[\u4e00-\u9fff]", plain(row)[-1][1]) for row in chinese)
    assert {"tools" in row for row in chinese} == {True, False}
    trajectories = ["\nObservation: " in row["output"] for row in rows_of("alpaca.json")]
    assert set(trajectories) == {True, False}
    assert {key for message in messages["weights.jsonl"] for key in message} >= FLAGS


def test_all_rows_are_read_as_conversations() -> None:
    from agentsft.data.read import read_rows

    for name in FILES:
        rows = list(read_rows([str(DATA / name)]))
        assert [row.refusal for row in rows] == [None] * len(rows_of(name))


@given(st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6), st.sampled_from("+-*/"))
def test_the_calculator_computes(a: int, b: int, sign: str) -> None:
    sys.path.insert(0, str(EXAMPLES))
    try:
        from agent_tasks.tools import ToolError, calculate
    finally:
        sys.path.remove(str(EXAMPLES))
    if sign == "/" and b == 0:
        with pytest.raises(ToolError, match="division by zero"):
            calculate(f"{a} / {b}")
    else:
        want = {"+": a + b, "-": a - b, "*": a * b, "/": a / (b or 1)}[sign]
        assert calculate(f"({a}) {sign} ({b})") == pytest.approx(want, abs=1e-9)


@pytest.mark.parametrize(
    "expression",
    ["__import__('os')", "(1).real", "9 ** 9 ** 9", "'a' * 9", "[1]", "1 if 1 else 2", "open(1)", "1 +", "True + 1"],
)
def test_the_calculator_refuses_all_but_arithmetic(toolbox: Any, expression: str) -> None:
    with pytest.raises(toolbox.ToolError):
        toolbox.calculate(expression)


def test_the_sql_tool_cannot_write_and_files_stay_in_their_folder(toolbox: Any, tmp_path: Path) -> None:
    import random

    from agent_tasks.world import make_world

    (tmp_path / "secret.md").write_text("secret")
    box = toolbox.Toolbox(make_world(random.Random(1), tmp_path / "handbook"))
    assert box.call("sql", {"query": "DELETE FROM orders"}).startswith("Error: ")
    assert box.call("sql", {"query": "SELECT COUNT(*) > 0 AS n FROM orders"}) == '[{"n": 1}]'
    assert box.call("read_file", {"path": "../secret.md"}) == "Error: no such file: ../secret.md"
