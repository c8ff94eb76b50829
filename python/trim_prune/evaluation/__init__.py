"""How good is a model? Perplexity."""
