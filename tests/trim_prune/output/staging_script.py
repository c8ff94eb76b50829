"""Prunes a model and dies at a chosen moment of saving; run by test_output_folder.py in a process of its own."""

import os
import signal
import sys

import torch

import trim_prune
from trim_prune.models import output, shards, staging
from trim_prune.runs import folder


def main(moment: str, model: str, text: str, out: str, overwrite: str) -> None:
    torch.set_num_threads(1)  # as the tests have it: a run goes on only with the threads that it began with

    def die(*args: object, **kwargs: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if moment == "shard":
        real, written = shards.Shards.write, []

        def write_some(*args: object) -> None:
            if len(written) == 20:
                die()
            written.append(real(*args))

        shards.Shards.write = write_some
    elif moment == "verify":
        output._check_zeros = die
    elif moment == "before renaming":
        folder.publish = die
    elif moment == "between renames":
        real_rename = staging.Path.rename

        def rename(path: staging.Path, target: staging.Path) -> None:
            real_rename(path, target)
            if target.name.endswith(".old"):
                die()

        staging.Path.rename = rename
    recipe = {"sparsity": 0.5, "samples": 2, "seqlen": 16}
    trim_prune.prune(model, recipe, text, out=out, overwrite=overwrite == "overwrite")


if __name__ == "__main__":
    main(*sys.argv[1:])
