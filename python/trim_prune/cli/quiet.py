"""Keep other libraries' bars and advice out of our output."""

from __future__ import annotations

import os


def quiet_libraries() -> None:
    """Only errors from transformers, and no bars but ours."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    # Read by tqdm when it is imported; the GGUF reader of transformers offers no other switch.
    os.environ.setdefault("TQDM_DISABLE", "1")
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
