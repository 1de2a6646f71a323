"""What a refused row loses: the turns that would have been trained, and about how many tokens they have."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from agentsft.types import Example, Message
from agentsft.weigh.select import trained_messages


def with_loss_counted(example: Example, backend: Any, base: str, mask_history: bool) -> Example:
    """The example; a refused one that was read, and not rendered, with `lost_turns` and `lost_tokens`.

    What cannot be rendered has no exact number of tokens: the messages' own texts, calls as JSON, are counted, and a
    stop token for each. `backend` is a fast tokenizer's.
    """
    if example.refusal is None or example.conversation is None or example.lost_turns:
        return example
    messages = example.conversation.messages
    trained = [messages[i] for i in trained_messages(messages, base, mask_history)]
    texts = [text for message in trained for text in _texts(message)]
    try:
        encoded = backend.encode_batch_fast(texts, add_special_tokens=False)
        tokens = sum(len(one.ids) for one in encoded) + len(trained)
    except (TypeError, ValueError):  # lone surrogates have no UTF-8 form, and so no tokens
        tokens = 0
    return replace(example, lost_turns=len(trained), lost_tokens=tokens)


def _texts(message: Message) -> list[str]:
    calls = [
        json.dumps({"name": call.name, "arguments": call.arguments}, ensure_ascii=False, default=repr)
        for call in message.tool_calls
    ]
    return [text for text in (message.reasoning, message.content, *calls) if text]
