"""Prunes a model and dies at a chosen moment of saving; run by test_output_folder.py in a process of its own."""

import os
import signal
import sys

import trim_prune
from trim_prune.models import save, staging


def main(moment: str, model: str, text: str, out: str, overwrite: str) -> None:
    def die(*args: object, **kwargs: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if moment == "shard":
        real, written = save.save_file, []

        def save_second(*args: object, **kwargs: object) -> None:
            if written:
                die()
            written.append(real(*args, **kwargs))

        save.save_file = save_second
    elif moment == "verify":
        save._checked_count = die
    elif moment == "before renaming":
        staging._replace = die
    elif moment == "between renames":
        real_rename, renamed = os.rename, []

        def rename_once(*args: str) -> None:
            if renamed:
                die()
            renamed.append(real_rename(*args))

        os.rename = staging.os.rename = rename_once
    recipe = {"sparsity": 0.5, "samples": 2, "seqlen": 16}
    trim_prune.prune(model, recipe, text, out=out, overwrite=overwrite == "overwrite")


if __name__ == "__main__":
    main(*sys.argv[1:])
