"""A packed checkpoint as a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..errors import TrimPruneError
from ..models.load import STRUCTURE_FILE
from ..structured.ragged import give_sizes
from .packed import open_packed


def load_packed(folder: Path, device: torch.device) -> Any:
    """The dense model, its weights unpacked one by one on the device; see :func:`trim_prune.load`."""
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    packed = open_packed(folder)
    try:
        config = AutoConfig.from_pretrained(folder)
        with init_empty_weights():
            model: Any = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    except Exception as error:
        raise TrimPruneError(
            "transformers cannot make a model of config.json",
            where=str(folder),
            got=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}",
        ) from error
    # Such a folder's weights have the names that they have in memory.
    ragged = (folder / STRUCTURE_FILE).is_file()
    if ragged:
        give_sizes(model, folder)
    renamings = [] if ragged else _renamings(model)
    prefix, known = model.base_model_prefix, set(model.state_dict())
    for shard in packed.contents.shards:
        for name, tensor in packed.tensors(shard, device):
            for renaming in renamings:
                name, _ = renaming.rename_source_key(name)
            # Checkpoints of the bare model lack the prefix.
            own = name if name in known else f"{prefix}.{name}"
            model.load_state_dict({own: tensor}, strict=False, assign=True)
    model.tie_weights()
    missing = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if missing:
        raise TrimPruneError(
            "the model has weights that the packed checkpoint does not name",
            where=str(folder),
            got=", ".join(missing[:4]) + (", ..." if len(missing) > 4 else ""),
            fix="trim-prune unpack, and load the folder that it writes: transformers makes new weights of those stored",
        )
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model.to(device).eval()


def _renamings(model: Any) -> list[Any]:
    """How transformers renames stored tensors of this model; what it makes of several is not among them."""
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
    except ImportError:  # transformers 4 renames nothing
        return []
    return [step for step in get_model_conversion_mapping(model) if not getattr(step, "operations", None)]
