"""What a run leaves for people: run.json (machine, versions, arithmetic) and the model card, README.md."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from agentsft import __version__
from agentsft.config import TrainConfig
from agentsft.data.paths import SUFFIXES, find_sources
from agentsft.errors import UserError
from agentsft.report.figures import WITHOUT_EFFECT, figures, ledger_table, number, shown
from agentsft.report.read import RUN_INFO, RunFolder, read_run
from agentsft.train.reporter import Summary
from agentsft.weigh.loss_scale import BASES, parse_loss_scale

CARD = "README.md"
PACKAGES = ("torch", "transformers", "accelerate", "peft", "datasets", "tokenizers", "safetensors")
MOST_HASHED = 32 * 2**30
"""Bytes of data up to which files are hashed for the card; the digest of the tokens stands for larger ones."""

_SIGNATURE = re.compile(
    r"\n<!-- written by agentsft; remove this line to keep your own changes: ([0-9a-f]{64}) -->\n?\Z"
)
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_PATHS = ("model", "data", "eval_data", "chat_template")
_NOT_SHOWN = (*WITHOUT_EFFECT, "cache", "num_proc", "save_steps", "save_total_limit")


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Versions of what computes: agentsft, Python, and those of `packages` that are installed."""
    found = {"agentsft": __version__, "python": platform.python_version()}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write_run_info(output: Path, summary: Summary) -> None:
    """Writes run.json. Call it on the main process before the first step. Where it cannot be written it is left out:
    the run itself says so of the files that matter.
    """
    started = datetime.now(UTC).isoformat(timespec="seconds")
    info = {**asdict(summary), "started": started, "platform": platform.platform(), "versions": versions()}
    with suppress(OSError):
        output.mkdir(parents=True, exist_ok=True)
        (output / RUN_INFO).write_text(json.dumps(info, indent=1), encoding="utf-8")


def write_card(config: TrainConfig, data_digest: str) -> str:
    """Writes README.md into the output of a finished run; says why not, or gives ''. Call it on the main process.

    `data_digest` is the SHA-256 over tokens and targets. Where a README.md is there that agentsft did not write, or
    that was changed since, it stays. A card is no reason to fail: nothing is raised.
    """
    output = Path(config.output)
    path = output / CARD
    try:
        if path.exists() and not is_own(path.read_text(encoding="utf-8", errors="replace")):
            return f"{path} is not as agentsft wrote it, and stays; no model card is written."
        text = signed(card(config, read_run(output), data_digest))
        path.write_text(text, encoding="utf-8")
    except (OSError, UserError) as error:
        return f"{path} is not written ({' '.join(str(error).split())[:200]})."
    return ""


def signed(text: str) -> str:
    """`text` with a last line by which `is_own` knows it again."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{text}\n<!-- written by agentsft; remove this line to keep your own changes: {digest} -->\n"


def is_own(text: str) -> bool:
    """Whether `text` is a card as agentsft wrote it, unchanged."""
    found = _SIGNATURE.search(text)
    return found is not None and hashlib.sha256(text[: found.start()].encode()).hexdigest() == found[1]


def card(config: TrainConfig, run: RunFolder, data_digest: str) -> str:
    """The model card of a finished run: front matter as the Hub reads it, then what a person asks."""
    parts = [
        f"---\n{_front_matter(config)}\n---\n",
        f"# {_plain(run.path.resolve().name)}\n\n{_introduction(config, run)}",
        f"## Use\n\n{_loading(config, run.path.resolve().name)}",
        f"## What is trained\n\n{_strategy(config)}",
        f"## Data\n\n{_data(config, run, data_digest)}",
        f"## Results\n\n{_results(run)}",
        f"## Recipe\n\n{_recipe(config)}",
        f"## Made with\n\n{_environment(run)}",
    ]
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _front_matter(config: TrainConfig) -> str:
    from huggingface_hub import ModelCardData

    hub_model = is_hub_name(config.model)
    data = [name.split(":")[0] for name in [*config.data, *config.eval_data] if is_hub_name(name.split(":")[0])]
    known: dict[str, Any] = {
        "base_model": config.model if hub_model else None,
        "base_model_relation": ("finetune" if config.tuner == "full" else "adapter") if hub_model else None,
        "library_name": "transformers" if config.tuner == "full" else "peft",
        "pipeline_tag": "text-generation",
        "tags": ["agentsft", "sft", "agent", *([] if config.tuner == "full" else [config.tuner])],
        "datasets": list(dict.fromkeys(data)) or None,
    }
    return ModelCardData(**{key: value for key, value in known.items() if value is not None}).to_yaml().strip()


def is_hub_name(name: str) -> bool:
    """Whether `name` is a repository's name on the Hub (owner/name) and no path of this machine."""
    return _HUB_NAME.fullmatch(name) is not None and not os.path.exists(name) and Path(name).suffix not in SUFFIXES


