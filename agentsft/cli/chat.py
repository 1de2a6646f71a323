"""`agentsft chat`: talk with a model in the terminal, or through a pipe, in the contexts that it was trained in."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console
from rich.json import JSON
from rich.panel import Panel
from rich.text import Text

from agentsft.cli.chat_model import RETRY_TEMPERATURE, ChatModel, load_chat_model
from agentsft.cli.display import console, printable
from agentsft.config import DataConfig
from agentsft.errors import RowError
from agentsft.evaluate.formats import Call, read_block
from agentsft.evaluate.reading import opened_by
from agentsft.types import Message
from agentsft.weigh.labels import label_response

HELP = """/help   these lines
/reset  forget the conversation
/retry  take back the last answer, and sample another
/quit   leave (Ctrl-D too); Ctrl-C stops an answer
Where the model calls a tool, you are asked for the result; an empty line gives none."""

_STYLES = {
    "think": "dim italic",
    "thought": "dim italic",
    "action": "cyan",
    "action_input": "cyan",
    "tool_call": "cyan",
    "observation": "yellow",
}
_UNSURE = re.compile(r"(?:<[^<>\n]{0,40}|\[[A-Z_/]{0,16}|✿\w*|(?:^|\n)[ \t*]*[A-Z][A-Za-z ]{0,14})\Z")
"""The end of a text that may yet become a marker or a keyword of ReAct."""


def run_chat(
    config: DataConfig, tools: Path | None, system: str | None, max_new_tokens: int, temperature: float | None
) -> int:
    """Talk until the user leaves or standard input ends. Gives 0."""
    screen = console()
    interactive = sys.stdin.isatty()
    with screen.status("loading") if interactive and screen.is_terminal else nullcontext():
        model = load_chat_model(config, tools)
    if interactive:
        import readline  # noqa: F401  # arrows and history at the prompt

        screen.print(Text(f"{config.model}: /help lists the commands", "dim"))
    Chat(model, screen, interactive, system, max_new_tokens, temperature).run()
    return 0


class Chat:
    """The conversation: what is said, shown and remembered."""

    def __init__(
        self,
        model: ChatModel,
        screen: Console,
        interactive: bool,
        system: str | None,
        max_new_tokens: int,
        temperature: float | None,
        read: Callable[[str], str] = input,
    ) -> None:
        self.model, self.screen, self.interactive, self._read = model, screen, interactive, read
        self.max_new_tokens, self.temperature = max_new_tokens, temperature
        self.start = [Message("system", system)] if system else []
        self.messages = list(self.start)

    def run(self) -> None:
        while (line := self._ask("> ")) is not None:
            if not line.strip():
                continue
            if not line.startswith("/"):
                self._say(Message("user", line))
            elif not self._command(line.strip()):
                return

    def _ask(self, prompt: str) -> str | None:
        """A line of the user's; None at the end."""
        while True:
            try:
                return self._read(prompt if self.interactive else "")
            except EOFError:
                if self.interactive:
                    self.screen.print()
                return None
            except KeyboardInterrupt:
                if not self.interactive:
                    raise
                self.screen.print(Text("\n/quit or Ctrl-D leaves", "dim"))

    def _command(self, line: str) -> bool:
        """Do what a line with a slash says; whether the chat goes on."""
        if line == "/reset":
            self.messages = list(self.start)
            self._note("the conversation begins anew")
        elif line == "/retry":
            self._retry()
        elif line in ("/quit", "/exit"):
            return False
        else:
            self._note(HELP if line == "/help" else f"{line.split()[0]} is no command\n{HELP}")
        return True

    def _retry(self) -> None:
        last = next((k for k in range(len(self.messages), 0, -1) if self.messages[k - 1].role == "assistant"), None)
        if last is None:
            self._note("there is no answer to take back")
            return
        del self.messages[last - 1 :]
        self._answer(RETRY_TEMPERATURE if not self.temperature else self.temperature)

    def _say(self, message: Message) -> None:
        self.messages.append(message)
        self._answer(self.temperature)

    def _answer(self, temperature: float | None) -> None:
        """Answers, and goes on after every result that the user gives. What fails takes its question back."""
        while True:
            try:
                prompt = self.model.prompt(self.messages)
                response, whole = self._stream(prompt, temperature)
            except RowError as error:
                self._note(error.detail)
                while self.messages and self.messages[-1].role != "assistant" and self.messages != self.start:
                    self.messages.pop()
                return
            answer, calls = self.model.message(prompt, response)
            self.messages.append(answer)
            if not whole:
                self._note("stopped")
                return
            if not self._results(answer, calls):
                return

    def _results(self, answer: Message, calls: tuple[Call, ...]) -> bool:
        """Ask for the result of each call; whether there is one to go on from."""
        sound = [(k, call) for k, call in enumerate(calls) if not call.fault]
        if not sound or not (self.interactive or self.model.tools):
            return False
        results = []
        for k, call in sound:
            given = self._ask(f"result of {printable(call.name)}: ")
            if not given:
                return False
            results.append(self.model.result(answer, call, k, given))
        self.messages += results
        return True

    def _stream(self, prompt: str, temperature: float | None) -> tuple[str, bool]:
        """The answer, shown while it comes, and whether it was not stopped."""
        shown = Shown(self.screen, opened_by(prompt))
        stopped = threading.Event()
        pieces = self.model.stream(prompt, self.max_new_tokens, temperature, stopped)
        whole = True
        while True:
            try:
                piece = next(pieces, None)
                if piece is None:
                    break
                shown.add(piece)
            except KeyboardInterrupt:
                if not self.interactive:
                    raise
                whole = False
                stopped.set()
                pieces.close()
                break
        shown.end()
        return shown.text, whole

    def _note(self, text: str) -> None:
        target = self.screen if self.screen.is_terminal else Console(stderr=True, highlight=False)
        target.print(Text(printable(text), "dim"), soft_wrap=True)


