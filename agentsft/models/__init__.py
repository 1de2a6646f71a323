"""Models that can be had without a model hub."""
