"""Which characters of a response weigh how much, and what they are. Knows text alone, never tokens."""