class Shown:
    """An answer on its way to the screen: thinking dimmed, calls in boxes once they are complete; plain in a pipe."""

    def __init__(self, screen: Console, opened: str) -> None:
        self.screen, self.text = screen, ""
        self._opened, self._done = opened, len(opened)
        self._begun, self._fresh = False, True
        """Whether anything is on the screen, and whether it ends with a line break."""

    def add(self, piece: str) -> None:
        self.text += piece
        if not self.screen.is_terminal:
            self.screen.file.write(piece)
            self.screen.file.flush()
            return
        self._show(last=False)

    def end(self) -> None:
        if self.screen.is_terminal:
            self._show(last=True)
        if not self._fresh or not self.screen.is_terminal:
            self.screen.print()

    def _show(self, last: bool) -> None:
        text = self._opened + self.text
        unsure = None if last else _UNSURE.search(text, self._done)
        sure = len(text) if unsure is None else unsure.start()
        pieces = label_response(text)
        for number, (start, end, label) in enumerate(pieces):
            if end <= self._done:
                continue
            if label == "tool_call":
                if not last and number + 1 == len(pieces):
                    return  # it may not be complete
                self._box(text[max(start, self._done) : end])
                self._done = end
                continue
            upto = min(end, sure)
            if upto > self._done:
                self._write(text[max(start, self._done) : upto], _STYLES.get(label, ""))
                self._done = upto

    def _write(self, text: str, style: str) -> None:
        text = text if self._begun else text.lstrip("\n")
        if text:
            self._begun = True
            self.screen.print(Text(printable(text), style), end="", soft_wrap=True)
            self._fresh = text.endswith("\n")

    def _box(self, block: str) -> None:
        if not self._fresh:
            self.screen.print()
        for call in read_block(block.strip(), {}):
            if call.fault:
                title = Text(printable(f"not a call that can be read: {call.fault}"))
                body = Text(printable(block.strip()))
                self.screen.print(Panel(body, title=title, title_align="left", border_style="red", expand=False))
                break
            arguments = JSON(json.dumps(call.arguments, ensure_ascii=False), indent=2)
            title = Text(printable(f"call: {call.name}"), "bold")
            self.screen.print(Panel(arguments, title=title, title_align="left", border_style="cyan", expand=False))
        self._begun = self._fresh = True
