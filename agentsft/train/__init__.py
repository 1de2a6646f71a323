"""The training loop: model, attention on token trees, chunked loss, optimizer, evaluation, checkpoints."""
