"""`agentsft merge`: an adapter into its base model, proven on sample rows."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from agentsft.config import TrainConfig, build
from agentsft.errors import UserError

_DTYPES = ("auto", "float32", "bfloat16", "float16")
_LONGEST = 1024
_TEXTS = (
    "The quick brown fox, 1.25 times, said: what is the weather in Lyon today?",
    'Thought: I need the price.\nAction: search\nAction Input: {"query": "price of a ticket", "limit": 3}\n',
    "def mean(values):\n    return sum(values) / len(values)\n",
)


def merge(
    adapter: Annotated[str, typer.Argument(help="Folder of the adapter: the output of a LoRA or DoRA run.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write the merged model to.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Base; default: the one the adapter names.")
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option("--data", "-d", help="Rows to compare on; default: the run's own. Repeatable.")
    ] = None,
    rows: Annotated[int, typer.Option("--rows", min=1, help="How many rows to compare on.")] = 4,
    dtype: Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16 or float16.")] = "auto",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code that the model's folder brings.")
    ] = False,
    load_in_4bit: Annotated[
        bool | None,
        typer.Option(
            "--load-in-4bit/--no-load-in-4bit",
            help="Merge into the base as 4 bits render it, or as it is published; default: what the run trained upon.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Merge a LoRA or DoRA adapter into its base, and prove that both give the same logits."""
    raise typer.Exit(run_merge(adapter, out, model, data or [], rows, dtype, trust_remote_code, load_in_4bit))


def run_merge(
    adapter: str,
    out: Path,
    model: str | None,
    data: list[str],
    rows: int,
    dtype: str,
    trust: bool,
    load_in_4bit: bool | None = None,
) -> int:
    """Merge, prove, and say what was proven. Returns 0; raises UserError for all that goes wrong."""
    if dtype not in _DTYPES:
        raise UserError(f"--dtype is one of {', '.join(_DTYPES)}; not {dtype!r}.")
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        raise UserError(f"--out: {out} is not empty; name another folder.")
    from agentsft.train.adapter import base_of, merge_adapter

    base = base_of(adapter)  # also where --model replaces it: it says whether this is an adapter
    base = model or base
    own = (Path(adapter) / "tokenizer_config.json").is_file()
    config = _settings(adapter, base, data, trust)
    from agentsft.encode.load import load_tokenizer

    tokenizer = load_tokenizer(build(TrainConfig, {"model": adapter if own else base, "trust_remote_code": trust}))
    samples, what = _samples(config, tokenizer, rows, bool(data))
    run = replace(config, precision=_precision(adapter, config))
    if load_in_4bit is not None:
        run = replace(run, load_in_4bit=load_in_4bit)
    exact, rounded, name = merge_adapter(adapter, base, out, tokenizer, samples, dtype, trust, run)
    note = Path(adapter) / "agent_format.json"
    if note.is_file():
        shutil.copy(note, out / note.name)
    print(f"compared on {what}, {exact.tokens:,} tokens")
    if run.load_in_4bit:
        print(f"  base: {run.bnb_4bit_quant_type} weights of 4 bits made plain again, as the run computed with them")
    print(f"  merged in float32: largest difference of a logit {exact.largest:.1e} of the largest logit")
    print(f"  as saved in {name}: {rounded.kl:.1e} nats a token, {rounded.same_top:.1%} with the same likeliest token")
    print(f"wrote {out}")
    return 0


def _settings(adapter: str, base: str, data: list[str], trust: bool) -> TrainConfig:
    """The run's own settings where its recipe is there, with `data` in place of its data where that is given."""
    from agentsft.data.columns import divided
    from agentsft.recipe import load_recipe

    recipe = Path(adapter) / "recipe.yaml"
    values: dict[str, Any] = load_recipe(recipe) if recipe.is_file() else {}
    config = build(TrainConfig, values, str(recipe))
    changes: dict[str, Any] = {"model": base, "trust_remote_code": trust, "max_length": None, "overflow": "drop_turns"}
    changes |= {"data": data, "columns": divided(config.columns)[0]} if data else {}
    return build(TrainConfig, {**vars(config), **changes}, "command line")


def _precision(adapter: str, config: TrainConfig) -> str:
    """The precision that the run's `auto` came to, as its run.json says; fp32 where that is not known."""
    if config.precision != "auto":
        return config.precision
    try:
        said = json.loads((Path(adapter) / "run.json").read_text(encoding="utf-8"))["precision"]
    except (OSError, ValueError, KeyError, TypeError):
        return "fp32"
    return said if said in ("bf16", "fp16") else "fp32"


def _samples(config: TrainConfig, tokenizer: Any, rows: int, required: bool) -> tuple[list[list[int]], str]:
    """Token ids to compare on: those of the first rows that can be trained, else of some texts; and what they are."""
    from itertools import islice

    from agentsft.data.paths import find_sources
    from agentsft.encode.load import load_preparer, prepare_all

    there = bool(config.data)
    try:
        find_sources(config.data)
    except UserError:
        if required:
            raise
        there = False  # the run's data may be elsewhere by now
    if there:
        examples = prepare_all(config, load_preparer(config, tokenizer))
        trees = islice((example.tree for example in islice(examples, 100 * rows) if example.tree is not None), rows)
        if ids := [tree.input_ids[:_LONGEST].tolist() for tree in trees]:
            return ids, f"{len(ids)} rows of {', '.join(config.data)}"
    return [tokenizer.encode(text) for text in _TEXTS], f"{len(_TEXTS)} texts, since no rows are at hand"