def _introduction(config: TrainConfig, run: RunFolder) -> str:
    kind = "Fine-tuned from" if config.tuner == "full" else f"{_TUNERS[config.tuner]} for"
    counts = f"{run.info['conversations']:,} " if isinstance(run.info.get("conversations"), int) else ""
    steps = f", {run.steps[-1]['step']:,} steps of {config.batch_size}" if run.steps else ""
    four = f", whose weights had 4 bits ({config.bnb_4bit_quant_type}) in training," if config.load_in_4bit else ""
    return (
        f"{kind} `{without_place(config.model)}`{four} with agentsft on {counts}conversations of agents{steps}. Every "
        "response was trained in the context that a server renders for it with the chat template in this folder."
    )


_TUNERS = {"lora": "LoRA adapter", "dora": "DoRA adapter"}


def _loading(config: TrainConfig, name: str) -> str:
    loader = "AutoModelForCausalLM" if config.tuner == "full" else "AutoPeftModelForCausalLM"
    package = "transformers" if config.tuner == "full" else "peft"
    same = "AutoModelForCausalLM, AutoTokenizer" if config.tuner == "full" else "AutoTokenizer"
    imports = [f"from transformers import {same}"]
    imports = imports if config.tuner == "full" else [f"from {package} import {loader}", *imports]
    base = without_place(config.model)
    serve = (
        f"vllm serve {name}" if config.tuner == "full" else f"vllm serve {base} --enable-lora --lora-modules {name}=."
    )
    folded = f"\n\nTools, calls and results are plain text ({config.agent_format}): agent_format.json has the words."
    return "\n".join(
        [
            "```python",
            *imports,
            "",
            f'folder = "{name}"  # this folder, or its name on the Hub',
            "tokenizer = AutoTokenizer.from_pretrained(folder)",
            f"model = {loader}.from_pretrained(folder)",
            'messages = [{"role": "user", "content": "Hello"}]',
            'prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", '
            "return_dict=True)",
            "answer = model.generate(**prompt, max_new_tokens=256)",
            'print(tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))',
            "```",
            "",
            f"In a terminal: `agentsft chat {name}`. As a server: `{serve}`.",
        ]
    ) + (folded if config.agent_format else "")


def _strategy(config: TrainConfig) -> str:
    scale = parse_loss_scale(config.loss_scale)
    base = "the last assistant message" if config.mask_history else BASES[scale.base]
    base = base[0].lower() + base[1:].rstrip(".")
    lines = [f"Loss scale `{without_place(config.loss_scale)}`: {base}, each up to its stop token."]
    if scale.strategies:
        lines += ["", "| strategy | pattern | weight (own, text after) |", "|---|---|---|"]
        lines += [
            f"| {strategy.name} | `{_cell(pattern)}` | {', '.join(f'{weight:g}' for weight in weights)} |"
            for strategy in scale.strategies
            for _, pattern, weights in strategy.rows
        ]
    return "\n".join(lines)


