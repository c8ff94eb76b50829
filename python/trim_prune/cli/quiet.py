"""Keep other libraries' bars and advice out of our output."""

from __future__ import annotations

import os


def quiet_libraries() -> None:
    """Only errors from transformers, and no bars but ours."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    from huggingface_hub.utils import disable_progress_bars
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
