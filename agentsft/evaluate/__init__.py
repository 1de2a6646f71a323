"""Does it act better: held-out turns in their served contexts, their loss, and what the model writes there."""
