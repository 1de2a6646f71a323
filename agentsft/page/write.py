"""The page: one HTML file that needs no network, its rows packed, and a script that builds what is looked at."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator
from importlib.resources import files
from typing import Any

from agentsft import __version__
from agentsft.page.pack import Packer
from agentsft.page.scale import SCALE, css_variables

_SCRIPTS = ("data.js", "marks.js", "text.js", "tree.js", "tables.js", "page.js")


def page_lines(packer: Packer, rows: Iterable[str], about: dict[str, Any]) -> Iterator[str]:
    """The page, piece by piece; `rows` are what `packer.add` gave, one in memory at a time.

    `about` is what the page says of itself: `settings` (pairs of texts), `scales` (one or two strategies' names) and
    `view`, the one it opens with (text or tokens).
    No text of the data is in the HTML as it stands: rows are base64, which has no character that HTML minds, and the
    script sets texts as text alone. A content security policy forbids every request and every other script.
    """
    style = f":root{{{css_variables()}}}\n{_asset('page.css')}"
    script = "\n".join(_asset(name) for name in _SCRIPTS)
    head, body = _asset("page.html").split("<!--data-->")
    before_style, after_style = head.split("<!--style-->")
    yield before_style.replace("<!--policy-->", _policy(style, script))
    yield f"<style>{style}</style>"
    yield after_style
    for row in rows:
        yield f'<script type="text/plain" class="row">{row}</script>'
    steps = [
        {"limit": None if step.limit == float("inf") else step.limit, "open": step.open, "meaning": step.meaning}
        for step in SCALE
    ]
    index = packer.index({**about, "version": __version__, "scale": steps})
    yield f'<script type="text/plain" id="index">{index}</script>'
    yield f"<script>{script}</script>"
    yield body


def _asset(name: str) -> str:
    return files("agentsft.page").joinpath("static", name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    return (
        f"default-src 'none'; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
