"""What went wrong without costing the result."""

from __future__ import annotations

import sys


def warn(message: str) -> None:
    """Print a warning on standard error."""
    print(f"warning: {message}", file=sys.stderr)
