"""Text to ids, each chunk between added tokens encoded once."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain, pairwise
from typing import Any
from unicodedata import is_normalized, normalize

import numpy as np

from agentsft.encode.bytelevel import TokenBytes
from agentsft.encode.pretokens import LONGEST_HEADER, cut_header, line_ends
from agentsft.errors import UserError
from agentsft.render.probe import token_pattern
from agentsft.types import Turn

_CACHED_CHARACTERS = 256 * 2**20
_TRIAL = 'Hi there,  \n\n 1.5 {"a": [1, 2]}\n\tÄ 你好 🙂 <x>\n'


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """Ids int32[k] of a text, and the characters [start, end) of each, together covering the text without a gap.

    `altered`: the ids do not decode to the text, or to one that Unicode holds equal (composed characters, NFC).
    """

    ids: np.ndarray
    start: np.ndarray
    end: np.ndarray
    altered: bool = False


class ChunkEncoder:
    """Encodes prompts and responses with a fast tokenizer, as `encode(prompt) + encode(response)` would.

    A fast tokenizer cuts its input at added tokens before anything else, so the ids of a text are those of its
    chunks, each with the added token that opens it. Chunks are remembered: the history that every turn of a
    conversation repeats, and the system prompt that every conversation repeats, cost one look-up. A trial text
    decides whether the tokenizer at hand obeys; where it does not, texts are encoded whole.

    Raises UserError when the tokenizer is not a fast one, since offsets are needed.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise UserError(
                "the tokenizer has no fast version, which weights by offset need; save one beside the model."
            )
        self._backend = tokenizer.backend_tokenizer
        normalizes = _has_normalizer(self._backend)
        added = [token for token in tokenizer.added_tokens_decoder.values() if token.content]
        self._all = token_pattern(token.content for token in added)
        self._borders = {
            token.content
            for token in added
            if not (token.lstrip or token.rstrip or token.single_word or (token.normalized and normalizes))
        }
        self._longest = max([LONGEST_HEADER + 1, *(len(token.content) for token in added)])
        self._line_ends = line_ends(self._backend)
        self._ids: dict[str, np.ndarray] = {}
        self._characters = 0
        self._bytes = TokenBytes.of(self._backend)
        self._bare = _bare(self._backend, added) if self._line_ends else None
        self._sentinel = next((t for t in (tokenizer.eos_token, *self._borders) if t in self._borders), None)
        self.chunked = self._obeys()

    def chunks(self, text: str) -> list[str]:
        """`text` cut before each border token, and behind the line that one opens where that is exact.

        So what a message says is one chunk, whatever stands before it: the header of the history, or the place where
        sampling starts.
        """
        if not self.chunked:
            return [text] if text else []
        cuts, at = [0], 0
        line_ends = self._line_ends if self._plain_start else 0
        for match in self._all.finditer(text):
            if match.group() not in self._borders:
                continue
            start = match.start()
            if at and line_ends:
                cuts.append(cut_header(text, at, start, line_ends))
            cuts.append(start)
            at = match.end()
        if at and line_ends:
            cuts.append(cut_header(text, at, len(text), line_ends))
        cuts.append(len(text))
        return [text[a:b] for a, b in pairwise(cuts) if b > a]

    def chunks_after(self, before: str, chunks: Sequence[str], text: str) -> tuple[int, list[str]]:
        """How many of the chunks of a text `before` are the first ones of `text` too, and its others, cut anew."""
        if not chunks or not self.chunked:
            return 0, self.chunks(text)
        safe = common_prefix(before, text) - self._longest
        ends = list(accumulate(map(len, chunks)))
        kept = min(bisect_right(ends, safe), len(chunks) - 1)
        return kept, self.chunks(text[ends[kept - 1] if kept else 0 :])

    def learn(self, chunks: Iterable[str]) -> dict[str, np.ndarray]:
        """Ids int32[n] of chunks, these among them; those not known yet are encoded, in one parallel call.

        Threads may call it at once: what is known is replaced when there is too much of it, and never emptied.
        """
        known, wanted = self._ids, dict.fromkeys(chunks)
        missing = [chunk for chunk in wanted if chunk not in known]
        if not missing:
            return known
        self._characters += sum(map(len, missing))
        if self._characters > _CACHED_CHARACTERS:
            known = self._ids = {}
            missing = list(wanted)
            self._characters = sum(map(len, missing))
        bare = [chunk for chunk in missing if self._is_bare(chunk)] if self._bare else []
        alike = set(bare)
        others = [chunk for chunk in missing if chunk not in alike] if bare else missing
        for backend, texts in ((self._bare, bare), (self._backend, others)):
            for chunk, encoding in zip(texts, self._encode_batch_fast(backend, texts) if texts else (), strict=True):
                known[chunk] = np.array(encoding.ids, dtype=np.int32)
        return known

    def _is_bare(self, chunk: str) -> bool:
        """Whether only splitting and merging make its ids: NFC leaves it as it is, and it holds no added token."""
        return chunk.isascii() and not self._all.search(chunk)

    def ids_of(self, chunks: Sequence[str]) -> np.ndarray:
        """int32[n]: the ids of a text given as chunks."""
        return np.concatenate(self._known(chunks)) if chunks else np.empty(0, np.int32)

    def ids_in_turn(self, texts: Iterable[tuple[int, Sequence[str]]]) -> Iterator[np.ndarray]:
        """int32[n] for each of several texts, given as `chunks_after` gives them."""
        ids, ends = np.empty(0, np.int32), [0]
        for kept, own in texts:
            parts = self._known(own)
            ids = np.concatenate([ids[: ends[kept]], *parts])
            ends[kept:] = accumulate(map(len, parts), initial=ends[kept])
            yield ids

    def _known(self, chunks: Sequence[str]) -> list[np.ndarray]:
        known = self._ids
        try:
            return [known[chunk] for chunk in chunks]
        except KeyError:
            known = self.learn(chunks)
            return [known[chunk] for chunk in chunks]

    def encode_prompt(self, text: str) -> np.ndarray:
        """int32[n]: the ids of a prompt."""
        return self.ids_of(self.chunks(text))

    def encode_responses(self, turns: Sequence[Turn], chunks: Sequence[Sequence[str]] = ()) -> list[Encoded]:
        """Each turn's response and stop token, encoded from where sampling starts, with offsets into both.

        `altered` is set where the ids do not decode to just that text. `chunks` are the `response_chunks` of each,
        where they are known.
        """
        texts = [turn.response + turn.suffix for turn in turns]
        if self._bytes is None:
            return self._encode_by_offsets(texts)
        ids = self._response_ids(texts, chunks or [self.response_chunks(turn) for turn in turns])
        found = self._bytes.offsets(texts, ids)
        return [
            Encoded(one, *offsets) if offsets else self._encode_by_offsets([text])[0]
            for text, one, offsets in zip(texts, ids, found, strict=True)
        ]

    def response_chunks(self, turn: Turn) -> list[str]:
        """What `encode_responses` looks up, for `learn`; nothing where responses need an encoding of their own."""
        return self.chunks(turn.response + turn.suffix) if self.chunked and self._plain_start else []

    def _response_ids(self, texts: list[str], chunks: Sequence[Sequence[str]]) -> list[np.ndarray]:
        if self.chunked and self._plain_start:
            return [self.ids_of(one) for one in chunks]
        skip = 1 if self._lead else 0
        encoded = self._encode_batch_fast(self._backend, [self._lead + text for text in texts])
        return [np.array(one.ids[skip:], dtype=np.int32) for one in encoded]

    def _encode_by_offsets(self, texts: list[str]) -> list[Encoded]:
        """The general way, for tokenizers that are not byte-level and texts that their normalizer changes."""
        lead, skip = self._lead, 1 if self._lead else 0
        batch = self._backend.encode_batch([lead + text for text in texts], add_special_tokens=False)
        encoded = [_with_offsets(encoding, len(lead), skip) for encoding in batch]
        decoded = self._backend.decode_batch([one.ids.tolist() for one in encoded], skip_special_tokens=False)
        return [
            replace(one, altered=normalize("NFC", back) != normalize("NFC", text))
            for one, back, text in zip(encoded, decoded, texts, strict=True)
        ]

    def path_offsets(self, turn: Turn) -> tuple[np.ndarray, np.ndarray]:
        """Characters [start, end) of each token of the path that ends with `turn`, for people to look at."""
        before = _with_offsets(self._backend.encode(turn.prompt, add_special_tokens=False), 0, 0)
        after = self.encode_responses([turn])[0]
        first = len(turn.prompt)
        return np.concatenate([before.start, after.start + first]), np.concatenate([before.end, after.end + first])

    @staticmethod
    def _encode_batch_fast(backend: Any, texts: list[str]) -> list[Any]:
        return getattr(backend, "encode_batch_fast", backend.encode_batch)(texts, add_special_tokens=False)

    def _obeys(self) -> bool:
        """Whether chunks and whole text give the same ids for a trial, and what to lead a response with."""
        self._lead, self._plain_start = "", False
        one = self._backend.encode(_TRIAL, add_special_tokens=False).ids
        if self._sentinel is None:
            return False
        led = self._backend.encode(self._sentinel + _TRIAL, add_special_tokens=False).ids
        self._plain_start = led[1:] == one
        if not self._plain_start and len(led) > 1:
            self._lead = self._sentinel
        text = "".join(_TRIAL + token + "a\n" for token in sorted(self._borders)[:64]) + _TRIAL
        self.chunked = True
        return self.encode_prompt(text).tolist() == self._backend.encode(text, add_special_tokens=False).ids


