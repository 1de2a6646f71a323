"""Hooks of MkDocs: pages that nav does not name yet are listed under More, and links out of docs/ become plain text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1]


def on_config(config: Any) -> Any:
    named = set(re.findall(r"[\w-]+\.md", str(config["nav"])))
    if more := sorted(path.name for path in DOCS.glob("*.md") if path.name not in named):
        config["nav"].append({"More": more})
    return config


def on_page_markdown(markdown: str, page: Any = None, **kwargs: Any) -> str:
    """The site has the pages of docs/ alone; tests check that links to files of the project lead somewhere.

    A page without parts needs no table of contents, whose column its tables can use.
    """
    if page is not None and "\n## " not in markdown:
        page.meta["hide"] = ["toc"]
    return re.sub(r"\[([^\]]+)\]\(\.\./[^)]+\)", r"\1", markdown)
