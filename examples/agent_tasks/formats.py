"""Episodes as rows of the usual data formats."""

from __future__ import annotations

import json
import random
from typing import Any

from agent_tasks.episode import Call, Episode, Exchange, Step, listing, spin
from agent_tasks.tools import BLIND_SQL, TOOLS

Row = dict[str, Any]
ASIDE = {
    "sql": "[Let me look that up in the database.|I will check our records.|One moment, I am querying the database.]",
    "calculator": "[Let me work that out.|I will compute it.]",
    "search_files": "[I will check the handbook.|Let me see what the handbook says.]",
    "read_file": "[I will read it up.|Let me open the handbook.]",
    "list_files": "[Let me see which files there are.]",
    "convert_units": "[Let me convert that.|I will convert it for you.]",
    "convert_currency": "[Let me check the rate.|I will convert the amount.]",
    "get_order": "[Let me find that order.|I will look at the order.]",
    "cancel_order": "[I will cancel it now.|One moment, cancelling it.]",
    "set_quantity": "[I will change the order.|Let me update the quantity.]",
}
KNOWN = "I now know the final answer"


def dumps(value: Any) -> str:
    """JSON on one line, with text as it is."""
    return json.dumps(value, ensure_ascii=False)


def offered(ep: Episode, extra: int = 1) -> list[str]:
    """The tools of an episode, with `extra` others that it does not need, in random order."""
    others = [name for name in TOOLS if name not in ep.tools and name not in ("sql", "cancel_order", "set_quantity")]
    names = ep.tools + ep.rng.sample(others, extra)
    ep.rng.shuffle(names)
    return names


def schemas(ep: Episode, names: list[str], tools: dict[str, Any] = TOOLS) -> list[Row]:
    """The tools in OpenAI's form."""
    functions = [{"name": name, **tools[name]} for name in names]
    if ep.blind:
        functions = [f | {"description": BLIND_SQL} if f["name"] == "sql" else f for f in functions]
    return [{"type": "function", "function": function} for function in functions]


# ReAct text


def react_system(ep: Episode, names: list[str]) -> str:
    """The system message of ReAct rows: the tools with their inputs, and the form to keep to."""
    lines = []
    for function in (schema["function"] for schema in schemas(ep, names)):
        properties = function["parameters"]["properties"]
        inputs = ", ".join(f'"{name}": {value["type"]}' for name, value in properties.items())
        lines.append(f"{function['name']} {{{inputs}}}: {function['description']}")
    return (
        "Answer the question with these tools:\n"
        + "\n".join(lines)
        + "\n\nWrite a Thought, an Action (a tool's name) and "
        "its Action Input in JSON, and wait for the Observation. When you know enough, write a Thought and the Final "
        "Answer."
    )


def react_step(thought: str, call: Call) -> str:
    """One step of the agent."""
    return f"Thought: {thought}\nAction: {call.name}\nAction Input: {dumps(call.arguments)}"


def react_final(rng: random.Random, exchange: Exchange) -> str:
    """The last message: mostly with the fixed thought that ends ReAct, sometimes with its own before it."""
    thought = KNOWN if rng.random() < 0.6 else f"{exchange.thought} {KNOWN}"
    return f"Thought: {thought}\nFinal Answer: {exchange.answer}"


def react(ep: Episode, extra: int = 1) -> Row:
    """One step a message, observations as user messages."""
    messages: list[Row] = [{"role": "system", "content": react_system(ep, offered(ep, extra))}]
    for exchange in ep.exchanges:
        messages.append({"role": "user", "content": f"Question: {exchange.question}"})
        for step in exchange.steps:
            (call,) = step.calls
            messages.append({"role": "assistant", "content": react_step(step.thought, call)})
            messages.append({"role": "user", "content": f"Observation: {call.observation}"})
        messages.append({"role": "assistant", "content": react_final(ep.rng, exchange)})
    return {"messages": messages}


def react_alpaca(ep: Episode) -> Row:
    """The whole trajectory, observations included, in one output."""
    (exchange,) = ep.exchanges
    steps = "".join(
        f"{react_step(s.thought, s.calls[0])}\nObservation: {s.calls[0].observation}\n" for s in exchange.steps
    )
    output = steps + react_final(ep.rng, exchange)
    return {"instruction": react_system(ep, offered(ep)), "input": f"Question: {exchange.question}", "output": output}


# OpenAI messages


def call_id(rng: random.Random) -> str:
    """An id like those of the usual servers."""
    return f"call_{rng.getrandbits(40):010x}"


def tool_messages(ep: Episode, step: Step, message: Row, as_text: bool) -> list[Row]:
    """`message` with the calls of a step, and the tools' answers."""
    ids = [call_id(ep.rng) for _ in step.calls]
    calls = [
        {
            "id": i,
            "type": "function",
            "function": {"name": c.name, "arguments": dumps(c.arguments) if as_text else c.arguments},
        }
        for i, c in zip(ids, step.calls, strict=True)
    ]
    answers = [
        {"role": "tool", "tool_call_id": i, "name": c.name, "content": c.observation}
        for i, c in zip(ids, step.calls, strict=True)
    ]
    return [message | {"tool_calls": calls}, *answers]


