"""A LoRA adapter merged into a pruned model, whose zeros stay."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from .errors import TrimPruneError
from .formats.linears import names_in, read_stored
from .formats.masks import MASK_FILE, Masks, count_bits, save_masks
from .formats.sources import open_masks
from .models.companions import copy_companions, save_companions
from .models.load import LoadedModel, load_model
from .models.output import save_weights, write_index
from .models.staging import check_output, output_folder, protect_inputs, write_errors
from .training import keep_zeros


@dataclass(frozen=True)
class Merged:
    """What a merge did: of ``weights`` masked ones ``pruned`` are zero, of which the adapter had filled ``filled``."""

    weights: int
    pruned: int
    filled: int


def merge_lora(
    model: str | Path, adapter: str | Path, out: str | Path, *, masks: Masks | None = None, overwrite: bool = False
) -> Merged:
    """Merge a PEFT adapter into a pruned model folder, prune again by the masks, and write the model.

    A merge fills zeros: adapters are dense. What they add where the masks prune is lost, so that the merged model is
    not exactly what was trained: evaluate it.

    Args:
        model: folder of the pruned model.
        adapter: folder of the adapter.
        out: folder to write; as a prune writes one, with masks.safetensors.
        masks: by default those of the model folder.
        overwrite: replace a model folder at ``out``.

    Raises:
        TrimPruneError: something is missing, or does not fit.
    """
    _require_peft()
    model, adapter, out = Path(model), Path(adapter), Path(out)
    if not (adapter / "adapter_config.json").is_file():
        raise TrimPruneError("not an adapter folder: adapter_config.json is missing", where=str(adapter))
    check_output(out, overwrite)
    protect_inputs(out, {"model": model, "adapter": adapter})
    masks = open_masks(model) if masks is None else masks
    loaded = load_model(model)
    stored = _stored_dtype(loaded)
    merged = _merge(loaded.model, adapter)
    filled = _prune_again(merged, masks)
    with output_folder(out) as folder, write_errors(out):
        # From memory: an adapter may change any tensor, also those that no mask is of.
        whole = replace(loaded, model=merged.to(stored))
        save_weights(whole.model, folder)
        write_index(folder)
        save_companions(whole, folder)
        if loaded.source.folder is not None:
            copy_companions(loaded.source.folder, folder)
        save_masks(masks, folder / MASK_FILE)
        _require_zeros(folder, masks)
    return Merged(masks.weights, masks.weights - sum(count_bits(masks[name]) for name in masks), filled)


def _require_peft() -> None:
    if find_spec("peft") is None:
        raise TrimPruneError("adapters need the package peft", fix="pip install 'trim-kernels[peft]'")


def _stored_dtype(loaded: LoadedModel) -> torch.dtype:
    """The type that the files have: float16 is computed in float32 on a CPU."""
    dtype = getattr(loaded.model.config, "dtype", None)
    return dtype if isinstance(dtype, torch.dtype) else loaded.model.dtype


def _merge(model: Any, adapter: Path) -> Any:
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(model, adapter).merge_and_unload()
    except Exception as error:
        raise TrimPruneError(
            "peft cannot merge this adapter into this model",
            where=str(adapter),
            got=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}",
        ) from error


def _prune_again(model: Any, masks: Masks) -> int:
    """Set what is pruned to zero; how many weights were not."""
    zeros = keep_zeros(model, masks)
    filled = zeros.stray()
    zeros.apply()
    zeros.check()
    return filled


def _require_zeros(folder: Path, masks: Masks) -> None:
    stored = names_in(folder, masks)
    for name in masks:
        stray = int(torch.count_nonzero(read_stored(folder, stored[name])[~masks.kept(name)]))
        if stray:
            raise TrimPruneError(
                "the written model is not what was computed",
                where=name,
                expected="zeros where the masks prune",
                got=f"{stray} others",
                fix="check the disk; the output folder was not created",
            )
