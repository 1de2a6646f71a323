"""The steps of training as functions, for notebooks and for people who keep a trainer of their own.

    from agentsft import api

    rows = api.load_conversations("examples/data/react.jsonl")
    api.render(rows[0].conversation, "models/smollm2")              # prompts and responses as they are served
    api.weigh("Thought: easy\\nFinal Answer: 4", "react")            # what each part of a response weighs
    examples = api.encode(rows, "models/smollm2", loss_scale="react")
    api.train(model="models/smollm2", data=["examples/data/react.jsonl"], output="runs/react")

`to_dataset`, `Collator` and `WeightedLoss` lead to Transformers' Trainer and TRL's. The names stand here and not in
`agentsft` itself, where `render`, `weigh`, `encode` and `train` are the packages that do the work.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from agentsft.config import DataConfig, TrainConfig, build
from agentsft.errors import UserError
from agentsft.types import Conversation, Example, Row

if TYPE_CHECKING:
    from agentsft.encode.prepare import Preparer
    from agentsft.render.turns import RenderedTurn
    from agentsft.train.reporter import Reporter, TrainResult

__all__ = ["Collator", "Part", "WeightedLoss", "encode", "load_conversations", "render", "to_dataset", "train", "weigh"]


def load_conversations(
    data: str | Sequence[str],
    data_format: str = "auto",
    reasoning: str = "keep",
    agent_format: str | None = None,
    columns: dict[str, Any] | None = None,
) -> list[Row]:
    """Read files, folders, globs or hub data sets; one `Row` for each row, in order.

    A row that cannot be read has no `conversation` but a `refusal`, which says why: none is left out in silence.
    The other arguments are the settings of the same names. Raises UserError for paths and settings that do not exist.
    """
    from agentsft.data.read import read_rows

    paths = [data] if isinstance(data, str) else data
    return list(read_rows(paths, data_format, reasoning, agent_format, columns=columns))


def render(conversation: Conversation, model: Any, **settings: Any) -> list[RenderedTurn]:
    """Each assistant message as a server sees it: `prompt` + `response` + `suffix` (the stop token), as texts.

    `model` is a folder, a hub name or a fast tokenizer; `settings` are those of `DataConfig`, such as
    `template_kwargs={"enable_thinking": True}`. Raises RowError where the model's template cannot render the
    conversation exactly, UserError for settings that cannot work.
    """
    messages = [i for i, message in enumerate(conversation.messages) if message.role == "assistant"]
    return _preparer(model, settings).renderer.turns(conversation, messages)


class Part(NamedTuple):
    """A stretch of a response, the weight of its tokens, and what it is (one of `agentsft.types.LABELS`)."""

    text: str
    weight: float
    label: str


def weigh(response: str, loss_scale: str = "default", query: str | None = None) -> list[Part]:
    """The parts of a response under a strategy, in order; joined they are the response.

    `query` is the user or tool message before it, at which agentflan looks. Raises UserError for an unknown strategy.
    """
    from agentsft.weigh.loss_scale import parse_loss_scale

    spans = parse_loss_scale(loss_scale).spans(response, query)
    return [Part(response[span.start : span.end], span.weight, span.label) for span in spans]


def encode(rows: Iterable[Row | Conversation], model: Any, **settings: Any) -> list[Example]:
    """Rendered, weighed, encoded and proven: one `Example` for each row, with its `turns` and its token `tree`.

    An example that cannot be trained exactly has a `refusal` and no tree; `lost` says what was left out of one that is
    too long. `model` is a folder, a hub name or a fast tokenizer; `settings` are those of `DataConfig`: `loss_scale`,
    `mask_history`, `max_length` and so on. Raises UserError for settings that cannot work.
    """
    numbered = (
        Row(i, f"row {i}", conversation=row) if isinstance(row, Conversation) else row for i, row in enumerate(rows)
    )
    return list(_preparer(model, settings).prepare(numbered))


def train(recipe: str | None = None, reporter: Reporter | None = None, **settings: Any) -> TrainResult:
    """Train as `agentsft train RECIPE` does, with `settings` (the flags, with underscores) over the recipe's.

    Blocks until the run is done and returns its steps, losses and output folder; what it writes is the same. A
    `reporter` hears of every step (`agentsft.train.reporter.Reporter`); without one nothing is printed. Raises
    UserError for settings, data or a model that do not fit, and for an output with the checkpoints of another run.
    """
    from agentsft.encode.load import load_preparer
    from agentsft.job import carry_out, check_run
    from agentsft.recipe import load_recipe
    from agentsft.train.dataset import load_dataset
    from agentsft.train.reporter import Silent

    values = load_recipe(recipe) if recipe else {}
    config = build(TrainConfig, {**values, **settings}, str(recipe) if recipe else "settings")
    ranking = check_run(config)
    preparer = load_preparer(config)
    return carry_out(config, preparer, load_dataset(config, preparer), ranking, reporter or Silent())


def to_dataset(examples: Iterable[Example]) -> Any:
    """A `datasets.Dataset` for other trainers: each root-to-leaf path of each tree is a row, one served context.

    Columns: `input_ids` list[int32], `labels` (-100 where nothing is trained), `loss_scale` list[float32] of the same
    length, and `conversation`, the example's index. Every target of a tree is in exactly one of its paths, so the
    weights of the rows sum to the tree's. Refused examples have no rows. Raises UserError where no row is left.
    """
    import numpy as np
    from datasets import Dataset, Features, List, Value

    columns: dict[str, list[Any]] = {"input_ids": [], "labels": [], "loss_scale": [], "conversation": []}
    for index, path in _paths(examples):
        columns["input_ids"].append(path.input_ids)
        columns["labels"].append(path.labels.astype(np.int32))
        columns["loss_scale"].append(path.loss_scale)
        columns["conversation"].append(index)
    if not columns["conversation"]:
        raise UserError("no example has a tree: every row is refused; see their `refusal`.")
    features = {"input_ids": List(Value("int32")), "labels": List(Value("int32")), "loss_scale": List(Value("float32"))}
    return Dataset.from_dict(columns, Features({**features, "conversation": Value("int32")}))


def _paths(examples: Iterable[Example]) -> Iterator[tuple[int, Any]]:
    from agentsft.encode.linear import linear_view

    for example in examples:
        if example.tree is not None:
            for path in linear_view(example.tree):
                yield example.index, path


@dataclass
class Collator:
    """Pads rows of `to_dataset` at the right: tensors [rows, longest] of input_ids, attention_mask, labels, loss_scale.

    `pad_token_id` is never seen nor trained; any id of the vocabulary will do.
    """

    pad_token_id: int = 0

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        import torch
        from torch.nn.utils.rnn import pad_sequence

        def padded(name: str, value: float, dtype: torch.dtype) -> torch.Tensor:
            columns = [torch.as_tensor(row[name], dtype=dtype) for row in rows]
            return pad_sequence(columns, batch_first=True, padding_value=value)

        lengths = torch.tensor([len(row["input_ids"]) for row in rows])
        input_ids = padded("input_ids", self.pad_token_id, torch.long)
        return {
            "input_ids": input_ids,
            "attention_mask": (torch.arange(input_ids.shape[1]) < lengths[:, None]).long(),
            "labels": padded("labels", -100, torch.long),
            "loss_scale": padded("loss_scale", 0.0, torch.float32),
        }


class WeightedLoss:
    """Makes a Transformers Trainer (TRL's SFTTrainer too) weigh each token: `class Mine(WeightedLoss, Trainer): pass`.

    A step's loss is sum(weight * nll) / num_items_in_batch, the number of its trained tokens over all micro-batches
    and processes, as agentsft's own. The arguments need `remove_unused_columns=False`, and `Collator` collates.
    """

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of one micro-batch; without `num_items_in_batch`, as in evaluation, over its own trained tokens."""
        import torch
        from torch.nn.functional import cross_entropy

        labels, weights = inputs["labels"][:, 1:], inputs["loss_scale"][:, 1:]
        outputs = model(**{name: value for name, value in inputs.items() if name not in ("labels", "loss_scale")})
        logits = outputs.logits[:, :-1].float()
        nll = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="none")
        items = (labels != -100).sum() if num_items_in_batch is None else num_items_in_batch
        loss = (nll * weights.flatten()).sum() / torch.as_tensor(items).clamp(min=1)
        trainer: Any = self
        if num_items_in_batch is not None and trainer.args.average_tokens_across_devices:
            loss = loss * trainer.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: Any) -> Any:
        """Counts trained tokens, and tells the Trainer that nothing is left to be divided by their number.

        A Trainer does neither for a model whose forward pass takes no such number.
        """
        trainer: Any = self
        trainer.model_accepts_loss_kwargs = True
        base: Any = super()
        return base._get_num_items_in_batch(batch_samples, device)


def _preparer(model: Any, settings: dict[str, Any]) -> Preparer:
    """A preparer for a folder, a hub name or a tokenizer at hand."""
    from agentsft.encode.load import load_preparer

    named = model if isinstance(model, str) or hasattr(model, "__fspath__") else None
    name = str(named) if named is not None else getattr(model, "name_or_path", "") or "."
    config = build(DataConfig, {"model": name, **settings}, "settings")
    return load_preparer(config, None if named is not None else model)
