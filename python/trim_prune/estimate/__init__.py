"""What a prune will take, before it is begun: memory, batches, time."""
