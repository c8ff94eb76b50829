"""trim_kernels and trim_prune inside other tools; each module imports the tool that it is for."""
