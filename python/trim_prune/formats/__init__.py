"""What stands on disk beside an ordinary model folder: masks for exchange, and packed checkpoints."""
