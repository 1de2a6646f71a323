"""`agentsft chat`: answers in the served context, shown as they come, in a terminal and through a pipe."""

from __future__ import annotations

import io
import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from agentsft.cli.app import app
from agentsft.cli.chat import Chat, Shown
from agentsft.cli.chat_model import ChatModel, load_chat_model, until_stop
from agentsft.config import DataConfig
from agentsft.encode.prepare import Preparer
from agentsft.errors import RowError, UserError
from agentsft.types import Message

TOOLS = (
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Weather.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    },
)
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


class Scripted(ChatModel):
    """A model that gives the answers of a list, in small pieces, and keeps the prompts it was given."""

    def __init__(self, tokenizer: Any, *answers: Any, tools: Any = (), agent_format: str | None = None) -> None:
        config = SimpleNamespace(get_text_config=lambda: SimpleNamespace())
        super().__init__(Preparer(tokenizer), SimpleNamespace(config=config), tools, agent_format)
        self.answers, self.prompts = list(answers), []
        self.temperatures: list[float | None] = []

    def stream(
        self, prompt: str, max_new_tokens: int, temperature: float | None, stopped: threading.Event
    ) -> Iterator[str]:
        self.prompts.append(prompt)
        self.temperatures.append(temperature)
        answer = self.answers.pop(0)
        for piece in [answer] if isinstance(answer, BaseException) else re.findall(r".{1,3}", answer, re.DOTALL):
            if isinstance(piece, BaseException):
                raise piece
            yield piece


def talk(model: ChatModel, *lines: Any, interactive: bool = True, system: str | None = None) -> tuple[Chat, str]:
    """A chat in a terminal of 80 columns with what the user types, and all that is on the screen after it."""
    given = list(lines)

    def read(prompt: str) -> str:
        if not given:
            raise EOFError
        if isinstance(given[0], BaseException):
            raise given.pop(0)
        return given.pop(0)

    shown = io.StringIO()
    screen = Console(file=shown, force_terminal=True, color_system="truecolor", width=80, highlight=False)
    chat = Chat(model, screen, interactive, system, 64, 0.0, read)
    chat.run()
    return chat, shown.getvalue()


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def template(tokenizer: Any, messages: list[dict[str, Any]], tools: Any = None) -> str:
    return tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=True, tokenize=False)


def test_every_prompt_is_what_a_server_renders_and_history_is_kept(smollm2_tokenizer: Any) -> None:
    model = Scripted(smollm2_tokenizer, "Paris.", "Rome.")
    talk(model, "France?", "Italy?", system="Be brief.")
    said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "France?"}]
    assert model.prompts[0] == template(smollm2_tokenizer, said)
    said += [{"role": "assistant", "content": "Paris."}, {"role": "user", "content": "Italy?"}]
    assert model.prompts[1] == template(smollm2_tokenizer, said)


