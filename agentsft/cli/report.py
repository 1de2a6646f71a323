"""`agentsft report`: runs as one page, and as pictures."""

from __future__ import annotations

import sys
from pathlib import Path

from agentsft.cli.display import console
from agentsft.errors import UserError
from agentsft.report.page import build_page, load_vega, write_pngs
from agentsft.report.read import read_runs


def run_report(runs: list[Path], out: Path | None, png: bool) -> int:
    """Write the page of `runs` to `out` (`-`: standard output), and with `png` each plot beside it. Gives 0."""
    load_vega()
    read = read_runs(runs)
    page = build_page(read)
    if str(out) == "-":
        if png:
            raise UserError("--png needs a place: name a file with --out instead of -.")
        sys.stdout.write(page)
        return 0
    path = out or (runs[0] if len(runs) == 1 else Path()) / "report.html"
    screen = console()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
        pictures = write_pngs(read, path.with_suffix("")) if png else []
    except OSError as error:
        raise UserError(f"--out: {path} cannot be written ({error}); name another file.") from None
    screen.print(f"wrote {path}, {len(page.encode()) / 1e6:.1f} MB: open it in a browser", soft_wrap=True)
    if pictures:
        screen.print(f"wrote {len(pictures)} pictures into {pictures[0].parent}", soft_wrap=True)
    return 0
