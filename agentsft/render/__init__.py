"""Conversations to turns: the prompt that a server would render, and the response that the model is to sample."""
