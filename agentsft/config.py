"""Every setting, once: a recipe's keys, the command line's flags and their help come from these fields."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from typing import Any, TypeVar, get_args, get_type_hints

from agentsft.elsewhere import say_unknown
from agentsft.errors import UserError, nearest, shown


def option(default: Any, help: str, group: str, choices: tuple[str, ...] = ()) -> Any:
    """A setting: its default, its line of help, the group of flags that it is shown in, and what it may be."""
    metadata = {"help": help, "group": group, "choices": choices}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class DataConfig:
    """What is read, how it is rendered and weighed: shared by train, preview and check."""

    model: str = option("", "Model folder or hub name; preview and check need only its tokenizer.", "Data")
    data: list[str] = option([], "JSONL, JSON or Parquet file, folder, glob, or hub data set name. Repeatable.", "Data")
    data_format: str = option(
        "auto",
        "Format of the rows.",
        "Data",
        ("auto", "openai", "sharegpt", "alpaca", "react"),
    )
    chat_template: str | None = option(None, "File with the chat template to use instead of the model's.", "Template")
    template_kwargs: dict[str, Any] = option({}, "JSON object of variables for the template.", "Template")
    agent_format: str | None = option(
        None,
        "Fold tools, calls and results into plain text of this format.",
        "Template",
        ("react", "hermes", "qwen"),
    )
    reasoning: str = option(
        "keep",
        "inline folds reasoning into the content as <think>...</think>.",
        "Template",
        ("keep", "inline"),
    )
    control_tokens: str = option(
        "refuse",
        "Rows whose text holds the template's control tokens.",
        "Template",
        ("refuse", "allow"),
    )
    stop_token: list[str] = option([], "A further token at which serving stops. Repeatable.", "Template")
    trust_remote_code: bool = option(False, "Run Python code that the model's folder brings.", "Template")
    loss_scale: str = option("default", "Strategy: [BASE+]NAME[+NAME...], or a JSON file of your own.", "Weights")
    mask_history: bool = option(False, "Train only the last assistant message.", "Weights")
    max_length: int | None = option(None, "Longest context in tokens; default: what the model allows.", "Length")
    overflow: str = option(
        "drop_turns",
        "What happens to longer conversations.",
        "Length",
        ("drop_turns", "skip", "error"),
    )
    num_proc: int | None = option(
        None,
        "Processes that prepare rows; default: as many as cores, at most 8, and 1 for little data or two cores.",
        "Data",
    )
    columns: dict[str, Any] = option(
        {}, "JSON object: names that the rows have for messages, role, content, output and so on, or by path.", "Data"
    )


@dataclass
class TrainConfig(DataConfig):
    """A recipe: `DataConfig` and everything about the run."""

    output: str = option("output", "Folder for the model, metrics, ledger and checkpoints.", "Run")
    eval_data: list[str] = option([], "Held-out data. Repeatable.", "Evaluation")
    eval_share: float = option(0.0, "Share of the conversations held out, chosen by seed.", "Evaluation")
    eval_steps: int | None = option(None, "Evaluate every so many steps; default: at the end only.", "Evaluation")
    max_lost: float = option(1.0, "Stop before step 1 when more than this share of rows or tokens is lost.", "Data")
    batch_size: int = option(16, "Conversations per optimizer step, over all processes.", "Batch")
    micro_batch_tokens: int = option(16384, "Tokens in one forward pass: the memory knob.", "Batch")
    layout: str = option("tree", "Token trees, or one sequence per path.", "Batch", ("tree", "split"))
    share_prefixes: bool | None = option(
        None,
        "Compute what conversations of one forward pass share at their start only once; default: with flex attention.",
        "Batch",
    )
    normalize: str = option(
        "items",
        "Divide the loss by the trained tokens or by their weights.",
        "Batch",
        ("items", "weights"),
    )
    learning_rate: float | None = option(None, "Peak rate; default: 2e-5 full, 2e-4 LoRA.", "Optimizer")
    lr_scheduler_type: str = option(
        "cosine",
        "Schedule after the warm-up.",
        "Optimizer",
        ("cosine", "linear", "constant"),
    )
    warmup_ratio: float = option(0.03, "Share of the steps that warm up.", "Optimizer")
    warmup_steps: int | None = option(None, "Warm-up in steps; overrides the ratio.", "Optimizer")
    weight_decay: float = option(0.0, "Decay of matrices; norms and biases are left alone.", "Optimizer")
    adam_beta1: float = option(0.9, "AdamW's first beta.", "Optimizer")
    adam_beta2: float = option(0.95, "AdamW's second beta.", "Optimizer")
    adam_epsilon: float = option(1e-8, "AdamW's epsilon.", "Optimizer")
    max_grad_norm: float = option(1.0, "Clip the gradient's norm; 0 leaves it.", "Optimizer")
    num_train_epochs: float = option(1.0, "Passes over the data.", "Run")
    max_steps: int | None = option(None, "Stop after so many optimizer steps; overrides epochs.", "Run")
    seed: int = option(42, "Seed of order, dropout and new weights.", "Run")
    precision: str = option(
        "auto",
        "auto: bf16 autocast over fp32 weights on GPUs that have it, else fp32.",
        "Model",
        ("auto", "fp32", "bf16", "fp16"),
    )
    attn_implementation: str | None = option(
        None,
        "Attention; default: flex_attention on CUDA, sdpa elsewhere.",
        "Model",
    )
    gradient_checkpointing: bool = option(False, "Recompute activations: less memory, more time.", "Model")
    torch_compile: bool | None = option(None, "Compile the decoder layers; default: on CUDA.", "Model")
    tuner: str = option("full", "What is trained.", "Model", ("full", "lora", "dora"))
    lora_rank: int = option(16, "Rank of the adapter.", "Model")
    lora_alpha: int = option(32, "Scale of the adapter.", "Model")
    lora_dropout: float = option(0.0, "Dropout in the adapter.", "Model")
    lora_target_modules: list[str] = option(["all-linear"], "Modules to adapt. Repeatable.", "Model")
    lora_modules_to_save: list[str] = option([], "Modules trained in full beside the adapter. Repeatable.", "Model")
    save_steps: int | None = option(None, "Checkpoint every so many steps.", "Run")
    save_total_limit: int | None = option(None, "Keep only the newest checkpoints.", "Run")
    resume: bool = option(False, "Go on from the newest checkpoint of output, or start afresh.", "Run")
    resume_from_checkpoint: str | None = option(None, "Go on from this checkpoint.", "Run")
    cache: bool = option(True, "Keep prepared rows in the cache folder, and take them from there.", "Data")
    max_bad_steps: int | None = option(
        None, "Stop after so many steps skipped for a NaN or infinite loss or gradient; default: never.", "Run"
    )
    report_to: list[str] = option([], "Send metrics to tensorboard, wandb or trackio. Repeatable.", "Run")
    project: str | None = option(None, "Project at wandb and trackio; default: agentsft.", "Run")
    data_weights: dict[str, Any] = option(
        {}, "JSON object of paths of data: how often their rows are seen in an epoch; default: once.", "Data"
    )
    run_name: str | None = option(None, "Name of the run at wandb and trackio; default: that of output.", "Run")
    eval_generate: int | None = option(
        None, "Held-out conversations whose turns the model answers at each evaluation.", "Evaluation"
    )
    eval_max_new_tokens: int = option(256, "Longest answer of eval_generate, in tokens.", "Evaluation")
    metric_for_best_model: str | None = option(
        None,
        "Figure of the evaluation whose best model is kept in output/best; default with patience: eval_loss.",
        "Evaluation",
    )
    early_stopping_patience: int | None = option(
        None, "Stop after so many evaluations that are no better.", "Evaluation"
    )
    load_in_4bit: bool = option(False, "QLoRA: the frozen base in 4 bits, under an adapter.", "Model")
    bnb_4bit_quant_type: str = option("nf4", "Data type of the 4-bit base.", "Model", ("nf4", "fp4"))
    bnb_4bit_use_double_quant: bool = option(True, "Quantise the scales of the 4-bit base too.", "Model")
    activation_offloading: bool = option(
        False, "Keep what gradient_checkpointing keeps in host memory, for packs of 64k tokens and more.", "Model"
    )
    fsdp: bool = option(
        False,
        "Shard weights, gradients and optimizer state over the processes (FSDP2), as accelerate launch --use_fsdp.",
        "Run",
    )
    sync_each_batch: bool | None = option(
        None,
        "FSDP2: exchange gradients after each forward pass, not once a step; default: where they need much memory.",
        "Batch",
    )
    fp8: str | None = option(
        None,
        "Matrix products in 8 bits, with one scale a tensor or one a row (more exact): not exact, nor always faster.",
        "Model",
        ("tensorwise", "rowwise"),
    )


T = TypeVar("T", bound=DataConfig)


def build(cls: type[T], values: dict[str, Any], where: str = "recipe") -> T:
    """A checked configuration from `values`. Raises UserError, naming `where`, on an unknown key or a bad value."""
    if any(isinstance(item, dict) for key in ("data", "eval_data") for item in _listed(values.get(key))):
        from agentsft.data.entries import with_entries

        values = with_entries(values, where)
    known = {f.name: f for f in fields(cls)}
    types = get_type_hints(cls)
    checked: dict[str, Any] = {}
    if unknown := [key for key in values if key not in known]:
        raise UserError(f"{where}: {say_unknown(unknown, tuple(known))}")
    for key, value in values.items():
        checked[key] = _checked(value, types[key], known[key], f"{where}: {key}")
    config = cls(**checked)
    if config.columns:
        from agentsft.data.columns import check_columns

        check_columns(config.columns, [*config.data, *getattr(config, "eval_data", [])], f"{where}: columns")
    _check_ranges(config, where)
    return config


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _checked(value: Any, kind: Any, setting: dataclasses.Field, where: str) -> Any:
    """`value` as `kind`, or UserError. Numbers may be written as text (YAML reads 1e-5 as text)."""
    kinds = get_args(kind) if type(None) in get_args(kind) else (kind,)
    if value is None:
        if type(None) in kinds:
            return None
        raise UserError(f"{where} needs a value.")
    target = next(k for k in kinds if k is not type(None))
    choices = setting.metadata["choices"]
    if target == list[str]:
        items = value if isinstance(value, list) else [value]
        if not all(isinstance(item, str) for item in items):
            raise UserError(f"{where} takes text or a list of texts, not {shown(value)}.")
        return items
    if target == dict[str, Any]:
        return _json_object(value, where)
    if target is bool:
        if not isinstance(value, bool):
            raise UserError(f"{where} is true or false, not {shown(value)}.")
        return value
    if target in (int, float):
        return _number(value, target, where)
    if not isinstance(value, str):
        raise UserError(f"{where} takes text, not {shown(value)}.")
    if choices and value not in choices:
        raise UserError(f"{where} is one of {', '.join(choices)}; not {shown(value)}.{nearest(value[:100], choices)}")
    return value


def _json_object(value: Any, where: str) -> dict[str, Any]:
    from agentsft.data.json_text import parse_json

    try:
        value = parse_json(value) if isinstance(value, str) else value
    except ValueError as error:
        raise UserError(f"{where} is not valid JSON ({error}).") from None
    if not isinstance(value, dict):
        raise UserError(f"{where} takes a mapping, not {shown(value)}.")
    if not all(isinstance(key, str) for key in value):
        raise UserError(f"{where} takes a mapping whose keys are texts, not {shown(value)}.")
    try:
        json.dumps(value, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:  # a date, a set, NaN, a circle
        raise UserError(f"{where} takes what JSON can say, not {shown(value)} ({error}).") from None
    return value


def _number(value: Any, target: type, where: str) -> int | float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise UserError(f"{where} takes a number, not {shown(value)}.")
    try:
        number = float(value)
        exact = int(value) if isinstance(value, int) else int(number)
    except (ValueError, OverflowError):
        raise UserError(f"{where} takes a finite number, not {shown(value)}.") from None
    if target is int and not isinstance(value, int) and exact != number:
        raise UserError(f"{where} takes a whole number, not {shown(value)}.")
    return exact if target is int else number


def check_together(config: TrainConfig, run: bool = True) -> None:
    """Raises UserError for settings that need others, or for a `run` a library that is absent.

    It is no part of `build`, which sees a recipe before the flags that complete it.
    """
    if config.load_in_4bit and config.tuner == "full":
        raise UserError("load_in_4bit: weights of 4 bits cannot be trained themselves; set tuner: lora.")
    if config.activation_offloading and not config.gradient_checkpointing:
        raise UserError("activation_offloading moves what gradient_checkpointing keeps; set that to true as well.")
    if run and config.load_in_4bit and find_spec("bitsandbytes") is None:
        raise UserError("load_in_4bit needs bitsandbytes: pip install 'agentsft[qlora]'.")


_AT_LEAST_ONE = [
    "eval_generate",
    "eval_max_new_tokens",
    "early_stopping_patience",
    "batch_size",
    "micro_batch_tokens",
    "max_steps",
    "eval_steps",
    "save_steps",
    "save_total_limit",
    "lora_rank",
    "lora_alpha",
    "max_length",
    "num_proc",
    "max_bad_steps",
]
_NOT_NEGATIVE = [
    "learning_rate",
    "weight_decay",
    "max_grad_norm",
    "warmup_steps",
    "seed",
    "adam_epsilon",
    "num_train_epochs",
]
_LARGEST_WHOLE = 2**31 - 1
_AT_MOST = {"seed": 2**63 - 1, "num_train_epochs": 10**6}
"""Other whole numbers are at most `_LARGEST_WHOLE`: what counts tokens, rows and steps is kept in 32 bits."""
_BELOW_ONE = ["eval_share", "lora_dropout", "adam_beta1", "adam_beta2"]


def _check_ranges(config: DataConfig, where: str) -> None:
    for name, value in vars(config).items():
        if value is None:
            continue
        if name in _AT_LEAST_ONE and value < 1:
            raise UserError(f"{where}: {name} is at least 1, not {value}.")
        if name in _NOT_NEGATIVE and value < 0:
            raise UserError(f"{where}: {name} is at least 0, not {value}.")
        most = _AT_MOST.get(name, _LARGEST_WHOLE if name in _AT_LEAST_ONE or name in _NOT_NEGATIVE else math.inf)
        if isinstance(value, (int, float)) and value > most:
            raise UserError(f"{where}: {name} is at most {most:,}, not {shown(value)}.")
        if name in _BELOW_ONE and not 0 <= value < 1:
            raise UserError(f"{where}: {name} is at least 0 and below 1, not {value}.")
        if name in ("max_lost", "warmup_ratio") and not 0 <= value <= 1:
            raise UserError(f"{where}: {name} is between 0 and 1, not {value}.")
