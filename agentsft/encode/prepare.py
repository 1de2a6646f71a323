"""Rows to examples: rendered, weighed, encoded, proven, merged into trees; or refused with a reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from agentsft.encode.linear import linear_view
from agentsft.encode.lost import with_loss_counted
from agentsft.encode.proof import span_fault, tree_fault
from agentsft.encode.tokens import ChunkEncoder
from agentsft.encode.tree import TurnIds, build_tree, leaf_paths, split_tokens
from agentsft.encode.weights import token_weights
from agentsft.errors import RowError, UserError
from agentsft.render.probe import Traits, probe
from agentsft.render.segments import path_segments
from agentsft.render.template import Template
from agentsft.render.turns import RenderedTurn, Renderer
from agentsft.types import Conversation, Example, Refusal, Row, Sequence, Turn
from agentsft.weigh.loss_scale import LossScale, parse_loss_scale
from agentsft.weigh.select import check_combination, query_of, response_spans, trained_messages

_BATCH = 64


@dataclass(slots=True)
class _Draft:
    row: Row
    conversation: Conversation
    turns: list[Turn]
    prompts: list[tuple[int, list[str]]]
    responses: list[list[str]]
    skipped: int


@dataclass(slots=True)
class _Targets:
    """A response's ids int32[k], weight float32[k] and label int8[k], and what was found wrong with it."""

    ids: np.ndarray
    weight: np.ndarray
    label: np.ndarray
    straddling: int
    altered: bool
    fault: str | None


