"""``python -m trim_prune`` is ``trim-prune``."""

from .cli import main

main()