def test_calls_thinking_and_results_go_back_as_a_server_would_send_them(qwen_tokenizer: Any) -> None:
    answer = "<think>\nI look it up.\n</think>\n\nOne moment.\n" + CALL
    model = Scripted(qwen_tokenizer, answer, "Rain.", tools=TOOLS)
    _, screen = talk(model, "Oslo?", "wet")
    call = {"type": "function", "id": "call00000", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
    said = [
        {"role": "user", "content": "Oslo?"},
        {"role": "assistant", "content": "One moment.", "reasoning_content": "I look it up.", "tool_calls": [call]},
        {"role": "tool", "content": "wet", "tool_call_id": "call00000", "name": "weather"},
    ]
    assert model.prompts[1] == template(qwen_tokenizer, said, list(TOOLS))
    assert "call: weather" in plain(screen)
    assert '"city": "Oslo"' in plain(screen)
    assert "<tool_call>" not in plain(screen)
    assert re.search(r"\x1b\[2;3m[^\x1b]*look", screen)  # dim and italic


def test_react_text_stays_text_and_the_result_is_an_observation(smollm2_tokenizer: Any) -> None:
    step = 'Thought: look\nAction: weather\nAction Input: {"city": "Oslo"}'
    model = Scripted(smollm2_tokenizer, step, "Final Answer: rain")
    talk(model, "Oslo?", "wet")
    said = [
        {"role": "user", "content": "Oslo?"},
        {"role": "assistant", "content": step},
        {"role": "user", "content": "Observation: wet"},
    ]
    assert model.prompts[1] == template(smollm2_tokenizer, said)


@pytest.mark.parametrize("agent_format", ["react", "hermes", "qwen"])
def test_an_agent_format_writes_tools_and_results_in_its_words(smollm2_tokenizer: Any, agent_format: str) -> None:
    from agentsft.data.agent_format import fold
    from agentsft.render.template import message_dicts
    from agentsft.types import Conversation, ToolCall

    call = Message("assistant", "I look.", tool_calls=(ToolCall("weather", {"city": "Oslo"}),))
    said = Conversation((Message("user", "Oslo?"), call, Message("tool", "wet", name="weather")), TOOLS)
    folded = fold(said, agent_format)
    model = Scripted(smollm2_tokenizer, folded.messages[-2].content, "Rain.", tools=TOOLS, agent_format=agent_format)
    if agent_format == "qwen":  # no reader for its calls: the text goes on without a result
        talk(model, "Oslo?")
        assert model.prompts[0] == template(smollm2_tokenizer, message_dicts(folded)[:2])
        return
    talk(model, "Oslo?", "wet")
    assert model.prompts[1] == template(smollm2_tokenizer, message_dicts(folded))


def test_tools_that_the_template_cannot_show_are_refused(smollm2_tokenizer: Any) -> None:
    with pytest.raises(UserError, match="--agent-format"):
        Scripted(smollm2_tokenizer, tools=TOOLS)


def test_retry_takes_the_answer_back_and_samples_and_reset_forgets(smollm2_tokenizer: Any) -> None:
    model = Scripted(smollm2_tokenizer, "one", "two", "three")
    chat, _ = talk(model, "/retry", "Hi", "/retry", "/reset", "Hello", system="S")
    assert model.prompts[0] == model.prompts[1]
    assert model.temperatures == [0.0, 0.8, 0.0]
    assert [message.content for message in chat.messages] == ["S", "Hello", "three"]


def test_ctrl_c_stops_the_answer_and_not_the_program(smollm2_tokenizer: Any) -> None:
    class Stopped(Scripted):
        def stream(self, *arguments: Any) -> Iterator[str]:
            yield from ("half ", "an ")
            if len(self.prompts) == 0:
                self.prompts.append(arguments[0])
                raise KeyboardInterrupt
            yield "answer"

    model = Stopped(smollm2_tokenizer)
    chat, screen = talk(model, "Hi", KeyboardInterrupt(), "Again", "/quit", "never read")
    assert [message.content for message in chat.messages] == ["Hi", "half an ", "Again", "half an answer"]
    assert "stopped" in plain(screen)
    assert "Ctrl-D" in plain(screen)


def test_a_question_that_the_template_refuses_is_taken_back(smollm2_tokenizer: Any) -> None:
    model = Scripted(smollm2_tokenizer, RowError("too_long", "too long: /reset."), "fine")
    chat, screen = talk(model, "Long", "Short", system="S")
    assert [message.content for message in chat.messages] == ["S", "Short", "fine"]
    assert "too long" in plain(screen)


@pytest.mark.parametrize("line", ["/help", "/nothing"])
def test_unknown_commands_show_the_few_there_are(smollm2_tokenizer: Any, line: str) -> None:
    _, screen = talk(Scripted(smollm2_tokenizer), line)
    assert all(name in plain(screen) for name in ("/help", "/reset", "/retry", "/quit"))


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ["<think>", "</think>", "\n", "word ", "Thought:", "Action: f", "Action Input: {}", "<b", "> ", "[x", "é"]
        )
    ),
    st.integers(1, 7),
)
def test_all_text_is_shown_once_however_it_comes(parts: list[str], size: int) -> None:
    text = "".join(parts)
    written = io.StringIO()
    shown = Shown(Console(file=written, force_terminal=True, color_system=None, width=200, highlight=False), "")
    for start in range(0, len(text), size):
        shown.add(text[start : start + size])
    shown.end()
    assert plain(written.getvalue()).strip() == text.strip()


