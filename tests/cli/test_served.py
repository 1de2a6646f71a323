"""What a run leaves, behind a real server: each turn is asked for with the very tokens that it was trained behind."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentsft import api
from tests.train.tiny import SHAPE

pytestmark = pytest.mark.slow
ANSWERS = ["<think>\nI look.\n</think>\n\nlook(a)", "<think>\nAgain.\n</think>\n\nlook(b)", "It is 3."]
MESSAGES = [
    {"role": role, "content": content}
    for k, answer in enumerate(ANSWERS)
    for role, content in (("user", f"Question {k}?"), ("assistant", answer))
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, qwen_tokenizer: Any) -> Path:
    """The output of a run of one step."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("served")
    shape = {**SHAPE, "vocab_size": len(qwen_tokenizer), "max_position_embeddings": 4096}
    LlamaForCausalLM(LlamaConfig(**shape)).save_pretrained(folder / "model")
    qwen_tokenizer.save_pretrained(folder / "model")
    (folder / "rows.jsonl").write_text(json.dumps({"messages": MESSAGES}) + "\n", encoding="utf-8")
    settings = {"data": [str(folder / "rows.jsonl")], "output": str(folder / "run"), "cache": False}
    assert api.train(model=str(folder / "model"), max_steps=1, batch_size=1, **settings).steps == 1
    return folder / "run"


@pytest.fixture(scope="module")
def server(run: Path) -> Iterator[str]:
    """The address of `transformers serve` with the run's folder."""
    for name in ("fastapi", "uvicorn", "openai"):
        pytest.importorskip(name, reason="transformers[serving] is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(run), "--device", "cpu"]
    process = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        yield f"http://localhost:{port}/v1/chat/completions"
    finally:
        process.terminate()
        process.communicate(timeout=60)


def ask(address: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})  # noqa: S310 (our own server)
    until = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 (our own server)
                return json.load(answer)
        except urllib.error.URLError as error:
            if isinstance(error, urllib.error.HTTPError) or time.monotonic() > until:
                raise
            time.sleep(0.2)


def test_a_server_asks_for_each_turn_with_the_tokens_that_it_was_trained_behind(run: Path, server: str) -> None:
    (row,) = api.load_conversations(str(run.parent / "rows.jsonl"))
    assert row.conversation is not None
    turns = api.render(row.conversation, str(run))
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(run)
    trained = [len(tokenizer.encode(turn.prompt, add_special_tokens=False)) for turn in turns]
    asked = [{"model": str(run), "messages": MESSAGES[: turn.message], "max_tokens": 1} for turn in turns]
    assert [ask(server, body)["usage"]["prompt_tokens"] for body in asked] == trained
    whole = tokenizer.apply_chat_template(MESSAGES[:5], tokenize=False)
    assert "I look." not in whole  # the template rewrites history, so that a plain rendering would not do
