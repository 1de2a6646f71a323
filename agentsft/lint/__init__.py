"""Lint of agent data: rows that can be trained exactly, but hardly say what was meant. Nothing is left out for it."""