def _data(config: TrainConfig, run: RunFolder, data_digest: str) -> str:
    lines = ["| | files | bytes | SHA-256 |", "|---|---:|---:|---|"]
    lines += [_source(name, "") for name in config.data] + [_source(name, " (held out)") for name in config.eval_data]
    counts = {key: run.info.get(key) for key in ("conversations", "eval_conversations", "trained_tokens", "tokens")}
    if all(isinstance(count, int) for count in counts.values()):
        lines += [
            "",
            f"{counts['conversations']:,} conversations trained, {counts['eval_conversations']:,} held out; "
            f"{counts['trained_tokens']:,} of {counts['tokens']:,} tokens are targets.",
        ]
    lines += ["", f"SHA-256 over the tokens and targets of all training conversations: `{data_digest}`.", ""]
    if not run.ledger:
        return "\n".join([*lines, "Every row is trained in full."])
    lines += ["Not trained in full:", "", "| reason | rows | refused | turns lost | tokens lost |"]
    lines += ["|---|---:|---:|---:|---:|"]
    lines += [f"| {_cell(r)} | {n:,} | {x:,} | {turns:,} | {t:,} |" for r, n, x, turns, t, _ in ledger_table(run)]
    if run.duplicates:
        lines += ["", f"{len(run.duplicates):,} rows repeat an earlier one; they are trained all the same."]
    return "\n".join(lines)


def _source(name: str, what: str) -> str:
    title = f"| `{_cell(without_place(name))}`{what}"
    if is_hub_name(name.split(":")[0]):
        return f"{title} | Hub | | |"
    try:
        paths = sorted(path for source in find_sources([name]) for path in _files(Path(source.path)))
        size = sum(path.stat().st_size for path in paths)
        digest = digest_of(paths) if size <= MOST_HASHED else ""
    except (OSError, UserError):
        return f"{title} | | | not there any more |"
    return f"{title} | {len(paths)} | {size:,} | {f'`{digest}`' if digest else 'too large'} |"


def _files(path: Path) -> Iterable[Path]:
    return [path] if path.is_file() else (file for file in path.rglob("*") if file.is_file())


def digest_of(paths: list[Path]) -> str:
    """The SHA-256 of one file; of several, that of their digests in hexadecimal, one a line, in the given order."""

    def digest(path: Path) -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    with ThreadPoolExecutor() as pool:
        found = list(pool.map(digest, paths))
    return found[0] if len(found) == 1 else hashlib.sha256("".join(f"{one}\n" for one in found).encode()).hexdigest()


def _results(run: RunFolder) -> str:
    lines = ["| | |", "|---|---|"]
    lines += [f"| {figure.name} | {figure.text}{figure.detail and f', {figure.detail}'} |" for figure in figures(run)]
    if len(run.evaluations) > 1:
        first, last = (run.evaluations[k].get("eval_loss_by_label") or {} for k in (0, -1))
        lines += ["", "| held-out loss of | before | after |", "|---|---:|---:|"]
        lines += [f"| {_cell(label)} | {_four(first.get(label))} | {_four(last[label])} |" for label in last]
    return "\n".join(lines)


def _four(value: Any) -> str:
    return "-" if number(value) is None else f"{value:.4f}"


def _recipe(config: TrainConfig) -> str:
    import yaml

    defaults = vars(TrainConfig())
    changed = {key: value for key, value in vars(config).items() if value != defaults[key] and key not in _NOT_SHOWN}
    for key in (*_PATHS, "loss_scale"):
        if key in changed:
            value = changed[key]
            changed[key] = [without_place(v) for v in value] if isinstance(value, list) else without_place(value)
    text = yaml.safe_dump(changed, sort_keys=False, allow_unicode=True).replace("```", "'''")
    return f"```yaml\n{text}```\n\nThe other settings have their defaults; recipe.yaml has them all."


def without_place(path: str) -> str:
    """The path as the recipe has it; of one that tells where on this machine something lies, the name alone."""
    elsewhere = Path(path).is_absolute() or path.startswith(("~", "..")) or re.match(r"[A-Za-z]:[\\/]", path)
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1] if elsewhere else path


def _environment(run: RunFolder) -> str:
    info = run.info
    found = info.get("versions")
    named = found if isinstance(found, dict) else versions()
    where = [shown(info[key]) for key in ("device", "precision") if info.get(key)]
    processes = info.get("world_size")
    where += [f"{processes} processes"] if isinstance(processes, int) and processes > 1 else []
    return ", ".join([*where, *(f"{name} {value}" for name, value in named.items())]) + "."


def _cell(text: str) -> str:
    """A text in one cell of a table, between backticks or not."""
    return " ".join(str(text).replace("|", "\\|").replace("`", "'").split())


def _plain(text: str) -> str:
    return re.sub(r"[\r\n<>]", " ", text)
