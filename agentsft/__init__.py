"""Fine-tune language models on multi-turn agent conversations, with every token's weight proven."""

__version__ = "0.1.0"
