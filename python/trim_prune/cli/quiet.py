"""Keep other libraries' bars and advice out of our output."""

from __future__ import annotations

import functools
import os


def quiet_libraries() -> None:
    """Only errors from transformers, and no bars but ours."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    from transformers import modeling_gguf_pytorch_utils as gguf_reader
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    # The bar over the tensors of a GGUF file asks neither of the two.
    gguf_reader.tqdm = functools.partial(gguf_reader.tqdm, disable=True)  # type: ignore[attr-defined]


def quiet_harness() -> None:
    """No bar of lm-evaluation-harness while it builds its questions, and no complaint where there is no git folder."""
    from lm_eval import evaluator
    from lm_eval.api import task

    task.tqdm = functools.partial(task.tqdm, disable=True)
    evaluator.get_git_commit_hash = lambda: None
