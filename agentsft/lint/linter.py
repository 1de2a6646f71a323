"""All rules on one row."""

from __future__ import annotations

from agentsft.lint.calls import call_findings
from agentsft.lint.declared import declared_tools
from agentsft.lint.finding import Finding
from agentsft.lint.keywords import KeywordRule, trained_observation
from agentsft.lint.pairing import pairing_findings
from agentsft.lint.responses import response_finding
from agentsft.lint.steps import Call, steps
from agentsft.lint.think import think_finding
from agentsft.types import Conversation
from agentsft.weigh.loss_scale import LossScale
from agentsft.weigh.select import query_of, trained_messages


class Linter:
    """Looks at conversations as they were read, with the strategy that is to train them.

    What concerns weights and responses is looked at in trained messages alone, calls and think tags in all of the
    assistant's. A row costs less than its preparation; time is linear in its length but for the patterns of its own
    JSON Schemas, which are bounded.
    """

    def __init__(self, loss_scale: LossScale, mask_history: bool = False) -> None:
        self._loss_scale = loss_scale
        self._mask_history = mask_history
        self._keywords = KeywordRule(loss_scale)

    def row(self, conversation: Conversation) -> list[Finding]:
        """The findings of one row, in the order of its messages. Raises UserError for a pattern that times out."""
        messages = conversation.messages
        found: list[Finding] = []
        trained = trained_messages(messages, self._loss_scale.base, self._mask_history)
        taken = {i: steps(message) for i, message in enumerate(messages) if message.role == "assistant"}
        calls = [(i, step) for i, made in taken.items() for step in made if isinstance(step, Call)]
        if calls:
            found += call_findings(calls, declared_tools(conversation))
        found += pairing_findings(messages, taken)
        thinking = {i: finding for i in taken if (finding := think_finding(messages[i], i))}
        found += thinking.values()
        for i, override in trained.items():
            if i not in thinking:  # what a broken block leaves of a response is no fault of its own
                found += filter(None, [response_finding(messages, i)])
            if override is None:
                misplaced = list(self._keywords.findings(messages[i], i))
                found += misplaced
                if not misplaced:  # a keyword inside an observation gives the rest of it a weight: one cause
                    query = query_of(messages, i)
                    found += filter(None, [trained_observation(self._loss_scale, messages[i].content, query, i)])
        return sorted(found, key=lambda finding: -1 if finding.message is None else finding.message)