class Preparer:
    """Turns rows into examples with one tokenizer, template and strategy.

    `stop_tokens` are those that serving knows beside the template's (a generation config's eos ids, as text).
    `max_length` bounds a turn's context in tokens, prompt and response together; None leaves it unbounded.
    Raises UserError at construction for a template, strategy or tokenizer that cannot work.
    """

    def __init__(
        self,
        tokenizer: Any,
        loss_scale: str | LossScale = "default",
        mask_history: bool = False,
        chat_template: str | None = None,
        template_kwargs: dict[str, Any] | None = None,
        stop_tokens: Iterable[str] = (),
        control_tokens: str = "refuse",
        max_length: int | None = None,
        overflow: str = "drop_turns",
    ) -> None:
        self.tokenizer = tokenizer
        self.loss_scale = parse_loss_scale(loss_scale) if isinstance(loss_scale, str) else loss_scale
        check_combination(self.loss_scale, mask_history)
        self.mask_history = mask_history
        self._train_prompts = self.loss_scale.base == "all"
        self.template = Template(tokenizer, chat_template, template_kwargs)
        self.traits: Traits = probe(self.template, tokenizer, list(stop_tokens))
        self.renderer = Renderer(self.template, self.traits, control_tokens == "allow")
        self.encoder = ChunkEncoder(tokenizer)
        self.max_length = max_length
        self.overflow = overflow

    def prepare(self, rows: Iterable[Row]) -> Iterator[Example]:
        """One example a row, in order. Raises UserError only for an over-long row under `overflow="error"`.

        Rows are read ahead: while a thread encodes the texts of one batch, the next is rendered, the last finished.
        """
        drafts: list[_Draft | Example] = []
        encoding: Future[Any] | None = None
        with ThreadPoolExecutor(1, "encode") as thread:
            for batch in _batches(rows):
                following = [self._draft(row) for row in batch]
                if encoding is not None:
                    encoding.result()
                encoding = thread.submit(self.encoder.learn, self._texts(following))
                yield from self._examples(drafts)
                drafts = following
        yield from self._examples(drafts)

    def leaves(self, example: Example) -> list[Turn]:
        """The turn that ends each root-to-leaf path of an example's tree, in the order of the paths."""
        if example.tree is None:
            return []
        by_ids = {self._path_ids(turn).tobytes(): turn for turn in example.turns}
        return [by_ids[example.tree.input_ids[path].tobytes()] for path in leaf_paths(example.tree)]

    def sequences(self, example: Example) -> list[Sequence]:
        """The linear view of an example with its segments; empty for a refused one."""
        if example.tree is None or example.conversation is None:
            return []
        out = []
        for sequence, leaf in zip(linear_view(example.tree), self.leaves(example), strict=True):
            segments = path_segments(self.renderer, example.conversation, example.turns, leaf)
            out.append(replace(sequence, segments=segments))
        return out

    def _path_ids(self, turn: Turn) -> np.ndarray:
        response = self.encoder.encode_responses([turn])[0].ids
        return np.concatenate([self.encoder.encode_prompt(turn.prompt), response])

    def _texts(self, drafts: list[_Draft | Example]) -> list[str]:
        """What there is to encode, in chunks."""
        good = [draft for draft in drafts if isinstance(draft, _Draft)]
        prompts = [chunk for draft in good for _, chunks in draft.prompts for chunk in chunks]
        return prompts + [chunk for draft in good for chunks in draft.responses for chunk in chunks]

    def _examples(self, drafts: list[_Draft | Example]) -> Iterator[Example]:
        good = [draft for draft in drafts if isinstance(draft, _Draft)]
        chunks = [chunks for draft in good for chunks in draft.responses]
        targets = iter(self._targets([turn for draft in good for turn in draft.turns], chunks))
        for draft in drafts:
            if isinstance(draft, _Draft):
                example = self._example(draft, list(islice(targets, len(draft.turns))))
            else:
                example = draft
            yield with_loss_counted(example, self.tokenizer.backend_tokenizer, self.loss_scale.base, self.mask_history)

    def _targets(self, turns: list[Turn], chunks: list[list[str]]) -> list[_Targets]:
        encoded = self.encoder.encode_responses(turns, chunks)
        faults = [span_fault(turn) for turn in turns]
        spans = [
            (len(turn.response), () if fault else turn.spans, turn.suffix_weight)
            for turn, fault in zip(turns, faults, strict=True)
        ]
        found = zip(encoded, token_weights(encoded, spans), faults, strict=True)
        return [_Targets(one.ids, *weights, one.altered, fault) for one, weights, fault in found]

    def _draft(self, row: Row) -> _Draft | Example:
        if row.conversation is None:
            return Example(row.index, row.source, refusal=row.refusal)
        conversation = row.conversation
        try:
            trained = trained_messages(conversation.messages, self.loss_scale.base, self.mask_history)
            answers = [i for i, message in enumerate(conversation.messages) if message.role == "assistant"]
            # Under `all` an untrained message is a turn of weight 0, or it would count as another one's prompt.
            chosen = answers if self._train_prompts and trained else sorted(trained)
            rendered = self.renderer.turns(conversation, chosen)
            if not rendered:
                raise RowError(
                    "no_assistant", "no assistant message of this row is trained; see its flags and the base."
                )
        except RowError as error:
            return _refused(row, error)
        turns = [self._weighed(conversation, turn, trained.get(turn.message, 0.0)) for turn in rendered]
        responses = [self.encoder.response_chunks(turn) for turn in turns]
        return _Draft(row, conversation, turns, self._prompts(turns), responses, len(chosen) - len(turns))

    def _weighed(self, conversation: Conversation, turn: RenderedTurn, override: float | None) -> Turn:
        query = query_of(conversation.messages, turn.message)
        spans, suffix_weight = response_spans(self.loss_scale, turn.response, query, override)
        return Turn(turn.message, turn.prompt, turn.response, turn.suffix, spans, suffix_weight)

    def _prompts(self, turns: list[Turn]) -> list[tuple[int, list[str]]]:
        """How many chunks each prompt shares with the one before, and those behind them."""
        out, text = [], ""
        chunks: list[str] = []
        for turn in turns:
            kept, own = self.encoder.chunks_after(text, chunks, turn.prompt)
            chunks[kept:] = own
            text = turn.prompt
            out.append((kept, own))
        return out

    def _example(self, draft: _Draft, targets: list[_Targets]) -> Example:
        row = draft.row
        kept: list[TurnIds] = []
        turns: list[Turn] = []
        lost: Refusal | None = None
        lost_tokens = straddling = 0
        prompts = self.encoder.ids_in_turn(draft.prompts)
        for turn, prompt, target in zip(draft.turns, prompts, targets, strict=True):
            if target.altered:
                detail = (
                    "the tokenizer does not give this response back when its ids are decoded; clean its characters."
                )
                return _refused(row, RowError("content_altered", detail, turn.message))
            if target.fault:
                return _refused(row, _unproven(f"its weights do not fit the response: {target.fault}", turn.message))
            length = len(prompt) + len(target.ids)
            if self.max_length is not None and length > self.max_length:
                lost = lost or self._too_long(row, turn.message, length)
                lost_tokens += int((target.weight > 0).sum())
                continue
            kept.append(TurnIds(prompt, target.ids, target.weight, target.label))
            turns.append(turn)
            straddling += target.straddling
        return self._finished(draft, kept, turns, lost, lost_tokens, straddling)

    def _finished(
        self,
        draft: _Draft,
        kept: list[TurnIds],
        turns: list[Turn],
        lost: Refusal | None,
        lost_tokens: int,
        straddling: int,
    ) -> Example:
        row = draft.row
        if lost is not None and (self.overflow == "skip" or not kept):
            turns_lost = len(draft.turns) + draft.skipped
            return Example(row.index, row.source, refusal=lost, lost_turns=turns_lost, lost_tokens=lost_tokens)
        tree = build_tree(kept, train_prompts=self._train_prompts)
        if fault := tree_fault(tree, kept, self._train_prompts):
            return _refused(row, _unproven(fault))
        if lost is None and draft.skipped:
            lost = Refusal(
                "no_prompt", "a greeting before any user message has no prompt to be sampled after; it stays context."
            )
        return Example(
            row.index,
            row.source,
            tuple(turns),
            tree,
            lost=lost,
            lost_turns=len(draft.turns) + draft.skipped - len(turns),
            lost_tokens=lost_tokens,
            straddling=straddling,
            split_tokens=split_tokens(tree),
            conversation=draft.conversation,
            id=draft.conversation.id,
        )

    def _too_long(self, row: Row, message: int, length: int) -> Refusal:
        detail = f"the context of this message is {length} tokens, more than max_length {self.max_length}"
        if self.overflow == "error":
            raise UserError(f"{row.source}: message {message}: {detail}; raise max_length, or choose another overflow.")
        return Refusal("too_long", detail + "; raise max_length to keep it.", message)


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    rows = iter(rows)
    while batch := list(islice(rows, _BATCH)):
        yield batch


def _refused(row: Row, error: RowError) -> Example:
    return Example(
        row.index, row.source, refusal=Refusal(error.reason, error.detail, error.message), conversation=row.conversation
    )


def _unproven(fault: str, message: int | None = None) -> RowError:
    remedy = "another strategy may do, and a row that proves it is worth a report."
    return RowError("unproven", f"{fault}; nothing of this row is trained: {remedy}", message)
