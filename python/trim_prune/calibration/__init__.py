"""Text to tokens to batches, and the statistics that hooks collect from them."""
