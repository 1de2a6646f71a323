"""The metrics of a model that is being trained: what `agentsft eval` says of it, between two steps."""

from __future__ import annotations

from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from agentsft.config import DataConfig, TrainConfig
from agentsft.encode.load import load_preparer
from agentsft.evaluate.generate import plan_batches
from agentsft.evaluate.run import answer_batch, generator_for, metric_estimates
from agentsft.evaluate.settings import EvalConfig
from agentsft.evaluate.take import take_turns
from agentsft.train.model import decoder_layers
from agentsft.train.module import base_model

if TYPE_CHECKING:
    from accelerate import Accelerator


class Measure:
    """Lets a model answer held-out turns and gives the share of each metric that applies, as `eval_NAME`.

    The turns are all assistant messages of the first `conversations` held-out conversations, whatever the run's
    strategy trains. With `eval_data` these are its rows, else the rows of `data` with the numbers in `held_out`.
    """

    def __init__(
        self,
        config: TrainConfig,
        tokenizer: Any,
        conversations: int,
        held_out: Container[int] = (),
        max_new_tokens: int = 256,
        batch_tokens: int = 16384,
    ) -> None:
        shared = {field.name: getattr(config, field.name) for field in fields(DataConfig)}
        settings = EvalConfig(**shared, limit=conversations, max_new_tokens=max_new_tokens, batch_tokens=batch_tokens)
        settings = replace(settings, loss_scale="default", mask_history=False, data=config.eval_data or config.data)
        self._preparer = load_preparer(settings, tokenizer)
        self._turns = take_turns(settings, self._preparer, only=None if config.eval_data else held_out).turns
        lengths = [len(turn.prompt_ids) for turn in self._turns]
        self._batches = plan_batches(lengths, max_new_tokens, batch_tokens, self._preparer.max_length)

    def __call__(self, model: Any, accelerator: Accelerator) -> dict[str, float]:
        """The metrics of `model` (Transformers' or PEFT's, not DDP's wrapper). Every process calls it and gets them.

        Each process answers every so many-th batch. The model is left as it was: mode, attention, compiled layers.
        """
        from accelerate.utils import gather_object

        rank, world = accelerator.process_index, accelerator.num_processes
        rows: dict[int, dict[str, Any]] = {}
        with _serving(model), accelerator.autocast():
            generator = generator_for(model, self._preparer)
            for batch in self._batches[rank::world]:
                rows |= answer_batch(self._turns, batch, generator, self._preparer.tokenizer)
        for number, row in gather_object(list(rows.items())) if world > 1 else ():
            rows[number] = row
        found = metric_estimates(self._turns, [rows[number] for number in range(len(self._turns))])
        return {f"eval_{name}": one.value for name, one in found.items() if one.value is not None}


@contextmanager
def _serving(model: Any) -> Iterator[None]:
    """The model as it generates: in eval mode, with attention that knows a cache, its layers not compiled for packs."""
    inner = base_model(model)
    own, training = inner.config._attn_implementation, model.training
    compiled = {layer: layer._compiled_call_impl for layer in decoder_layers(model) or ()}
    for layer in compiled:
        layer._compiled_call_impl = None
    inner.set_attn_implementation("sdpa" if inner._supports_sdpa else "eager")
    model.eval()
    try:
        yield
    finally:
        model.train(training)
        inner.set_attn_implementation(own)
        for layer, call in compiled.items():
            layer._compiled_call_impl = call
