"""trim-prune merge-lora."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..formats.sources import open_masks
from ..merge_lora import merge_lora as run_merge
from .quiet import quiet_libraries


def merge_lora(
    model: Annotated[Path, typer.Argument(help="Folder of the pruned model.", show_default=False)],
    adapter: Annotated[Path, typer.Argument(help="Folder of the adapter that peft saved.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for the merged model; new or empty.", show_default=False)],
    masks: Annotated[
        Path | None, typer.Option(help="Masks, as trim-prune masks takes them (default: those of the model).")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the output folder if it exists.")] = False,
) -> None:
    """Merge a LoRA adapter into a pruned model, and keep its zeros; needs peft.

    [bold]Example[/bold]

    trim-prune merge-lora pruned adapter --out merged
    """
    quiet_libraries()
    found = run_merge(model, adapter, out, masks=None if masks is None else open_masks(masks), overwrite=overwrite)
    share = found.filled / found.pruned if found.pruned else 0.0
    print(f"sparsity {found.pruned / found.weights:.6f} ({found.pruned} of {found.weights} weights)")
    print(f"the adapter had filled {found.filled} of these zeros ({share:.1%}); they are zero again")
    print(f"written to {out}")