def _bare(backend: Any, added: Sequence[Any]) -> Any:
    """The tokenizer without its search for added tokens and without NFC, an eighth of its time; None where they count.

    It is for texts in ASCII, which NFC leaves as they are, and in which a token stands only as it is written.
    """
    if backend.truncation or backend.padding or not all(is_normalized("NFC", token.content) for token in added):
        return None
    bare = type(backend)(backend.model)
    bare.pre_tokenizer = backend.pre_tokenizer
    return bare


def common_prefix(a: str, b: str) -> int:
    """How many characters two texts share at their start, found by halving."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while low < high - 1:
        middle = (low + high) // 2
        low, high = (middle, high) if a[low:middle] == b[low:middle] else (low, middle)
    return low


def _has_normalizer(backend: Any) -> bool:
    normalizer = backend.normalizer
    if normalizer is None:
        return False
    import json

    state = json.loads(normalizer.__getstate__())
    return not (state.get("type") == "Sequence" and not state.get("normalizers"))


def _with_offsets(encoding: Any, lead_characters: int, lead_tokens: int) -> Encoded:
    """Ids and offsets behind a lead.

    Some tokenizers trim white space from offsets; a token owns all characters since the one before it.
    """
    ids = np.array(encoding.ids[lead_tokens:], dtype=np.int32)
    flat = np.fromiter(chain.from_iterable(encoding.offsets[lead_tokens:]), np.int32, 2 * len(ids))
    start, end = flat[0::2] - lead_characters, flat[1::2] - lead_characters
    if len(ids):
        start[1:] = np.minimum(start[1:], np.maximum.accumulate(end)[:-1])
        start[0] = 0
    return Encoded(ids, start, end)
