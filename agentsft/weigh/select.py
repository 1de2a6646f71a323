"""Which assistant messages of a conversation are trained, and what each of their characters weighs."""

from __future__ import annotations

from collections.abc import Sequence

from agentsft.errors import UserError, nearest
from agentsft.types import Message, Span
from agentsft.weigh.loss_scale import BASES, LossScale, labelled_spans


def check_combination(loss_scale: LossScale, mask_history: bool) -> None:
    """Raises UserError where mask_history contradicts the base strategy. To be called once, at start."""
    _check(loss_scale.base, mask_history)


def trained_messages(messages: Sequence[Message], base: str, mask_history: bool) -> dict[int, float | None]:
    """The indices of the trained messages, ascending, each with the number that replaces the strategy's weights.

    None stands for the strategy's own weights. `base` is a key of `BASES`; with `mask_history` only the last
    assistant message is trained. A message's `train` flag wins over both; its `weight` does not switch a message
    on, but 0 switches it off. Messages after the last assistant message do not count: `last_user_turn` starts at
    the last user message that was answered. Raises UserError as `check_combination` does.
    """
    _check(base, mask_history)
    assistants = [i for i, message in enumerate(messages) if message.role == "assistant"]
    if not assistants:
        return {}
    first = 0
    if mask_history or base == "last_round":
        first = assistants[-1]
    elif base == "last_user_turn":
        first = max((i for i in range(assistants[-1]) if messages[i].role == "user"), default=0)
    trained = {}
    for i in assistants:
        message = messages[i]
        switched_on = i >= first if message.train is None else message.train
        if switched_on and message.weight != 0:
            trained[i] = message.weight
    return trained


def query_of(messages: Sequence[Message], index: int) -> str | None:
    """The content of the nearest user or tool message before message number `index`; None where there is none."""
    for i in range(index - 1, -1, -1):
        if messages[i].role in ("user", "tool"):
            return messages[i].content
    return None


def response_spans(
    loss_scale: LossScale, response: str, query: str | None, override: float | None
) -> tuple[tuple[Span, ...], float]:
    """The spans of a trained message's response, and the weight of its stop token.

    The stop token weighs 1. An `override`, the number of `trained_messages`, is the weight of everything instead.
    """
    if override is None:
        return loss_scale.spans(response, query), 1.0
    return labelled_spans(response, [(len(response), override)]), override


def _check(base: str, mask_history: bool) -> None:
    if base not in BASES:
        raise UserError(f"unknown base strategy {base!r}; there are {', '.join(BASES)}.{nearest(base, [*BASES])}")
    if mask_history and base == "all":
        raise UserError(
            "mask_history trains the last assistant message alone, but the base strategy all trains everything:"
            " leave one of them out."
        )
