"""The masks of a run, linear by linear, or tensor by tensor where its files hold linears in parts."""

from __future__ import annotations

import re
from collections.abc import Iterable
from math import prod
from pathlib import Path

from torch import Tensor

from ..errors import TrimPruneError
from ..formats.masks import MASK_FILE, Masks, open_mask_file, unpack
from ..formats.packed import open_packed
from ..models.load import PACKED_FILE
from .run import Linear


def masks_of_run(folder: Path) -> Masks:
    """The masks in the folder of a run, which may be packed."""
    if (folder / PACKED_FILE).is_file():
        return open_packed(folder).masks()
    try:
        return open_mask_file(folder / MASK_FILE)
    except TrimPruneError as error:
        raise TrimPruneError(
            "the masks of the run cannot be read",
            where=error.where,
            got=error.got or error.what,
            fix="prune again: a report counts the rows in them",
        ) from error


def matrices(masks: Masks, linears: Iterable[Linear]) -> list[Linear]:
    """The linears that masks are of; in place of those that the files split or join, the tensors that hold them.

    A tensor is described as a linear is: name, block (the first number in its name) and shape [R, C], in which the rows
    of several matrices follow one another.
    """
    names = [(linear, _name(masks, linear["weight"])) for linear in linears]
    found = [linear for linear, name in names if name is not None]
    known = {name for _, name in names}
    return [*found, *(_as_linear(masks, name) for name in masks if name not in known)]


def _as_linear(masks: Masks, name: str) -> Linear:
    *others, rows, columns = masks.shapes[name]
    rows, columns = (columns, rows) if name in masks.transposed else (rows, columns)
    number = re.search(r"(?<=\.)\d+(?=\.)", name)
    block = int(number[0]) if number else 0
    return {
        "name": name.removesuffix(".weight"),
        "weight": name,
        "block": block,
        "shape": [prod(others) * rows, columns],
    }


def kept_of(masks: Masks, linear: Linear) -> Tensor | None:
    """What is kept of one of :func:`matrices`: bool [R, C]. None if it is not there, or of another shape."""
    name = _name(masks, linear["weight"])
    if name is None:
        return None
    bits, shape = masks[name], masks.shapes[name]
    if len(shape) == 3 and prod(shape) != prod(linear["shape"]):
        # Names of linears in such tensors end with the number of the expert and the name of the parameter.
        bits, shape = bits[int(linear["name"].split(".")[-2])], shape[1:]
    kept = unpack(bits, shape)
    kept = kept.mT if name in masks.transposed else kept
    kept = kept.flatten(0, -2)
    return kept if list(kept.shape) == list(linear["shape"]) else None


def _name(masks: Masks, weight: str) -> str | None:
    """The name of the tensor that is a parameter: checkpoints of the bare model lack a prefix."""
    if weight in masks.shapes:
        return weight
    return next((name for name in masks if weight.endswith(f".{name}") or name.endswith(f".{weight}")), None)
