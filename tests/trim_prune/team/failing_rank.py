"""The command line, started by torchrun: one rank fails, or is killed, in the block of a number.

Which one, how and where is said by the variables FAILING_RANK, FAILURE and FAILING_BLOCK.
"""

from __future__ import annotations

import os
import signal

import torch

from trim_prune import TrimPruneError, engine
from trim_prune.cli import main
from trim_prune.report import page

prune_linears = engine.prune_linears


def failing(plan, linears, *rest):
    here = any(str(linear.block) == os.environ["FAILING_BLOCK"] for linear in linears)
    if here and os.environ["RANK"] == os.environ["FAILING_RANK"]:
        if os.environ["FAILURE"] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise TrimPruneError("made to fail", where="block 1")
    return prune_linears(plan, linears, *rest)


torch.set_num_threads(1)
page.report_page = lambda run, derived: "not drawn"
engine.prune_linears = failing
main()
