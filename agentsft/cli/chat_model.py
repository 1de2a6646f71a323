"""The other side of a chat: a model, its history, and its answers as a server would sample them."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from agentsft.config import DataConfig
from agentsft.data.agent_format import AGENT_FORMATS, describe, fold
from agentsft.data.fields import read_tools
from agentsft.data.json_text import parse_json
from agentsft.encode.load import load_preparer
from agentsft.encode.prepare import Preparer
from agentsft.errors import RowError, UserError
from agentsft.evaluate.formats import Call
from agentsft.evaluate.reading import opened_by, read_response
from agentsft.render.template import message_dicts
from agentsft.types import Conversation, Message, ToolCall
from agentsft.weigh.labels import label_response

RETRY_TEMPERATURE = 0.8


class ChatModel:
    """A model with the tools that it may call. `stream` answers; nothing is remembered here."""

    def __init__(self, preparer: Preparer, model: Any, tools: tuple[dict[str, Any], ...], agent_format: str | None):
        self.preparer, self.model, self.tools, self.agent_format = preparer, model, tools, agent_format
        self.schemas = {tool["function"]["name"]: tool["function"].get("parameters") for tool in tools}
        if tools and agent_format is None and not preparer.traits.renders_tools:
            known = "|".join(AGENT_FORMATS)
            raise UserError(f"--tools: this chat template shows no tools; write them as text: --agent-format {known}.")
        limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.limit = min(filter(None, (preparer.max_length, limit)), default=None)

    def prompt(self, messages: list[Message]) -> str:
        """What a server renders for the next answer. Raises RowError where the template refuses."""
        conversation = Conversation(tuple(messages), self.tools)
        if self.agent_format:
            conversation = fold(conversation, self.agent_format)
        dicts = message_dicts(conversation, self.preparer.traits.arguments)
        return self.preparer.template.render(dicts, conversation.tools, add_generation_prompt=True)

    def stream(
        self, prompt: str, max_new_tokens: int, temperature: float | None, stopped: threading.Event
    ) -> Generator[str, None, None]:
        """The answer to `prompt`, in pieces, without its stop token. It ends early once `stopped` is set.

        A `temperature` of 0 is greedy; None leaves the choice to the model's generation config, as servers do.
        Raises RowError where the prompt is longer than the model's context.
        """
        from transformers import StoppingCriteriaList, TextIteratorStreamer

        tokenizer, stops = self.preparer.tokenizer, self._stops()
        ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").to(self.model.device)
        length = ids["input_ids"].shape[1]
        if self.limit and length >= self.limit:
            raise RowError("too_long", f"the conversation has {length} tokens, the model takes {self.limit}: /reset.")
        stop_ids = tokenizer.convert_tokens_to_ids(list(self.preparer.traits.stop_tokens))
        options: dict[str, Any] = {
            "max_new_tokens": min(max_new_tokens, self.limit - length) if self.limit else max_new_tokens,
            "eos_token_id": stop_ids,
            "pad_token_id": tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stop_ids[0],
            "stopping_criteria": StoppingCriteriaList([lambda *_: stopped.is_set()]),
        }
        if temperature == 0:
            options |= {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        elif temperature is not None:
            options |= {"do_sample": True, "temperature": temperature}
        if stop_texts := [stop for stop in stops if stop not in self.preparer.traits.stop_tokens]:
            options |= {"stop_strings": stop_texts, "tokenizer": tokenizer}
        streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=False)
        failure: list[Exception] = []

        def work() -> None:
            try:
                self.model.generate(**ids, **options, streamer=streamer)
            except Exception as error:  # said where the answer is read
                failure.append(error)
                streamer.end()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield from until_stop(streamer, stops)
        finally:
            stopped.set()
            thread.join()
        if failure:
            raise UserError(f"the model failed: {' '.join(str(failure[0]).split())[:300]}") from failure[0]

    def _stops(self) -> list[str]:
        texts: list[str] = list(self.preparer.traits.stop_tokens)
        if self.agent_format:
            texts += json.loads(describe(self.agent_format))["stop"]
        return texts

    def message(self, prompt: str, response: str) -> tuple[Message, tuple[Call, ...]]:
        """The answer as a server hands it to its client, and the calls in it: those that can be read become
        structured, thinking goes where the template shows it. What the template cannot show stays text.
        """
        calls = read_response(response, prompt, self.schemas).calls
        traits, text = self.preparer.traits, opened_by(prompt) + response
        pieces = [(text[start:end], label) for start, end, label in label_response(text)]
        structured = traits.renders_tool_calls and not self.agent_format
        structured = structured and bool(calls) and not any(call.fault or call.react for call in calls)
        reasoning = None
        if traits.renders_reasoning and any(label == "think" for _, label in pieces):
            thought = "".join(piece for piece, label in pieces if label == "think")
            reasoning, pieces = without_tags(thought), [(p, label) for p, label in pieces if label != "think"]
        else:
            pieces = [(response, "text")] if not structured else pieces
        content = "".join(piece for piece, label in pieces if not (structured and label == "tool_call"))
        made = tuple(ToolCall(call.name, call.arguments, f"call{k:05d}") for k, call in enumerate(calls))
        content = content.strip() if structured or reasoning is not None else content
        return Message("assistant", content, reasoning, made if structured else ()), calls

    def result(self, answer: Message, call: Call, number: int, text: str) -> Message:
        """The result of call `number` of `answer`, as the next message."""
        if answer.tool_calls:
            return Message("tool", text, tool_call_id=answer.tool_calls[number].id, name=call.name)
        if self.agent_format:
            return Message("tool", text, name=call.name)
        if call.react:
            return Message("user", f"Observation: {text}")
        return Message("user", f"<tool_response>\n{text}\n</tool_response>")


def without_tags(thought: str) -> str:
    """The text inside a think block."""
    return re.sub(r"<[^<>\n]*>|\[/?THINK\]", "", thought).strip()


def until_stop(pieces: Iterator[str], stops: list[str]) -> Iterator[str]:
    """The pieces up to the first of `stops`, which is left out; what may be its beginning is held back."""
    held = ""
    for piece in pieces:
        held += piece
        found = [place for stop in stops if (place := held.find(stop)) >= 0]
        if found:
            if min(found):
                yield held[: min(found)]
            for _ in pieces:  # until the model is done
                pass
            return
        keep = max((size for stop in stops for size in range(1, len(stop)) if held.endswith(stop[:size])), default=0)
        if ready := held[: len(held) - keep]:
            yield ready
        held = held[len(held) - keep :]
    if held:
        yield held


def load_chat_model(config: DataConfig, tools: Path | None) -> ChatModel:
    """The model, or the adapter with its base, that `config.model` names. Raises UserError where it cannot be had."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    declared = _tools(tools) if tools else ()
    preparer = load_preparer(config)
    folder = Path(config.model)
    adapter = (folder / "adapter_config.json").is_file()
    logging.disable_progress_bar()
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    try:
        if adapter:
            from peft import AutoPeftModelForCausalLM

            model = AutoPeftModelForCausalLM.from_pretrained(config.model, dtype="auto")
        else:
            model = AutoModelForCausalLM.from_pretrained(
                config.model, dtype="auto", trust_remote_code=config.trust_remote_code
            )
    except Exception as error:  # damaged files make the libraries raise all kinds
        words = " ".join(str(error).split())[:300]
        raise UserError(f"model {config.model!r} cannot be loaded ({words}).") from None
    return ChatModel(preparer, model.to(device).eval(), declared, config.agent_format or _saved_format(folder))


def _saved_format(folder: Path) -> str | None:
    """The agent format that training left beside the model."""
    try:
        name = json.loads((folder / "agent_format.json").read_text(encoding="utf-8"))["agent_format"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return name if name in AGENT_FORMATS else None


def _tools(path: Path) -> tuple[dict[str, Any], ...]:
    try:
        return read_tools({"tools": parse_json(path.read_text(encoding="utf-8-sig"))})
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--tools: {path} cannot be read ({error}).") from None
    except RowError as error:
        raise UserError(f"--tools: {path}: {error.detail}") from None
    except ValueError as error:
        raise UserError(f"--tools: {path} is not valid JSON ({error}); it holds a list of tools.") from None
