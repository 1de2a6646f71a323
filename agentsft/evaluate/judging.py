"""What a run's settings ask of its evaluations: answers that are judged, a best model, an early end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from agentsft.config import TrainConfig
from agentsft.errors import UserError
from agentsft.evaluate.best import Best
from agentsft.types import Example

if TYPE_CHECKING:
    from agentsft.train.judge import Judge


def make_ranking(config: TrainConfig) -> Best | None:
    """Raises UserError for a figure that no evaluation has, and where nothing would be evaluated."""
    if not (config.metric_for_best_model or config.early_stopping_patience):
        return None
    metric = config.metric_for_best_model or "eval_loss"
    ranking = Best(metric, config.early_stopping_patience)
    if not (config.eval_share or config.eval_data):
        raise UserError(
            "metric_for_best_model, early_stopping_patience: nothing is held out; set eval_share or eval_data."
        )
    if not metric.startswith("eval_loss") and not config.eval_generate:
        raise UserError(f"metric_for_best_model: {metric} needs answers; set eval_generate.")
    return ranking


def make_judge(config: TrainConfig, tokenizer: Any, held_out: Sequence[Example], ranking: Best | None) -> Judge:
    """The judge for `train`. `held_out` are the examples that are not trained."""
    from agentsft.train.judge import Judge

    measure = None
    if config.eval_generate and held_out:
        from agentsft.evaluate.during import Measure

        indices = {example.index for example in held_out}
        measure = Measure(config, tokenizer, config.eval_generate, indices, config.eval_max_new_tokens)
    return Judge(measure, ranking)
