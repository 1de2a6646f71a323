"""What the documentation says can be done: links lead somewhere, commands parse, code runs, --help has not moved on."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from agentsft.cli.app import app
from agentsft.config import TrainConfig, build
from tests.docs.blocks import PAGES, ROOT, anchors, command_lines, fenced, links, text_of

GROUP: Any = typer.main.get_command(app)
COMMANDS: dict[str, Any] = GROUP.commands
LINES = [(page.name, line) for page in PAGES for line in command_lines(page)]
RUNNABLE = ["python-api.md", "add-a-strategy.md", "add-a-format.md"]


def script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "site" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    dead = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    assert dead == []


def test_the_pages_have_command_lines_and_links() -> None:
    assert len(LINES) > 30
    assert sum(len(links(page)) for page in PAGES) > 40


@pytest.mark.parametrize(("page", "line"), LINES)
def test_a_command_line_names_a_command_and_flags_that_exist(page: str, line: str) -> None:
    words = [word for word in shlex.split(line)[1:] if not word.startswith("-")]
    flags = {word.split("=")[0] for word in shlex.split(line)[1:] if re.match(r"--?[a-zA-Z]", word)}
    known = {"--help", "-h", "--version", "-V", "--quiet", "-q", "--verbose", "-v", "--debug", "--install-completion"}
    if words:
        assert words[0] in COMMANDS, f"{page}: {line}"
        known |= {name for param in COMMANDS[words[0]].params for name in (*param.opts, *param.secondary_opts)}
    assert flags <= known, f"{page}: {line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_data_and_recipes_in_code_blocks_load(page: Path) -> None:
    for block in fenced(page, "yaml"):
        values = yaml.safe_load(block)
        assert build(TrainConfig, values, page.name)
    for block in fenced(page, "json"):
        assert json.loads(block)
    for block in fenced(page, "toml"):
        assert tomllib.loads(block)
    for block in fenced(page, "python"):
        assert compile(block, page.name, "exec")


def test_a_json_block_is_what_its_page_says_it_is() -> None:
    from agentsft.data.formats import to_conversation
    from agentsft.weigh.table import strategy_from_table

    (table,) = fenced(ROOT / "docs" / "add-a-strategy.md", "json")
    assert strategy_from_table(json.loads(table), "plan", "file", "plan.json").rows
    (row,) = fenced(ROOT / "docs" / "add-a-format.md", "json")
    assert [message.role for message in to_conversation(json.loads(row)).messages].count("assistant") == 2


@pytest.mark.parametrize("name", RUNNABLE)
def test_python_blocks_run_from_the_first_to_the_last(
    name: str, tmp_path: Path, smollm2: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from tests.train.tiny import SHAPE

    page = ROOT / "docs" / name
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "examples" / "data", tmp_path / "examples" / "data")
    LlamaForCausalLM(LlamaConfig(**{**SHAPE, "vocab_size": 49152})).save_pretrained("models/smollm2")
    AutoTokenizer.from_pretrained(smollm2).save_pretrained("models/smollm2")
    for block in fenced(ROOT / "docs" / "add-a-strategy.md", "json"):
        Path("plan.json").write_text(block, encoding="utf-8")
    blocks = fenced(page, "python")
    assert blocks
    names: dict[str, Any] = {"__name__": "notebook"}
    for block in blocks:
        exec(compile(block, name, "exec"), names)  # noqa: S102
    assert capsys.readouterr().out


def test_the_page_of_flags_is_what_help_says() -> None:
    assert text_of(ROOT / "docs" / "cli.md") == script("reference").page(), "make docs-cli writes it anew"


def test_the_picture_shows_what_preview_shows(smollm2: Path) -> None:
    def words(svg: str) -> list[str]:
        return re.findall(r">([^<>\n]+)</text>", svg)

    kept = text_of(ROOT / "docs" / "preview.svg")
    assert words(kept) == words(script("picture").draw(str(smollm2))), "make picture draws it anew"
    assert "http" not in kept.replace("http://www.w3.org/2000/svg", "")


def test_every_page_is_in_the_site() -> None:
    named = set(re.findall(r"[\w-]+\.md", text_of(ROOT / "docs" / "site" / "mkdocs.yml")))
    config = script("hooks").on_config({"nav": [{name: name} for name in named]})
    listed = set(re.findall(r"[\w-]+\.md", str(config["nav"])))
    assert listed == {page.name for page in (ROOT / "docs").glob("*.md")}
    markdown = script("hooks").on_page_markdown("[a](../recipes/x.yaml) [b](weights.md)")
    assert markdown == "a [b](weights.md)"
