"""Draws docs/preview.svg, the README's picture: `agentsft preview` of one example row under the strategy react.

python docs/site/picture.py MODEL        a folder with SmolLM2's tokenizer, or another model's
"""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from agentsft import api
from agentsft.cli.display import legend, printable, weight_style

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "examples" / "data" / "react.jsonl"
PICTURE = ROOT / "docs" / "preview.svg"
ROW, LINES, WIDTH = 1, 27, 100


def draw(model: str) -> str:
    """The picture as SVG: the last lines of the row's prompt, then every token of its responses by weight."""
    from agentsft.config import DataConfig
    from agentsft.encode.load import load_preparer
    from agentsft.encode.view import path_views

    preparer = load_preparer(DataConfig(model=model, loss_scale="react"))
    (example,) = preparer.prepare(api.load_conversations(str(DATA))[ROW : ROW + 1])
    text, segment, weights = Text(), None, set()
    for token in path_views(preparer, example)[0].tokens:
        if token.kind == "system":
            continue
        if (token.kind, token.message) != segment and token.kind != "suffix":
            segment = (token.kind, token.message)
            text.append("" if not text.plain or text.plain.endswith("\n") else "\n").append(
                f"{token.kind}\n", "bold magenta"
            )
        weights.add(token.weight)
        style = weight_style(token.weight, odd=token.position % 2 == 1)
        shown = token.text.removeprefix("\n") if text.plain.endswith(f"{token.kind}\n") else token.text
        for number, line in enumerate(printable(shown).split("\n")):
            text.append("\n" if number else "").append(line, style)
    screen = Console(
        file=io.StringIO(), record=True, width=WIDTH, force_terminal=True, color_system="truecolor", highlight=False
    )
    lines = text.wrap(screen, WIDTH)[:LINES]
    for line in lines:
        screen.print(line)
    screen.print(Text.assemble("\n", legend(weights)))
    picture = screen.export_svg(title="agentsft preview react.jsonl --loss-scale react", unique_id="preview")
    return re.sub(r"@font-face \{.*?\}|<!--.*?-->", "", picture, flags=re.DOTALL)  # fonts would come from a network


if __name__ == "__main__":
    PICTURE.write_text(draw(sys.argv[1]), encoding="utf-8")
    print(f"wrote {PICTURE}")
