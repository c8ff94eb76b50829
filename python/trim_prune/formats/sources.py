"""Where masks come from: a file, or a model folder."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ..errors import TrimPruneError
from ..models.load import PACKED_FILE
from .foreign import open_numpy_masks, open_script_masks
from .linears import linear_shapes, names_in, read_stored
from .masks import MASK_FILE, Masks, open_mask_file, pack
from .packed import open_packed


def open_masks(source: str | Path) -> Masks:
    """The masks of a file (safetensors, numpy's .npz, TRIM's script) or of a model folder.

    A folder has masks.safetensors, or is packed, or is judged by its zeros: see :func:`zeros_of`.
    """
    source = Path(source).expanduser()
    if source.is_dir():
        if (source / MASK_FILE).is_file():
            return open_mask_file(source / MASK_FILE)
        return open_packed(source).masks() if (source / PACKED_FILE).is_file() else zeros_of(source)
    if not source.is_file():
        raise TrimPruneError("no such file or folder of masks", where=str(source))
    openers = {".safetensors": open_mask_file, ".npz": open_numpy_masks}
    return openers.get(source.suffix, open_script_masks)(source)


def zeros_of(folder: Path) -> Masks:
    """Masks by the zeros of every linear in the blocks of a dense model folder: what is 0 or -0 counts as pruned."""
    shapes, transposed = linear_shapes(folder)
    stored = names_in(folder, shapes)

    def read(name: str) -> Tensor:
        return pack(read_stored(folder, stored[name]) != 0)

    return Masks(f"zeros of {folder}", shapes, read, transposed)
