"""The command line: trim-prune."""

from .main import main

__all__ = ["main"]
