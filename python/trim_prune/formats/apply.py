"""Masks onto a model: what they prune becomes zero."""

from __future__ import annotations

import shutil
from pathlib import Path

from safetensors.torch import save_file

from ..models.companions import copy_companions
from ..models.output import write_index
from ..models.shards import INDEX_FILE, tensor_names
from ..models.staging import check_output, output_folder, protect_inputs, write_errors
from .files import open_tensors
from .linears import dense_folder, names_in
from .masks import MASK_FILE, Masks, count_bits, save_masks


def apply_masks(model: Path, masks: Masks, out: Path, *, overwrite: bool = False) -> int:
    """Write the model folder again with +0 in the place of what the masks prune; returns how many weights that is.

    One shard at a time is held in memory. Each tensor keeps its type; all else is copied, and masks.safetensors is
    written beside it.
    """
    check_output(out, overwrite)
    protect_inputs(out, {"model": model})
    source = dense_folder(model)
    weights = {stored: weight for weight, stored in names_in(source, masks).items()}
    with output_folder(out) as folder, write_errors(out):
        for shard in tensor_names(source):
            with open_tensors(source / shard) as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
                metadata = file.metadata()
            for name in tensors.keys() & weights.keys():
                masks.require_fit(weights[name], tensors[name])
                tensors[name] = tensors[name].masked_fill(~masks.kept(weights[name]), 0)
            save_file(tensors, folder / shard, metadata)
        copy_companions(source, folder)
        if (source / INDEX_FILE).is_file():
            shutil.copyfile(source / INDEX_FILE, folder / INDEX_FILE)
        write_index(folder)
        save_masks(masks, folder / MASK_FILE)
    return masks.weights - sum(map(count_bits, masks.values()))
