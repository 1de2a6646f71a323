"""Turns to token trees: ids where the server would have them, weights by character offset."""
