"""What a run will take, before it runs: steps, time, cost and memory."""
