"""A training run between its settings and its end: what the command line and the Python API both do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from agentsft.config import TrainConfig, check_together
from agentsft.data.agent_format import describe
from agentsft.errors import UserError
from agentsft.evaluate.judging import make_judge, make_ranking
from agentsft.train.earlier import refuse_earlier_run
from agentsft.train.launch import asked_sharding, expandable_memory
from agentsft.train.trackers import check_trackers

if TYPE_CHECKING:
    from agentsft.encode.prepare import Preparer
    from agentsft.evaluate.best import Best
    from agentsft.train.dataset import Dataset
    from agentsft.train.reporter import Reporter, TrainResult


def is_main() -> bool:
    """Whether this is the process that writes and speaks, of those that a launcher has started."""
    return int(os.environ.get("RANK", "0")) == 0


def check_run(config: TrainConfig) -> Best | None:
    """Raises UserError for what can be said before data and model are loaded; gives the ranking of evaluations."""
    expandable_memory()
    refuse_earlier_run(config)
    asked_sharding(config)
    check_trackers(config.report_to)
    check_together(config)
    return make_ranking(config)


def carry_out(
    config: TrainConfig, preparer: Preparer, dataset: Dataset, ranking: Best | None, reporter: Reporter
) -> TrainResult:
    """Writes what was lost, trains on the rest, and tells `reporter` of it.

    Raises UserError where more is lost than `max_lost`, where the output cannot be written, and as training does.
    """
    if is_main():
        output = Path(config.output)
        try:
            dataset.ledger.write(output)
            if config.agent_format:
                (output / "agent_format.json").write_text(describe(config.agent_format), encoding="utf-8")
        except OSError as error:
            raise UserError(f"output: {output} cannot be written ({error}); name another folder.") from None
    dataset.ledger.enforce(config.max_lost)
    if config.chat_template:
        preparer.tokenizer.chat_template = preparer.template.text
    # Only now, so that a mistake in settings or data is said before torch is loaded.
    from agentsft.train.run import train

    judge = make_judge(config, preparer.tokenizer, dataset.held_out, ranking)
    return train(config, preparer.tokenizer, dataset.train, dataset.held_out, reporter, judge)
