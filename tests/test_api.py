"""The Python API, and the bridge to trainers that are not ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import log_softmax

from agentsft import api
from agentsft.encode.tree import leaf_paths
from agentsft.errors import UserError
from agentsft.types import Example

ROOT = Path(__file__).resolve().parent.parent
DATA = str(ROOT / "examples" / "data" / "react_eval.jsonl")


@pytest.fixture(scope="module")
def branching(tokenizer_for: Any) -> list[Example]:
    """Examples whose trees branch, since Qwen 3's template drops old thinking, with weights of 0, 1 and 2."""
    answers = ["Thought: t\nAction: look\nAction Input: " + "1" * 30, "yes", "Final Answer: " + "no " * 30]
    thinking = [f"<think>\nthought {i}\n</think>\n\n{answer}" for i, answer in enumerate(answers)]
    rows = [
        [message for i in range(n) for message in ({"role": "user", "content": f"q{i}"},
                                                   {"role": "assistant", "content": thinking[i]})]
        for n in (1, 2, 3)
    ]  # fmt: skip
    from agentsft.data.formats import to_conversation

    conversations = [to_conversation({"messages": messages}) for messages in rows]
    return api.encode(conversations, tokenizer_for("qwen3"), loss_scale="react")


def test_each_step_gives_what_the_next_one_takes(smollm2: Path) -> None:
    rows = api.load_conversations(DATA)
    conversation = rows[0].conversation
    assert conversation is not None
    turns = api.render(conversation, str(smollm2))
    examples = api.encode(rows[:2], smollm2, loss_scale="react")
    assert [turn.response for turn in turns] == [turn.response for turn in examples[0].turns]
    for turn in examples[0].turns:
        parts = api.weigh(turn.response, "react")
        spans = [(turn.response[s.start : s.end], s.weight, s.label) for s in turn.spans]
        assert [tuple(part) for part in parts] == spans
        assert "".join(part.text for part in parts) == turn.response


def test_a_row_that_cannot_be_read_or_rendered_is_there_with_its_refusal(smollm2: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"messages": []}\n' + json.dumps({"prompt": "q", "completion": "a"}) + "\n", encoding="utf-8")
    examples = api.encode(api.load_conversations(str(path)), smollm2)
    assert [example.refusal and example.refusal.reason for example in examples] == ["empty_conversation", None]
    with pytest.raises(UserError, match="every row is refused"):
        api.to_dataset(examples[:1])


def test_the_weights_of_the_rows_sum_to_the_trees(branching: list[Example]) -> None:
    trees = [example.tree for example in branching]
    assert any(not tree.is_chain for tree in trees)
    dataset = api.to_dataset(branching)
    assert len(dataset) == sum(len(leaf_paths(tree)) for tree in trees) > len(trees)
    for example, tree in zip(branching, trees, strict=True):
        rows = [row for row in dataset if row["conversation"] == example.index]
        assert sum(sum(row["loss_scale"]) for row in rows) == pytest.approx(float(tree.weight.sum()))
        assert sum(label != -100 for row in rows for label in row["labels"]) == len(tree.source)
        assert sorted(label for row in rows for label in row["labels"] if label != -100) == sorted(tree.token.tolist())
        for row in rows:
            assert all(label in (-100, token) for label, token in zip(row["labels"], row["input_ids"], strict=True))


def test_a_transformers_trainer_takes_two_steps_whose_loss_is_the_weighted_one(
    branching: list[Example], tmp_path: Path
) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

    class Weighted(api.WeightedLoss, Trainer):
        pass

    dataset = api.to_dataset(branching)
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
             "initializer_range": 0.5}  # fmt: skip
    model = LlamaForCausalLM(LlamaConfig(vocab_size=49300, **small))
    model.accepts_loss_kwargs = False  # as models that know nothing of num_items_in_batch
    expected = _weighted_loss(model, dataset)
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=2, gradient_accumulation_steps=3,
        learning_rate=1e-2, lr_scheduler_type="constant", remove_unused_columns=False, logging_steps=1, report_to=[],
        use_cpu=True, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    assert len(dataset) == 6
    trainer = Weighted(model=model, args=arguments, train_dataset=dataset, data_collator=api.Collator())
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 2
    assert losses[0] == pytest.approx(expected, rel=1e-4)
    assert losses[1] < losses[0]


def _weighted_loss(model: Any, dataset: Any) -> float:
    """sum(weight * nll) / trained tokens over all rows, one row at a time and without padding."""
    total = count = 0.0
    with torch.no_grad():
        for row in dataset:
            ids = torch.tensor([row["input_ids"]])
            logprobs = log_softmax(model(input_ids=ids).logits[0, :-1], -1)
            for place, (label, weight) in enumerate(zip(row["labels"][1:], row["loss_scale"][1:], strict=True)):
                if label != -100:
                    total -= weight * float(logprobs[place, label])
                    count += 1
    return total / count


def test_training_from_python_writes_what_the_command_writes(smollm2: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from tests.train.tiny import SHAPE

    folder = tmp_path / "model"
    LlamaForCausalLM(LlamaConfig(**{**SHAPE, "vocab_size": 49152})).save_pretrained(folder)
    AutoTokenizer.from_pretrained(smollm2).save_pretrained(folder)
    settings = {"model": str(folder), "data": [DATA], "output": str(tmp_path / "run"), "cache": False}
    result = api.train(**settings, max_steps=2, batch_size=2, save_steps=2, eval_data=[DATA], eval_generate=1,
                       eval_max_new_tokens=2)  # fmt: skip
    assert result.steps == 2
    evaluations = (tmp_path / "run" / "evaluations.jsonl").read_text(encoding="utf-8").splitlines()
    assert "eval_stops" in json.loads(evaluations[-1])
    assert {"model.safetensors", "recipe.yaml", "metrics.jsonl", "ledger.jsonl"} <= {
        path.name for path in (tmp_path / "run").iterdir()
    }
    with pytest.raises(UserError, match="checkpoints of an earlier run"):  # before a model is looked for
        api.train(**{**settings, "model": "nowhere"})
    with pytest.raises(UserError, match='Did you mean "wandb"'):
        api.train(**{**settings, "model": "nowhere", "output": str(tmp_path / "new")}, report_to=["wandbb"])


def test_a_setting_that_does_not_exist_is_named(smollm2: Path) -> None:
    with pytest.raises(UserError, match=r"los_scale.*loss_scale"):
        api.encode([], smollm2, los_scale="react")
    with pytest.raises(UserError, match=r"per_device_train_batch_size.*micro_batch_tokens"):
        api.train(per_device_train_batch_size=4)


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, agentsft; agentsft.api; assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