def openai(ep: Episode, aside: float = 0.0, system: bool = True, extra: int = 1) -> Row:
    """tool_calls with JSON text as arguments; `aside` is the share of calls that come with a word to the user."""
    messages: list[Row] = []
    if system:
        text = (
            "[You are the assistant of {shop}.|You help the staff of {shop}.|You work for {shop}.] [Use the tools; "
            "do not guess.|Answer from what the tools return.|Call tools where they help and keep answers short.]"
        )
        messages.append({"role": "system", "content": spin(ep.rng, text).format(shop=ep.world.shop)})
    for exchange in ep.exchanges:
        messages.append({"role": "user", "content": exchange.question})
        for step in exchange.steps:
            spoken = ASIDE.get(step.calls[0].name) if ep.rng.random() < aside else None
            content = spin(ep.rng, spoken) if spoken else None
            messages += tool_messages(ep, step, {"role": "assistant", "content": content}, as_text=True)
        messages.append({"role": "assistant", "content": exchange.answer})
    return {"messages": messages, "tools": schemas(ep, offered(ep, extra))}


# Thinking


def opening(rng: random.Random, goal: str) -> str:
    """How a train of thought starts: with what is wanted."""
    wanted = "wants to know|asks" if goal.startswith(("wh", "how ")) else "wants to know|asks for|needs"
    verb = "wants" if goal.startswith("to ") else f"[{wanted}]"
    return spin(rng, f"[Okay, the|So the|Right, the|The] user {verb} ") + f"{goal}. "


def plan(rng: random.Random, steps: list[Step]) -> str:
    """Which tools the agent means to use, or only the next one where that is not known beforehand."""
    names = list(dict.fromkeys(step.calls[0].name for step in steps))
    if len(names) > 1 and not any(step.failed for step in steps):
        return spin(rng, "[The plan|My plan|In order]: ") + f"{listing(names, ', then ')}."
    return spin(rng, f"[I call|I use|So I call|The tool is] {names[0]}.")


def thoughts(ep: Episode, exchange: Exchange) -> list[str]:
    """What the agent thinks before each of its messages in an exchange.

    It takes up the question and makes a plan, repeats what went wrong, and ends on whether it can answer.
    """
    texts = [step.thought for step in exchange.steps] + [exchange.thought]
    texts[0] = f"{opening(ep.rng, exchange.goal)}{texts[0]}"
    if not exchange.steps:
        return texts
    texts[0] += f" {plan(ep.rng, exchange.steps)}"
    for number, step in enumerate(exchange.steps):
        if step.failed:
            why = step.calls[0].observation.removeprefix("Error: ")
            texts[number + 1] = (
                spin(ep.rng, "[It failed|That did not work|The tool refuses]") + f": {why}. {texts[number + 1]}"
            )
    if "answer" not in texts[-1]:
        texts[-1] += spin(ep.rng, "[ That answers the question.| I can answer now.| Nothing else is open.|]")
    return texts


def reasoning(ep: Episode) -> Row:
    """Thinking in `reasoning_content`; arguments as objects."""
    messages: list[Row] = []
    for exchange in ep.exchanges:
        *before, last = thoughts(ep, exchange)
        messages.append({"role": "user", "content": exchange.question})
        for step, thought in zip(exchange.steps, before, strict=True):
            message = {"role": "assistant", "content": "", "reasoning_content": thought}
            messages += tool_messages(ep, step, message, as_text=False)
        messages.append({"role": "assistant", "content": exchange.answer, "reasoning_content": last})
    return _with_tools(ep, messages)


def inline(ep: Episode, empty: list[bool], switch: bool = False) -> Row:
    """Thinking in the content as <think> blocks, empty ones in the exchanges where `empty` says so.

    With `switch`, the user asks for the empty ones by ending the question on /no_think.
    """
    messages: list[Row] = []
    for exchange, none in zip(ep.exchanges, empty, strict=True):
        *before, last = ["<think>\n" + ("" if none else text) + "\n</think>\n\n" for text in thoughts(ep, exchange)]
        messages.append({"role": "user", "content": exchange.question + (" /no_think" if none and switch else "")})
        for step, block in zip(exchange.steps, before, strict=True):
            messages += tool_messages(ep, step, {"role": "assistant", "content": block}, as_text=False)
        messages.append({"role": "assistant", "content": last + exchange.answer})
    return _with_tools(ep, messages)


def _with_tools(ep: Episode, messages: list[Row]) -> Row:
    return {"messages": messages} | ({"tools": schemas(ep, offered(ep))} if ep.tools else {})


# ShareGPT


def sharegpt(ep: Episode, system: bool) -> Row:
    """human, function_call, observation and gpt, with the tools as JSON text."""
    turns = []
    if system:
        turns.append(
            {"from": "system", "value": f"You are the assistant of {ep.world.shop}. Use the tools; do not guess."}
        )
    for exchange in ep.exchanges:
        turns.append({"from": "human", "value": exchange.question})
        for step in exchange.steps:
            (call,) = step.calls
            turns.append({"from": "function_call", "value": dumps({"name": call.name, "arguments": call.arguments})})
            turns.append({"from": "observation", "value": call.observation})
        turns.append({"from": "gpt", "value": exchange.answer})
    functions = [schema["function"] for schema in schemas(ep, offered(ep))]
    return {"conversations": turns, "tools": dumps(functions)}
