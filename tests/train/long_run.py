"""Run by launchers in tests: `agentsft train RECIPE` with the conversations of the tests."""

from __future__ import annotations

import sys

import torch

from agentsft.cli import app, train
from agentsft.train.dataset import Dataset
from tests.train.test_run import examples, tiny_tokenizer, trees


class Tiny:
    tokenizer = tiny_tokenizer()


if __name__ == "__main__":
    torch.set_num_threads(1)
    train.load_preparer = lambda config: Tiny()
    train._prepare = lambda *arguments: Dataset(examples(trees()), examples(trees(2)))
    train._print_ledger = lambda *arguments: None
    sys.argv = ["agentsft", "train", *sys.argv[1:]]
    app.main()
