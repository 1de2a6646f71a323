"""The page in a real browser, from a file, as its reader uses it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.page.browser import Browser
from tests.page.conftest import HOSTILE, ROWS

THINKING, HOSTILE_ROW, REFUSED = 3, 1, 2
PAIRS = "Object.fromEntries([...document.querySelectorAll('{}')].map(e => [e.textContent, e.nextSibling.textContent]))"


def show(browser: Browser, row: int, view: str = "text") -> None:
    """Open a row in one of the two views."""
    browser.click(f"#view input[value={view}] + span")
    browser.js(f"agentsft.page.open({row})")
    browser.wait(f"document.body.dataset.shown.startsWith('{row} {view} ')")


BODIES = "[...document.querySelectorAll('{} .body')].map(e => e.textContent).join('')"


@pytest.mark.parametrize("form", ["plain", "compared"])
def test_the_data_in_the_page_equals_the_json(
    browser: Browser, pages: dict[str, Path], promised: dict[str, list[dict[str, Any]]], form: str
) -> None:
    browser.open(pages[form])
    rows = json.loads(
        browser.js(f"Promise.all([...Array({len(ROWS)}).keys()].map(n => agentsft.store.json(n))).then(JSON.stringify)")
    )
    for found, row in zip(rows, promised[form], strict=True):
        if form == "plain":
            assert found == {key: value for key, value in row.items() if key != "turns"}
        elif not row["compare"]["refused"] and not row["refused"]:
            assert [s["input_ids"] for s in found["sequences"]] == [s["input_ids"] for s in row["sequences"]]
            assert [s["loss_scale"] for s in found["sequences"]] == [s["loss_scale"] for s in row["sequences"]]
    assert sum(bool(row["refused"]) for row in promised[form]) >= 2
    assert any(len(row["sequences"]) > 1 for row in promised[form])


def test_the_page_asks_for_nothing_and_may_not(browser: Browser, pages: dict[str, Path]) -> None:
    for form, path in pages.items():
        browser.open(path)
        for row in range(len(ROWS)):
            for view in ("text", "tokens"):
                show(browser, row, view)
        assert browser.requests == [path.resolve().as_uri()], form
        assert browser.errors == []
        assert browser.js("fetch('data:,x').then(() => 'let through', () => 'stopped')") == "stopped"


@pytest.mark.parametrize("view", ["text", "tokens"])
def test_hostile_text_is_shown_as_text_to_the_last_character(
    browser: Browser, pages: dict[str, Path], promised: dict[str, list[dict[str, Any]]], view: str
) -> None:
    path = pages["plain"]
    assert b"window.taken" not in path.read_bytes()
    browser.open(path)
    for number in (HOSTILE_ROW, THINKING):
        show(browser, number, view)
        browser.js("document.querySelectorAll('details.context').forEach(e => e.open = true)")
        for n, sequence in enumerate(promised["plain"][number]["sequences"]):
            text = "".join(segment["text"] for segment in sequence["segments"])
            browser.wait(f"{BODIES.format(f'#path-{n}')} === {json.dumps(text)}")
            assert (HOSTILE in text) == (number == HOSTILE_ROW)
    show(browser, REFUSED)
    assert "usr" in browser.js("document.getElementById('row').textContent")
    assert browser.js("window.taken") is None
    assert browser.js("document.querySelectorAll('img, iframe, #row script, #rows script').length") == 0


def test_a_label_s_chip_leaves_its_tokens_and_rows_bright(
    browser: Browser, pages: dict[str, Path], promised: dict[str, list[dict[str, Any]]]
) -> None:
    browser.open(pages["plain"])
    show(browser, 0, "tokens")
    browser.click("[data-label=action_input]")
    browser.wait("document.getElementById('found').textContent.includes(' of ')")
    bright = browser.js("[...document.querySelectorAll('.body span:not(.dim)')].map(e => e.textContent).join('')")
    assert bright == "Action Input: 3, 3"
    assert browser.js("[...document.querySelectorAll('#rows li:not([hidden]) b')].map(e => e.textContent)") == ["row 0"]
    browser.click("[data-label=action_input]")
    browser.wait("!document.getElementById('found').textContent.includes(' of ')")
    assert browser.js("document.querySelectorAll('.dim').length") == 0


def test_search_lists_the_rows_that_hold_the_words_and_marks_them(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["plain"])
    show(browser, HOSTILE_ROW, "tokens")
    marks = "[...(CSS.highlights.get('hit') ?? [])].map(String)"
    repeated = browser.js(BODIES.format("#row")).count("onerror='window")
    for words, rows, hits in [
        ("NEEDLE\nin".replace("\n", " "), [], []),
        ("edle", ["row 1"], ["edle"]),
        ("onerror='window", ["row 1"], ["onerror='window"] * repeated),
        ("unknown_role", ["row 2"], []),
        ("jsonl:6", ["row 5"], []),
        ("", [f"row {n}" for n in range(len(ROWS))], []),
    ]:
        browser.js("document.getElementById('search').value = ''; document.getElementById('search').focus()")
        browser.type(words or " ")
        browser.wait(f"document.body.dataset.searched === {json.dumps(words.lower())}")
        assert browser.js("[...document.querySelectorAll('#rows li:not([hidden]) b')].map(e => e.textContent)") == rows
        assert browser.js(marks) == hits, words


def test_hovering_tells_id_weight_label_and_segment(
    browser: Browser, pages: dict[str, Path], promised: dict[str, list[dict[str, Any]]]
) -> None:
    browser.open(pages["plain"], height=1400)
    (sequence,) = promised["plain"][0]["sequences"][:1]
    for view in ("tokens", "text"):
        show(browser, 0, view)
        browser.js(
            "[...document.querySelectorAll('.body span')].find(e => e.textContent.startsWith('Action')).id = 'one'"
        )
        browser.hover("#one")
        browser.wait("!document.getElementById('tip').hidden")
        found = browser.js(PAIRS.format("#tip dt"))
        at = int(found["position"].split()[0])
        assert int(found["id"]) == sequence["input_ids"][at]
        assert (found["label"], found["weight"], found["segment"]) == ("action", "2", "response 1")
        assert float(found["weight"]) == sequence["loss_scale"][at]
        assert browser.js("document.querySelector('#tip code').textContent") == "Action"
    browser.hover("h1")
    browser.wait("document.getElementById('tip').hidden")


def test_the_keyboard_reaches_every_token(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["plain"])
    show(browser, 0, "tokens")
    browser.js("document.querySelector('.body span[tabindex]').focus()")
    for _ in range(5):
        browser.press("ArrowRight")
    here = "[...document.querySelectorAll('.body span')].indexOf(document.activeElement)"
    assert browser.js(here) == 5
    assert browser.js("document.querySelectorAll('.body [tabindex]').length") == 1
    assert not browser.js("document.getElementById('tip').hidden")
    assert browser.js("document.activeElement.getAttribute('aria-describedby')") == "tip"
    browser.press("Escape")
    assert browser.js("document.getElementById('tip').hidden")
    browser.press("ArrowLeft")
    assert browser.js(here) == 4
    browser.press("j")
    browser.wait("document.body.dataset.shown.startsWith('1 ')")
    browser.press("/")
    assert browser.js("document.activeElement.id") == "search"


def test_the_tree_has_a_lane_for_each_path_that_opens_it(
    browser: Browser, pages: dict[str, Path], promised: dict[str, list[dict[str, Any]]]
) -> None:
    browser.open(pages["plain"])
    show(browser, THINKING)
    row = promised["plain"][THINKING]
    browser.wait("document.querySelector('.lane')")
    lanes = browser.js("[...document.querySelectorAll('.lane')].map(e => e.getAttribute('aria-label'))")
    assert len(lanes) == len(row["sequences"]) > 2
    paths = browser.js(
        "agentsft.store.row(3).then(t => t.paths.map(p => [p.shared, p.end - p.start, p.from?.number ?? -1]))"
    )
    assert sum(own for _, own, _ in paths) == row["tokens"]["tree"]
    for number, (shared, own, parent) in enumerate(paths):
        ids = row["sequences"][number]["input_ids"]
        assert shared + own == len(ids)
        if number:
            assert ids[:shared] == row["sequences"][parent]["input_ids"][:shared]
            assert ids[shared] != row["sequences"][parent]["input_ids"][shared]
            assert paths[parent][0] < shared
    browser.js("document.querySelector('.lane').focus()")
    browser.press("ArrowDown")
    browser.press("ArrowDown")
    assert browser.js("document.activeElement.getAttribute('aria-label')") == lanes[2]
    browser.press("Enter")
    top = browser.js("document.getElementById('path-2').getBoundingClientRect().top")
    assert 0 <= top < 900
    browser.click("#path-2 summary")
    browser.wait("document.querySelector('#path-2 details .body')")
    assert browser.js(BODIES.format("#path-2")) == "".join(
        segment["text"] for segment in row["sequences"][2]["segments"]
    )


def test_a_branch_is_drawn_from_the_path_that_its_last_shared_token_belongs_to(
    browser: Browser, pages: dict[str, Path]
) -> None:
    browser.open(pages["plain"])
    paths = [[0, 30], [20, 5], [10, 5], [12, 2], [12, 4], [0, 3]]
    raw = {"t": [0] * 49, "c": [49, 0], "p": [[*path, [["query", 0, 0, sum(path)]]] for path in paths]}
    made = browser.js(f"agentsft.store.tree({json.dumps(raw)}).paths.map(p => [p.from?.number ?? -1, p.sharedEnd])")
    assert made == [[-1, 20], [0, 0], [0, 12], [2, 0], [2, 0], [-1, 0]]


def test_totals_are_the_sums_of_the_json(
    browser: Browser, pages: dict[str, Path], promised: dict[str, list[dict[str, Any]]]
) -> None:
    browser.open(pages["plain"])
    figures = browser.js(PAIRS.format("#totals dt"))
    rows = promised["plain"]
    assert int(figures["rows"]) == len(rows)
    assert int(figures["refused"]) == sum(bool(row["refused"]) for row in rows)
    assert int(figures["tokens"].replace(",", "")) == sum(row["tokens"]["tree"] for row in rows)
    assert int(figures["trained"].replace(",", "")) == sum(row["tokens"]["trained"] for row in rows)
    weights = [weight for row in rows for sequence in row["sequences"] for weight in sequence["loss_scale"]]
    assert float(figures["weight sum"].replace(",", "")) == pytest.approx(sum(weights), abs=0.01)


def test_a_comparison_shows_what_changes_and_nothing_else(
    browser: Browser, pages: dict[str, Path], promised: dict[str, list[dict[str, Any]]]
) -> None:
    browser.open(pages["compared"])
    for number, row in enumerate(promised["compared"]):
        if row["refused"]:
            continue
        show(browser, number)
        shown = browser.js("[...document.querySelectorAll('.changed')].map(e => [e.dataset.tag ?? '', e.textContent])")
        spans = row["compare"]["spans"]
        assert "".join(text for _, text in shown) == "".join(span["text"] for span in spans)
        tags = {tag for tag, _ in shown if tag}
        assert tags == {f"{span['weight']:g}→{span['compared_weight']:g}" for span in spans}
        assert f"{row['compare']['changed']} of" in browser.js(f"agentsft.page.items[{number}].textContent")
    show(browser, 0)
    browser.press("n")
    first = browser.js("document.activeElement.textContent")
    browser.press("n")
    assert [first, browser.js("document.activeElement.textContent")] == browser.js(
        "[...document.querySelectorAll('[data-tag]')].slice(0, 2).map(e => e.textContent)"
    )
    browser.press("p")
    assert browser.js("document.activeElement.textContent") == first
    browser.click("#colour input[value=first] + span")
    browser.wait("document.body.dataset.shown.endsWith('first')")
    assert browser.js("document.querySelectorAll('.changed, [data-tag]').length") == 0
    assert browser.js("document.querySelectorAll('.s2').length") > 0


CONTRAST = """(() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const light = (c) => { const v = c / 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
  const rgb = (under, colour) => {
    canvas.fillStyle = `rgb(${under})`; canvas.fillRect(0, 0, 1, 1);
    canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data.slice(0, 3)];
  };
  const behind = (e) => e ? rgb(behind(e.parentElement), getComputedStyle(e).backgroundColor) : [255, 255, 255];
  const shine = ([r, g, b]) => 0.2126 * light(r) + 0.7152 * light(g) + 0.0722 * light(b);
  const all = [...document.querySelectorAll('body *')].filter((e) => e.checkVisibility()
    && !e.closest('svg, .skip, .dim') && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()));
  return all.map((e) => {
    const back = behind(e);
    const [a, b] = [shine(back), shine(rgb(back, getComputedStyle(e).color))];
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.className + ' ' + e.textContent.slice(0, 30)];
  }).sort((a, b) => a[0] - b[0]).slice(0, 3);
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("form", ["plain", "compared"])
def test_every_text_has_enough_contrast_in_light_and_dark(
    browser: Browser, pages: dict[str, Path], form: str, scheme: str
) -> None:
    browser.open(pages[form], scheme=scheme)
    dark = browser.js("getComputedStyle(document.documentElement).backgroundColor") == "rgb(16, 19, 23)"
    assert dark == (scheme == "dark")
    for number in range(len(ROWS)):
        for view in ("text", "tokens"):
            show(browser, number, view)
            lowest = browser.js(CONTRAST)
            assert lowest[0][0] >= 4.5, lowest
    other = {"light": "dark", "dark": "light"}[scheme]
    browser.click(f"#theme input[value={other}] + span")
    turned = browser.js("getComputedStyle(document.documentElement).backgroundColor") == "rgb(16, 19, 23)"
    assert turned == (other == "dark")


@pytest.mark.parametrize("width", [320, 420, 800, 1600])
def test_no_width_needs_scrolling_sideways(browser: Browser, pages: dict[str, Path], width: int) -> None:
    browser.open(pages["compared"], width=width)
    for number in range(len(ROWS)):
        show(browser, number, "tokens")
        assert browser.js("document.documentElement.scrollWidth <= innerWidth"), number
        assert browser.js("[...document.querySelectorAll('.body')].every(e => e.scrollWidth <= e.clientWidth + 1)"), (
            number
        )


def test_the_labels_count_every_token_once(
    browser: Browser, pages: dict[str, Path], promised: dict[str, list[dict[str, Any]]]
) -> None:
    browser.open(pages["plain"])
    chips = browser.js(
        "[...document.querySelectorAll('.chip')].map(e => [e.dataset.label, e.querySelector('b').textContent])"
    )
    counts = Counter({label: int(count.replace(",", "")) for label, count in chips})
    assert counts.total() == sum(row["tokens"]["tree"] for row in promised["plain"])
    assert counts["not trained"] == sum(row["tokens"]["tree"] - row["tokens"]["trained"] for row in promised["plain"])
