"""Mixed Sparsity Pruning: a layer budget found by Fisher information and evolution."""
