"""The linears of a model folder, by configuration and file headers: no weight is read to find them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from ..errors import TrimPruneError
from ..models.discover import find_blocks
from ..models.headers import without_weights
from ..models.load import PACKED_FILE, resolve
from ..models.shards import Shards, weight_files


def dense_folder(source: Path) -> Path:
    """The folder, if its weights are in ordinary safetensors files."""
    folder = resolve(source).folder if source.exists() else None
    if folder is None:
        raise TrimPruneError("no model folder with safetensors", where=str(source))
    if (folder / PACKED_FILE).is_file():
        raise TrimPruneError("the model folder is packed", where=str(source), fix="trim-prune unpack it first")
    return folder


def linear_shapes(folder: Path) -> tuple[dict[str, tuple[int, ...]], frozenset[str]]:
    """The shapes of the parameters with linears of the blocks, by their names; and which lie as [inputs, outputs]."""
    dense_folder(folder)
    try:
        model = without_weights(folder, str(folder), trust_remote_code=False)
    except TrimPruneError as error:
        raise TrimPruneError(
            "transformers cannot tell the linears of this model",
            where=str(folder),
            got=error.got,
            fix="give masks in a file, which name them",
        ) from error
    linears = [linear for block in find_blocks(model) for linear in block.linears]
    shapes = {linear.weight_name: tuple(linear.whole.shape) for linear in linears}
    return shapes, frozenset(linear.weight_name for linear in linears if linear.transposed)


def names_in(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The names that the folder's files give to some weights of the model."""
    wanted = list(names)
    # The first part of a weight's name is the prefix that checkpoints of the bare model lack.
    prefix = wanted[0].partition(".")[0] if wanted else ""
    shards = Shards(folder, weight_files(folder))
    stored = shards.find(wanted, prefix)
    if stored is None:
        known = shards.places
        missing = [name for name in wanted if name not in known and name.partition(".")[2] not in known]
        raise TrimPruneError(
            "the masks name weights that the model folder has not",
            where=str(folder),
            got=", ".join(missing[:4]) + (", ..." if len(missing) > 4 else ""),
            fix="give the folder of the model that the masks are of",
        )
    return stored


def read_stored(folder: Path, name: str) -> Tensor:
    """One tensor of a model folder, by the name that it has in its file."""
    return Shards(folder, weight_files(folder)).get(name)
