"""Every chat template, every kind of conversation: exact, or refused for the declared reason."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agentsft.render.template import message_dicts
from tests import cells
from tests.conversations import KINDS
from tests.families import TEXT_TEMPLATES


@pytest.mark.parametrize("template", TEXT_TEMPLATES)
def test_each_prompt_is_what_apply_chat_template_gives_a_server(template: str) -> None:
    preparer = cells.preparer(template)
    tokenizer: Any = preparer.tokenizer
    for kind, example in cells.examples(template).items():
        conversation = KINDS[kind]
        dicts = message_dicts(conversation, preparer.traits.arguments)
        tools = list(conversation.tools) or None
        for turn in example.turns:
            prompts = [
                tokenizer.apply_chat_template(
                    dicts[: turn.message],
                    tools=tools,
                    add_generation_prompt=True,
                    tokenize=False,
                    **{**conversation.template_kwargs, **mode},
                )
                for mode in ({}, {"enable_thinking": False})
            ]
            quiet = conversation.messages[turn.message].reasoning is None
            assert turn.prompt == prompts[0] or (quiet and turn.prompt == prompts[1]), kind
            full = turn.prompt + turn.response + turn.suffix
            rendered = [
                tokenizer.apply_chat_template(dicts[: turn.message + 1], tools=tools, tokenize=False, **kwargs)
                for kwargs in (conversation.template_kwargs, {**conversation.template_kwargs, "enable_thinking": False})
            ]
            rest = [text[len(full) :] for text in rendered if text.startswith(full)]
            opened = turn.suffix in preparer.traits.handover.values()
            rewritten = template == "gptoss" and rendered[0].endswith(turn.response + turn.suffix)
            assert rest or (opened and turn.prompt + turn.response in rendered) or rewritten, kind


@pytest.mark.parametrize("template", TEXT_TEMPLATES)
def test_the_ids_are_the_plain_encoding_of_prompt_and_response(template: str) -> None:
    preparer = cells.preparer(template)
    plain = preparer.tokenizer
    for kind, example in cells.examples(template).items():
        paths = [sequence.input_ids.tolist() for sequence in preparer.sequences(example)]
        for turn in example.turns:
            ids = [
                *plain(turn.prompt, add_special_tokens=False)["input_ids"],
                *plain(turn.response + turn.suffix, add_special_tokens=False)["input_ids"],
            ]
            assert any(path[: len(ids)] == ids for path in paths), kind


@pytest.mark.parametrize("template", TEXT_TEMPLATES)
def test_segments_join_to_the_text_and_trained_text_is_response_and_stop_token(template: str) -> None:
    preparer = cells.preparer(template)
    for kind, example in cells.examples(template).items():
        turns = {turn.message: turn for turn in example.turns}
        trained: list[str] = []
        marked: set[tuple[str, int, str]] = set()
        for sequence, leaf in zip(preparer.sequences(example), preparer.leaves(example), strict=True):
            text = "".join(segment.text for segment in sequence.segments)
            assert text == leaf.prompt + leaf.response + leaf.suffix, kind
            assert {segment.kind for segment in sequence.segments} <= {"system", "query", "response", "suffix"}
            marked |= {(segment.kind, segment.message, segment.text) for segment in sequence.segments}
            trained.append(preparer.tokenizer.decode(sequence.input_ids[sequence.labels != -100]))
        wanted = [turn.response + turn.suffix for turn in turns.values()]
        assert sorted("".join(trained)) == sorted("".join(wanted)), kind
        for turn in turns.values():
            assert any(turn.response + turn.suffix in text for text in trained), kind
            assert {("response", turn.message, turn.response), ("suffix", turn.message, turn.suffix)} <= marked, kind


@pytest.mark.parametrize("template", TEXT_TEMPLATES)
def test_a_trained_message_brings_its_content_reasoning_and_calls(template: str) -> None:
    for kind, example in cells.examples(template).items():
        for turn in example.turns:
            message = KINDS[kind].messages[turn.message]
            said = turn.prompt[-60:] + turn.response
            for piece in message.content.replace("</think>", "<think>").split("<think>"):
                assert piece.strip() in said, kind
            assert (message.reasoning or "") in turn.response, kind
            for call in message.tool_calls:
                assert isinstance(call.arguments, dict)
                assert call.name in turn.response
                assert all(value in turn.response for value in call.arguments.values()), kind


def test_the_thinking_of_a_tool_loop_is_there_when_the_final_answer_is_sampled() -> None:
    """gpt-oss writes a loop's thinking only as long as the final answer is not there: in the prompt, that is."""
    example = cells.examples("gptoss")["tool loop with reasoning"]
    last = example.turns[-1]
    assert "First Bonn." in last.prompt
    assert "Now Rome." in last.prompt
    assert last.response.count("30 is more than 21.") == last.response.count("Rome.") == 1
    assert last.suffix == "<|return|>"


def test_every_cell_is_as_the_page_declares() -> None:
    declared = cells.PAGE.read_text(encoding="utf-8")
    assert cells.page() == declared, "if the change is right, write the page anew: python -m tests.cells"


def test_no_template_fails_on_a_plain_question_but_those_that_always_think() -> None:
    refused = {t for t in TEXT_TEMPLATES if cells.examples(t)["plain"].refusal is not None}
    assert refused == {"deepseek_r1_distill", "deepseekv3"}


def test_argument_values_survive_templates_that_want_them_as_text() -> None:
    from agentsft.types import Message, ToolCall

    made = message_dicts(
        type(KINDS["plain"])((Message("assistant", tool_calls=(ToolCall("f", {"a": "ä", "b": [1]}),)),)), "text"
    )
    assert json.loads(made[0]["tool_calls"][0]["function"]["arguments"]) == {"a": "ä", "b": [1]}
