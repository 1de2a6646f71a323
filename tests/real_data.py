"""What `agentsft check` finds in real conversations: the table of docs/data.md."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from agentsft.cli.check import Totals
from agentsft.config import DataConfig
from agentsft.data.read import read_rows
from agentsft.encode.load import load_preparer
from tests import assets

PAGE = Path(__file__).resolve().parent.parent / "docs" / "data.md"

FILES = (
    "fireact_react.jsonl",
    "fireact_alpaca.json",
    "toolbench_react.jsonl",
    "glaive_sharegpt_en.json",
    "reason_tool_use_parts.jsonl",
    "tau_airline_openai.jsonl",
    "tau2_openai.jsonl",
    "glm_react_zh.jsonl",
)
MODELS = ("SmolLM2", "Qwen3")

_TITLE = "## Public data sets\n"
_HEAD = """\

Eight public sets of agent conversations, checked with two tokenizers and chat templates. SmolLM2's template knows no
tools, so its rows are read with `--agent-format hermes --reasoning inline`; Qwen3's template needs nothing. *tree* are
the tokens of the token trees, which are trained; *split* those of one sequence for each root-to-leaf path, which
training without trees would compute.

A line is what this prints, FILE being the data and MODEL a folder with the tokenizer:

    agentsft check FILE --model MODEL [--agent-format hermes --reasoning inline]

| data | model | rows | branched | turns | trained tokens | tree | split | split / tree | refused |
|---|---|---|---|---|---|---|---|---|---|
"""


@cache
def preparer(model: str) -> Any:
    """A preparer with the model's real tokenizer and template, contexts unbounded."""
    tokenizer = assets.smollm2_tokenizer() if model == "SmolLM2" else assets.qwen_tokenizer()
    return load_preparer(DataConfig(model=tokenizer.name_or_path, max_length=10**6), tokenizer)


def totals(path: Path, model: str) -> Totals:
    """What check counts in a file."""
    folded = model == "SmolLM2"
    rows = read_rows([str(path)], reasoning="inline" if folded else "keep", agent_format="hermes" if folded else None)
    made = Totals()
    for example in preparer(model).prepare(rows):
        made.add(example)
    return made


def page(data: Path) -> str:
    """docs/data.md as it should be: what stands above the title, as it is there, and the table."""
    lines = []
    for file in FILES:
        for model in MODELS:
            found = totals(data / file, model)
            refused = ", ".join(f"{reason} {count}" for reason, count in found.reasons.items()) or "0"
            lines.append(
                f"| {file} | {model} | {found.rows:,} | {found.branched:,} | {found.turns:,} | {found.trained:,} | "
                f"{found.tree:,} | {found.split:,} | {found.split / max(found.tree, 1):.2f} | {refused} |"
            )
    above = PAGE.read_text(encoding="utf-8").partition(_TITLE)[0]
    return above + _TITLE + _HEAD + "\n".join(lines) + "\n\nMade by `python -m tests.real_data`.\n"


if __name__ == "__main__":
    PAGE.write_text(page(assets.SHARED / "data"), encoding="utf-8")
    print(PAGE.read_text(encoding="utf-8"))
