"""The page in a real browser: plots are drawn, answer to the pointer, and turn dark."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.page.browser import Browser, find_browser
from tests.report.folders import run_folder

PLOTS = ("[data-plot]", "[data-plot] svg")


def point_at(browser: Browser, selector: str) -> str:
    """What the page says beside the pointer in the middle of an element."""
    browser.js(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center'}})")
    box = f"document.querySelector({selector!r}).getBoundingClientRect()"
    x, y = browser.js(f"(b => [b.left + b.width / 2, b.top + b.height / 2])({box})")
    for nearer in (3, 0):
        browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x - nearer, y=y)
    browser.wait("document.querySelector('#vg-tooltip-element.visible')")
    return browser.js("document.querySelector('#vg-tooltip-element').innerText")


def test_the_page_draws_every_plot_shows_values_and_turns_dark(tmp_path: Path) -> None:
    pytest.importorskip("vl_convert", reason="the extra `report` is not installed")
    found = find_browser()
    if found is None:
        pytest.skip("no Chromium")
    from agentsft.report.page import build_page
    from agentsft.report.read import read_runs

    page = tmp_path / "report.html"
    page.write_text(build_page(read_runs([run_folder(tmp_path / "a"), run_folder(tmp_path / "b", steps=5, seed=1)])))
    browser = Browser(found)
    try:
        browser.open(page, scheme="dark")
        assert browser.js("document.documentElement.dataset.theme") == "dark"
        plots, drawn = (browser.js(f"document.querySelectorAll({what!r}).length") for what in PLOTS)
        assert drawn == plots > 10
        text = point_at(browser, "[data-plot=loss] svg")
        assert re.fullmatch(r"step\s+10\s+a\s+[\d.]+\s+b\s+–", text.strip())  # b has ended before
        browser.click("#theme")
        browser.wait("document.body.dataset.shown === 'light'")
        assert browser.js("document.querySelectorAll('[data-plot] svg').length") == plots
        assert browser.errors == []
        assert [url for url in browser.requests if not url.startswith(("file:", "data:"))] == []
    finally:
        browser.close()
