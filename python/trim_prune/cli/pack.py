"""trim-prune pack and unpack."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..formats.convert import Sizes, pack_model, unpack_model
from .quiet import quiet_libraries
from .warn import warn

Out = Annotated[Path, typer.Option(help="Folder to write; new or empty.", show_default=False)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the output folder if it exists.")]


def pack(
    model: Annotated[Path, typer.Argument(help="Folder of a pruned model.", show_default=False)],
    out: Out,
    overwrite: Overwrite = False,
) -> None:
    """Write a pruned model as kept values and masks: small on disk, the same model to the bit.

    [bold]Example[/bold]

    trim-prune pack pruned --out packed

    Load it with trim_prune.load("packed"), use it wherever trim-prune takes a model folder, or trim-prune unpack it.
    """
    quiet_libraries()
    _print(pack_model(model, out, overwrite=overwrite, warn=warn), out)


def unpack(
    model: Annotated[Path, typer.Argument(help="Folder that trim-prune pack wrote.", show_default=False)],
    out: Out,
    overwrite: Overwrite = False,
) -> None:
    """Write the ordinary model folder that a packed one was made from.

    [bold]Example[/bold]

    trim-prune unpack packed --out pruned
    """
    quiet_libraries()
    _print(unpack_model(model, out, overwrite=overwrite, warn=warn), out)


def _print(sizes: Sizes, out: Path) -> None:
    print(
        f"weights: dense {sizes.dense / 1e6:.1f} MB, packed {sizes.packed / 1e6:.1f} MB "
        f"({sizes.packed / sizes.dense:.3f} of it)"
    )
    print(f"written to {out}")
