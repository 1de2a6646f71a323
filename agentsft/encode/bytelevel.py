"""Byte-level vocabularies: the bytes of every token, for offsets and proofs without a second pass."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np


class TokenBytes:
    """The bytes of each token of a byte-level BPE tokenizer."""

    def __init__(self, table: list[bytes]) -> None:
        self._table = table
        self._lengths = np.array([len(one) for one in table], dtype=np.int32)

    @classmethod
    def of(cls, backend: Any) -> TokenBytes | None:
        """The table of a fast tokenizer, or None where its tokens are not plain bytes."""
        decoder = backend.decoder
        if decoder is None or json.loads(decoder.__getstate__()).get("type") != "ByteLevel":
            return None
        vocab: dict[str, int] = backend.get_vocab(with_added_tokens=False)
        added = backend.get_added_tokens_decoder()
        table = [b""] * (max([*vocab.values(), *added]) + 1)
        alphabet = _byte_alphabet()
        try:
            for token, number in vocab.items():
                table[number] = token.translate(alphabet).encode("latin-1")
        except UnicodeEncodeError:
            return None  # a token that is no text of the byte alphabet
        for number, token in added.items():
            table[number] = token.content.encode()
        return cls(table)

    def offsets(self, texts: Sequence[str], ids: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray] | None]:
        """Characters [start, end), int32 each, of each text's tokens; None where their bytes are not the text's UTF-8.

        A token that begins or ends inside a character counts that character as its own.
        """
        if not texts:
            return []
        data = [text.encode() for text in texts]
        counts = [len(one) for one in ids]
        every = np.concatenate(ids)
        lengths = self._lengths[every]
        ends = np.cumsum(lengths, dtype=np.int64)
        joined = b"".join(map(self._table.__getitem__, every.tolist()))
        bases = np.concatenate([np.zeros(1, np.int64), ends])[[0, *accumulate(counts[:-1])]]
        end = (ends - np.repeat(bases, counts)).astype(np.int32)
        start = end - lengths
        out: list[tuple[np.ndarray, np.ndarray] | None] = []
        first = 0
        for text, raw, count, byte in zip(texts, data, counts, bases.tolist(), strict=True):
            own = slice(first, first + count)
            size = int(end[own][-1]) if count else 0
            same = size == len(raw) and joined.startswith(raw, byte)
            out.append(_in_characters(start[own], end[own], text, raw) if same else None)
            first += count
        return out


def _in_characters(start: np.ndarray, end: np.ndarray, text: str, data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Characters in place of bytes: data is the text's UTF-8."""
    if len(data) == len(text):
        return start, end
    raw = np.frombuffer(data, dtype=np.uint8)
    character = np.cumsum((raw & 0xC0) != 0x80, dtype=np.int32) - 1  # a byte 10xxxxxx continues a character
    return character[start], character[np.maximum(end - 1, start)] + 1


def _byte_alphabet() -> dict[int, int]:
    """Byte-level BPE writes each byte as one printable character; this maps the characters back to the bytes.

    Bytes that are printable in Latin-1 stand for themselves, the others for the code points from 256 on, in order
    (GPT-2's encoder).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {byte: byte for byte in printable} | {256 + n: byte for n, byte in enumerate(others)}
