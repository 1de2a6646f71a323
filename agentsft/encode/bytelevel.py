"""Byte-level vocabularies: the bytes of every token, for offsets and proofs without a second pass."""

from __future__ import annotations

import json
from collections.abc import Sequence
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
        every = np.concatenate(ids)
        lengths = self._lengths[every]
        ends = np.cumsum(lengths, dtype=np.int64)
        joined = b"".join([self._table[number] for number in every.tolist()])
        out: list[tuple[np.ndarray, np.ndarray] | None] = []
        first = byte = 0
        for text, one, raw in zip(texts, ids, data, strict=True):
            last = first + len(one)
            end = (ends[first:last] - byte).astype(np.int32)
            size = int(end[-1]) if len(one) else 0
            same = size == len(raw) and joined.startswith(raw, byte)
            out.append(_in_characters(end - lengths[first:last], end, text, raw) if same else None)
            first, byte = last, byte + size
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
