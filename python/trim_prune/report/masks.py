"""The mask of each linear of a run, in masks.safetensors."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ..errors import TrimPruneError
from ..formats.masks import MASK_FILE, Masks, open_mask_file, unpack
from .run import Linear


def masks_of_run(folder: Path) -> Masks:
    """The masks in the folder of a run."""
    try:
        return open_mask_file(folder / MASK_FILE)
    except TrimPruneError as error:
        raise TrimPruneError(
            "the masks of the run cannot be read",
            where=error.where,
            got=error.got or error.what,
            fix="prune again: a report counts the rows in them",
        ) from error


def kept_of(masks: Masks, linear: Linear) -> Tensor | None:
    """What is kept of a linear: bool [R, C]. None if the files hold it in several tensors, or under another name."""
    name = _name(masks, linear["weight"])
    if name is None:
        return None
    bits, shape = masks[name], masks.shapes[name]
    if len(shape) == 3:
        # Names of linears in such tensors end with the number of the expert and the name of the parameter.
        bits, shape = bits[int(linear["name"].split(".")[-2])], shape[1:]
    kept = unpack(bits, shape)
    kept = kept.t() if name in masks.transposed else kept
    return kept if list(kept.shape) == list(linear["shape"]) else None


def _name(masks: Masks, weight: str) -> str | None:
    """The name of the tensor that is a parameter: checkpoints of the bare model lack a prefix."""
    if weight in masks.shapes:
        return weight
    return next((name for name in masks if weight.endswith(f".{name}") or name.endswith(f".{weight}")), None)
