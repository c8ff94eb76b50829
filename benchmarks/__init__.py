"""Measurements: of the kernels, and of whole prunes."""
