"""Measurements of agentsft; run in the repository's root, `python -m benchmarks.NAME`."""