def test_what_a_model_writes_cannot_steer_the_terminal() -> None:
    written = io.StringIO()
    shown = Shown(Console(file=written, force_terminal=True, color_system="truecolor", width=80, highlight=False), "")
    shown.add('\x1b]0;title\x07 <tool_call>\n{"name": "f\\u001b[2J", "arguments": {"a": "\\u001b[2J"}}\n</tool_call>')
    shown.end()
    output = written.getvalue()
    assert "\x1b]" not in output
    assert "\x1b[2J" not in output
    assert "\x07" not in output


@given(st.lists(st.text(alphabet="ab<|>", max_size=5)), st.lists(st.text(alphabet="ab<|>", min_size=1, max_size=4)))
def test_an_answer_ends_before_its_first_stop(pieces: list[str], stops: list[str]) -> None:
    text, shown = "".join(pieces), "".join(until_stop(iter(pieces), stops))
    assert text.startswith(shown)
    assert not any(stop in shown for stop in stops)
    assert shown == text or any(text.startswith(stop, len(shown)) for stop in stops)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, smollm2_tokenizer: Any) -> Callable[[str], Path]:
    """A tiny random Llama with SmolLM2's tokenizer, saved as a model or as an adapter."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model: Any = LlamaForCausalLM(LlamaConfig(vocab_size=len(smollm2_tokenizer), eos_token_id=2, **shape))
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in ("model", "adapter")}
    model.save_pretrained(folders["model"])
    model = get_peft_model(model, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    model.peft_config["default"].base_model_name_or_path = str(folders["model"])
    model.save_pretrained(folders["adapter"])
    for folder in folders.values():
        smollm2_tokenizer.save_pretrained(folder)
    return lambda kind: folders[kind]


@pytest.mark.parametrize("kind", ["model", "adapter"])
def test_models_and_adapters_answer_line_by_line_in_a_pipe(tiny: Callable[[str], Path], kind: str) -> None:
    arguments = ["chat", str(tiny(kind)), "--max-new-tokens", "5", "--temperature", "0"]
    first = CliRunner().invoke(app, arguments, input="Hello\n", catch_exceptions=False)
    both = CliRunner().invoke(app, arguments, input="Hello\n\n/reset\nHello\n", catch_exceptions=False)
    assert (first.exit_code, both.exit_code) == (0, 0)
    assert first.stdout
    assert both.stdout == first.stdout * 2
    assert "\x1b" not in both.stdout


def test_a_stream_is_what_the_model_generates_and_ends_when_it_is_stopped(tiny: Callable[[str], Path]) -> None:
    model = load_chat_model(DataConfig(model=str(tiny("model"))), None)
    threads = set(threading.enumerate())
    prompt = model.prompt([Message("user", "Hello")])
    ids = model.preparer.tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
    whole = model.model.generate(**ids, max_new_tokens=12, do_sample=False, eos_token_id=2, pad_token_id=2)
    expected = model.preparer.tokenizer.decode(whole[0, ids["input_ids"].shape[1] :])
    pieces = list(model.stream(prompt, 12, 0, threading.Event()))
    assert "".join(pieces) == expected.removesuffix("<|im_end|>")
    stopped = threading.Event()
    stopped.set()
    assert len("".join(model.stream(prompt, 1000, 0, stopped))) < 60
    assert not set(threading.enumerate()) - threads  # those of other tests may end meanwhile
    with pytest.raises(RowError, match="/reset"):
        list(model.stream("word " * 3000, 5, 0, threading.Event()))


def test_a_trained_agent_format_is_found_beside_the_model(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    import shutil

    from agentsft.data.agent_format import describe

    folder = tmp_path / "model"
    shutil.copytree(tiny("model"), folder)
    (folder / "agent_format.json").write_text(describe("hermes"))
    tools = tmp_path / "tools.json"
    tools.write_text(json.dumps(list(TOOLS)))
    model = load_chat_model(DataConfig(model=str(folder)), tools)
    assert "<tools>" in model.prompt([Message("user", "Hi")])


@pytest.mark.parametrize("text", ["{", '{"name": 3}', '["x"]', None])
def test_a_bad_tools_file_is_one_line(tiny: Callable[[str], Path], tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "tools.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match="--tools"):
        load_chat_model(DataConfig(model=str(tiny("model"))), path)
