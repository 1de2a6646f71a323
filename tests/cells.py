"""What becomes of each kind of conversation under each template: the cells of docs/templates.md."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from agentsft.encode.prepare import Preparer
from agentsft.types import Example, Row
from tests import assets
from tests.conversations import KINDS
from tests.families import BY_TEMPLATE, NO_TEXT_CHAT, TEXT_TEMPLATES

PAGE = Path(__file__).resolve().parent.parent / "docs" / "templates.md"

_HEAD = """\
# Templates

What becomes of a conversation under the chat templates of many models. Each cell is one small conversation, rendered
and encoded as `agentsft train` does it:

- **exact**: every assistant message is trained after the very prompt that a server would render, and all of them lie
  on one path.
- **branched**: the same, but the template (or the tokenizer, where a merge crosses the start of a response) writes
  history otherwise than it was sampled, so the token tree branches.
- **-1**: a greeting that no server can be asked for stays context; the rest is trained.
- Otherwise the row is refused, with the reason that `agentsft check` prints.

The tokenizers are SmolLM2's vocabulary with each model's own special tokens. Made by `python -m tests.cells`.
"""


@cache
def preparer(template: str) -> Preparer:
    """A preparer with the template's own special tokens and the stop tokens of its model's generation config."""
    return Preparer(assets.tokenizer_for(template), stop_tokens=BY_TEMPLATE[template].stops)


@cache
def examples(template: str) -> dict[str, Example]:
    """The example that each kind of conversation becomes."""
    rows = [Row(i, kind, conversation) for i, (kind, conversation) in enumerate(KINDS.items())]
    return {example.source: example for example in preparer(template).prepare(rows)}


def cell(example: Example) -> str:
    """One word for what became of a row."""
    if example.refusal is not None:
        return example.refusal.reason
    assert example.tree is not None
    return ("exact" if example.tree.is_chain else "branched") + (
        f" -{example.lost_turns}" if example.lost_turns else ""
    )


def page() -> str:
    """docs/templates.md as it should be."""
    lines = [_HEAD, "| template | " + " | ".join(KINDS) + " |", "|---" * (len(KINDS) + 1) + "|"]
    for template in TEXT_TEMPLATES:
        cells = [cell(example) for example in examples(template).values()]
        lines.append(f"| {template} | " + " | ".join(cells) + " |")
    lines.append("\nTemplates that serve no text chat, and are left out:\n")
    lines += [f"- {template}: {reason}." for template, reason in NO_TEXT_CHAT.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
