"""Rows that try a page, and the pages that preview makes of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentsft.cli.app import app
from tests.page.browser import Browser, find_browser

HOSTILE = (
    "</script><script>window.taken = 1</script><!--<script> <img src=x onerror='window.taken = 2'> ${window.taken = 3} "
    "&lt;b&gt; \u2028\u2029 a\u202eb\u202c \x1b[31m \ufeff \\u0041 \" ' ` ]]> 你好 🙂👩‍👩‍👧 é\u0301 \x7f"
)
REACT = ["Thought: I add.\nAction: add\nAction Input: 3, 3", "Observation: 6", "Thought: done\nFinal Answer: 6"]


def _talk(*contents: str, **fields: Any) -> list[dict[str, Any]]:
    return [
        {"role": ("assistant" if n % 2 else "user"), "content": content, **(fields if n % 2 else {})}
        for n, content in enumerate(contents)
    ]


ROWS: list[dict[str, Any]] = [
    {"messages": _talk("3+3?", *REACT)},
    {"messages": [{"role": "system", "content": HOSTILE}, *_talk(HOSTILE, HOSTILE, "needle\nin hay", HOSTILE)]},
    {"messages": [{"role": "usr", "content": HOSTILE}, {"role": "assistant", "content": "x"}]},
    {"messages": _talk("One?", "1", "Two?", "2", "Three?", "3", "Four?", "4", reasoning_content="I count.")},
    {"messages": [{"role": "user", "content": "a \ud800 b"}, {"role": "assistant", "content": "\udfff"}]},
    {
        "messages": _talk("Never trained?", "No.")
        + _talk("Half?", "Half.", weight=0.5)
        + _talk("Five?" + "x" * 400, "5", weight=5)
    },
]
FORMS = {
    "plain": ["--loss-scale", "react"],
    "compared": ["--loss-scale", "default", "--compare-loss-scale", "last_round+react"],
}


@pytest.fixture(scope="session")
def preview(tmp_path_factory: pytest.TempPathFactory, qwen_tokenizer: Any) -> Callable[..., Any]:
    """Runs `agentsft preview` on `ROWS` under Qwen3's template."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")

    def run(*arguments: object) -> Any:
        command = ["preview", path, "--model", qwen_tokenizer.name_or_path, "-n", len(ROWS), *arguments]
        done = CliRunner().invoke(app, [str(argument) for argument in command])
        assert done.exit_code == 0, done.output
        return done

    return run


@pytest.fixture(scope="session")
def pages(preview: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page for each of `FORMS`."""
    folder = tmp_path_factory.mktemp("pages")
    for name, flags in FORMS.items():
        preview(*flags, "--format", "html", "--out", folder / f"{name}.html")
    return {name: folder / f"{name}.html" for name in FORMS}


@pytest.fixture(scope="session")
def promised(preview: Callable[..., Any]) -> dict[str, list[dict[str, Any]]]:
    """The JSON of the same rows for each of `FORMS`."""
    return {
        name: [json.loads(line) for line in preview(*flags, "--format", "json").stdout.split("\n") if line]
        for name, flags in FORMS.items()
    }


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    path = find_browser()
    if path is None:
        pytest.skip("no Chromium: install it (Debian: apt install chromium), or name one in AGENTSFT_CHROMIUM")
    made = Browser(path)
    yield made
    made.close()
