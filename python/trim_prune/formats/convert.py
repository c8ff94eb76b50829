"""From an ordinary model folder to a packed one, and back: shard by shard, to the bit."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from trim_kernels import pack_values, unpack_bits
from trim_kernels.checks import WEIGHT_DTYPES

from ..errors import TrimPruneError
from ..models.companions import copy_companions
from ..models.load import PACKED_FILE
from ..models.shards import INDEX_FILE, tensor_names
from ..models.staging import check_output, output_folder, protect_inputs, write_errors
from ..pattern import Keep
from ..run_facts import known_facts
from ..runfile import RUN_FILE
from .files import open_tensors
from .indices import are_smaller, pack_indices, unpack_indices
from .linears import dense_folder, linear_shapes, names_in, read_stored
from .masks import MASK_FILE, Masks, open_mask_file, pack, save_masks
from .packed import INDICES, MASK, VALUES, Contents, PackedTensor, open_packed

PACKED_INDEX = "packed.index.json"
"""The index of the dense shards, under a name by which no loader looks for them."""
BESIDE = (RUN_FILE, "report.json", "layers.yaml", "*.jsonl", "*.svg", "*.html", "README.md", PACKED_INDEX)
"""What a run leaves beside a model."""


@dataclass(frozen=True)
class Sizes:
    """Bytes of the weight files of a folder, dense and packed."""

    dense: int
    packed: int


def pack_model(
    source: Path, out: Path, *, overwrite: bool = False, warn: Callable[[str], None] = warnings.warn
) -> Sizes:
    """Write a packed checkpoint of a pruned model folder; beside it, what stands beside the model.

    Packed are the tensors that masks.safetensors names; without that file, the linears of the blocks that become
    smaller by it, by the zeros (+0, to the bit) that they have. All else is copied as it is, but for our report and
    model card, which are made anew. ``warn``: called where they cannot be.
    """
    check_output(out, overwrite)
    protect_inputs(out, {"model": source})
    source = dense_folder(source)
    masks, patterns = _masks_to_pack(source), _patterns(source)
    names = {stored: weight for weight, stored in names_in(source, masks).items()}
    always = (source / MASK_FILE).is_file()
    shards: dict[str, str] = {}
    contents: dict[str, PackedTensor] = {}
    sizes = Sizes(0, 0)
    with output_folder(out) as folder, write_errors(out):
        for shard in tensor_names(source):
            shards[f"packed-{shard}"] = shard
            with open_tensors(source / shard) as file:
                metadata = file.metadata()
                tensors, packed = _pack_shard(file, names, masks, patterns, always=always)
            contents |= packed
            save_file(tensors, folder / f"packed-{shard}", metadata)
            sizes = Sizes(
                sizes.dense + (source / shard).stat().st_size,
                sizes.packed + (folder / f"packed-{shard}").stat().st_size,
            )
        _copy_beside(source, folder)
        if (source / INDEX_FILE).is_file():
            shutil.copyfile(source / INDEX_FILE, folder / PACKED_INDEX)
        text = _contents(always, shards, contents, masks.transposed).json_text()
        (folder / PACKED_FILE).write_text(text, encoding="utf-8")
        _report(folder, out, warn)
    return sizes


def unpack_model(
    source: Path, out: Path, *, overwrite: bool = False, warn: Callable[[str], None] = warnings.warn
) -> Sizes:
    """Write the ordinary model folder that a packed checkpoint was made from; ``warn``: see :func:`pack_model`."""
    check_output(out, overwrite)
    protect_inputs(out, {"model": source})
    packed = open_packed(source)
    sizes = Sizes(0, 0)
    with output_folder(out) as folder, write_errors(out):
        for shard, dense in packed.contents.shards.items():
            with open_tensors(source / shard) as file:
                metadata = file.metadata()
            save_file(dict(packed.tensors(shard)), folder / dense, metadata)
            sizes = Sizes(sizes.dense + (folder / dense).stat().st_size, sizes.packed + (source / shard).stat().st_size)
        _copy_beside(source, folder)
        if (folder / PACKED_INDEX).is_file():
            (folder / PACKED_INDEX).rename(folder / INDEX_FILE)
        if packed.contents.masks:
            masks = packed.masks()
            save_masks(masks, folder / MASK_FILE)
        _report(folder, out, warn)
    return sizes


def _contents(
    masks: bool, shards: dict[str, str], tensors: dict[str, PackedTensor], transposed: frozenset[str]
) -> Contents:
    turned = tuple(name for name, packed in tensors.items() if packed.weight in transposed)
    plain = not turned and all(len(packed.shape) == 2 for packed in tensors.values())
    return Contents(version=1 if plain else 2, masks=masks, shards=shards, tensors=tensors, transposed=turned)


def _masks_to_pack(source: Path) -> Masks:
    if (source / MASK_FILE).is_file():
        return open_mask_file(source / MASK_FILE)
    shapes, transposed = linear_shapes(source)
    stored = names_in(source, shapes)
    return Masks(str(source), shapes, lambda name: pack(_bits(read_stored(source, stored[name])) != 0), transposed)


def _patterns(source: Path) -> dict[str, Keep]:
    """The pattern of each weight that run.json gives one, where its places take fewer bits than a mask."""
    if not (source / RUN_FILE).is_file():
        return {}
    try:
        run = json.loads((source / RUN_FILE).read_text(encoding="utf-8"))
        # Earlier versions gave parameters no names of their own in it.
        layouts = {
            linear.get("weight", f"{linear['name']}.weight"): linear.get("pattern") for linear in run.get("linears", [])
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}  # the file of another program
    return {
        name: pattern
        for name, layout in layouts.items()
        if layout
        and (pattern := PackedTensor(weight=name, shape=(0, 0), layout=layout).pattern) is not None
        and are_smaller(pattern)
    }


def _pack_shard(
    file: Any, names: Mapping[str, str], masks: Masks, patterns: Mapping[str, Keep], *, always: bool
) -> tuple[dict[str, Tensor], dict[str, PackedTensor]]:
    """Several tensors at a time: what is read from the file, counted and moved of one does not wait for another."""
    tensors: dict[str, Tensor] = {}
    packed: dict[str, PackedTensor] = {}

    def pack_one(name: str) -> tuple[dict[str, Tensor], PackedTensor | None]:
        weight = file.get_tensor(name)
        own = _packed(name, weight, masks, names[name], patterns) if name in names else None
        if own is None or not (always or sum(part.nbytes for part in own.values()) < weight.nbytes):
            return {name: weight}, None
        layout = "mask" if name + MASK in own else str(patterns[names[name]])
        return own, PackedTensor(weight=names[name], shape=tuple(weight.shape), layout=layout)

    keys = list(file.keys())
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for name, (parts, how) in zip(keys, pool.map(pack_one, keys), strict=True):
            tensors |= parts
            if how is not None:
                packed[name] = how
    return tensors, packed


def _packed(name: str, weight: Tensor, masks: Masks, of: str, patterns: Mapping[str, Keep]) -> dict[str, Tensor]:
    """The parts of a packed tensor."""
    if weight.dtype not in WEIGHT_DTYPES:
        raise TrimPruneError(
            "a linear has a type that is not packed",
            where=name,
            expected="float32, bfloat16 or float16",
            got=str(weight.dtype).removeprefix("torch."),
        )
    masks.require_fit(of, weight)
    bits = masks[of]
    rows, columns = weight.flatten(0, -2), weight.shape[-1]
    values = pack_values(rows, bits.flatten(0, -2))
    lost = int(torch.count_nonzero(_bits(weight)) - torch.count_nonzero(_bits(values)))
    if lost:
        raise TrimPruneError(
            "weights that the masks prune are not +0: packed, they would be lost",
            where=name,
            got=f"{lost} of {weight.numel()}",
            fix="trim-prune masks apply, which makes them so, and pack its output",
        )
    indices = _indices(unpack_bits(bits.flatten(0, -2), columns), patterns[of]) if of in patterns else None
    where = {name + MASK: bits} if indices is None else {name + INDICES: indices}
    return {name + VALUES: values, **where}


def _indices(kept: Tensor, pattern: Keep) -> Tensor | None:
    """The places of what is kept; None if it does not follow the pattern."""
    columns = kept.shape[1]
    if bool((kept.sum(1) != pattern.of_row(columns)).any()):
        return None
    indices = pack_indices(kept, pattern)
    return indices if torch.equal(unpack_indices(indices, pattern, columns), kept) else None


def _bits(tensor: Tensor) -> Tensor:
    """The values as integers, which tell -0 from +0."""
    return tensor.view({1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])


def _copy_beside(source: Path, folder: Path) -> None:
    """What a run left beside the model, but for what it says of the folder, which is another now."""
    from ..report.card import CARD_FILE, is_our_card
    from ..report.derived import DERIVED_FILE
    from ..report.write import REPORT_FILE

    copy_companions(source, folder)
    ours = {DERIVED_FILE, REPORT_FILE} if known_facts(source) is not None else set()
    if is_our_card(source / CARD_FILE):
        ours.add(CARD_FILE)
    for pattern in BESIDE:
        for file in source.glob(pattern):
            if file.name not in ours:
                shutil.copyfile(file, folder / file.name)


def _report(folder: Path, out: Path, warn: Callable[[str], None]) -> None:
    from ..report.write import try_report

    if known_facts(folder) is not None:
        try_report(folder, out.absolute().name, warn)
