"""Markdown pages cut into what can be tested: links, code blocks, command lines."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "examples" / "data" / "README.md"]
_FENCED = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
_INDENTED = re.compile(r"(?:\A|\n)\n((?: {4}[^\n]*\n|\n(?= {4}))+)")


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def fenced(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    return [body for name, body in _FENCED.findall(text_of(page)) if name == language]


def command_lines(page: Path) -> list[str]:
    """Lines that begin with `agentsft`, perhaps through accelerate, in indented blocks and in fenced shell ones."""
    bare = _FENCED.sub("", text_of(page))
    blocks = [textwrap.dedent(block) for block in _INDENTED.findall(bare)]
    blocks += [body for name in ("", "sh", "bash", "shell", "console") for body in fenced(page, name)]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = [re.search(r"(?:^|-m )(agentsft .*)", line.removeprefix("$ ")) for line in lines]
    return [match[1].split(" #")[0].split(" | ")[0].strip() for match in found if match]


def links(page: Path) -> list[str]:
    """Where links and pictures of a page lead, outside code."""
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", _FENCED.sub("", text_of(page))))


def anchors(page: Path) -> set[str]:
    """The names under which a page's headings can be linked."""
    headings = re.findall(r"^#+ (.+)$", _FENCED.sub("", text_of(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
