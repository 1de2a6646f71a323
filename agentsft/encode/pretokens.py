"""Where a text may be cut so that its two parts, encoded apart, have the ids that they have together.

Byte-level BPE first splits a text into pretokens, by regular expressions that look at nothing before the place where
they stand, and then merges inside of each. So a cut is exact where no pretoken can cross it, and where the part before
it is split alone as it is with more text behind. Both are known of a line's end, for the expressions listed here: the
ones that published tokenizers are made of.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

_LINES = (r"\s*[\r\n]+", r"\s*[\r\n]")
_WORD = r"[^\r\n\p{L}\p{N}]?"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_KNOWN = {
    *("'s", "'t", "'re", "'ve", "'m", "'ll", "'d", _SHORT, r"'(?i:[sdmt]|ll|ve|re)"),
    *(rf"{_WORD}\p{{L}}+", rf"{_WORD}[\p{{L}}\p{{M}}]+", r" ?\p{L}+", r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"),
    *(rf"{_WORD}{_UPPER}*{_LOWER}+", rf"{_WORD}{_UPPER}+{_LOWER}*"),
    *(rf"{_WORD}{_UPPER}*{_LOWER}+{_SHORT}?", rf"{_WORD}{_UPPER}+{_LOWER}*{_SHORT}?"),
    *(r"\p{N}", r"\p{N}+", r"\p{N}{1,3}", r" ?\p{N}+", "[一-龥぀-ゟ゠-ヿ]+"),
    *(r" ?[^\s\p{L}\p{N}]+", r" ?[^\s\p{L}\p{N}]+[\r\n]*", r" ?[^\s\p{L}\p{N}]+[\r\n/]*"),
    *(r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*", r" ?[\p{P}\p{S}]+[\r\n]*"),
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+",
    *(*_LINES, r"\s+(?!\S)", r"\s+"),
}
"""No match of these holds a line's end followed by anything but space, line's ends or `/`."""

_BEHIND = re.compile(r"[!-.0-~]|\w")

LONGEST_HEADER = 64
"""Where a text is cut behind an added token depends on no more characters than these and the one behind them."""


def line_ends(backend: Any) -> int:
    """How many line's ends before a cut are known to be exact with a fast tokenizer: 0 (none), 1, or 2 for any number.

    Behind them a character must stand that is neither space nor `/`, before them no space.
    """
    model, normalizer = backend.model, _state(backend.normalizer)
    plain = normalizer in (None, {"type": "NFC"}, {"type": "Sequence", "normalizers": []})
    if not plain or type(model).__name__ != "BPE" or model.dropout:
        return 0
    return min(map(_of_part, _parts(_state(backend.pre_tokenizer))), default=0)


def cut_header(text: str, first: int, end: int, line_ends: int) -> int:
    """Where text[first:end], which follows an added token, is cut behind its first line; `first` where it is not.

    Behind an added token itself every text may be cut.
    """
    last = min(first + LONGEST_HEADER, end)
    line = text.find("\n", first, last)
    if not line_ends or line < 0 or (line > first and text[line - 1].isspace()):
        return first
    behind = line + 1
    while line_ends > 1 and behind < last and text[behind] == "\n":
        behind += 1
    return behind if behind < end and _BEHIND.match(text, behind) else first


def _state(part: Any) -> dict[str, Any] | None:
    """A tokenizer's part as tokenizer.json has it."""
    return None if part is None else json.loads(part.__getstate__())


def _parts(pre_tokenizer: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    if pre_tokenizer and pre_tokenizer["type"] == "Sequence":
        yield from pre_tokenizer["pretokenizers"]
    elif pre_tokenizer:
        yield pre_tokenizer


def _of_part(part: dict[str, Any]) -> int:
    """`line_ends` of one pretokenizer."""
    if part["type"] == "Digits":
        return 2
    if part["type"] == "ByteLevel":
        return 0 if part["add_prefix_space"] else 1 if part["use_regex"] else 2
    if part["type"] != "Split" or part["behavior"] != "Isolated" or part["invert"]:
        return 0
    pattern = part["pattern"].get("Regex", "").replace("\r", r"\r").replace("\n", r"\n")
    found = list(_alternatives(pattern))
    if not _KNOWN.issuperset(found):
        return 0
    # `\s+(?!\S)` leaves the last of several space characters to what follows, unless line's ends were taken before.
    places = [found.index(lines) for lines in _LINES if lines in found]
    spaces = found.index(r"\s+(?!\S)") if r"\s+(?!\S)" in found else len(found)
    holds_space = r"\s+" in found or spaces < len(found)
    return 2 if not holds_space or (places and places[0] < spaces) else 1


def _alternatives(pattern: str) -> Iterator[str]:
    """The alternatives of a regular expression, outside of its groups and character sets."""
    start, depth, inside = 0, 0, False
    for match in re.finditer(r"\\.|[][()|]", pattern, re.DOTALL):
        sign = match.group()
        if inside:
            inside = sign != "]"
        elif sign == "[":
            inside = True
        elif sign in "()":
            depth += 1 if sign == "(" else -1
        elif sign == "|" and not depth:
            yield pattern[start : match.start()]
            start = match.end()
    yield pattern[start:]
