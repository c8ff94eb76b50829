"""load(): a model from any folder that trim_prune writes, ordinary or not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .errors import TrimPruneError
from .models.device import choose_device
from .models.load import PACKED_FILE, load_model


def _packed(folder: Path, device: torch.device) -> Any:
    from .formats.load_packed import load_packed

    return load_packed(folder, device)


LOADERS: dict[str, Callable[[Path, torch.device], Any]] = {PACKED_FILE: _packed}
"""What loads a folder that holds a file of this name, which says its format and version."""


def load(folder: str | Path, *, device: str = "auto") -> Any:
    """The model in a folder, dense, in evaluation mode, on a device ("auto": a GPU where there is one).

    A packed checkpoint is unpacked tensor by tensor: beside the model, one tensor is held in memory, and on a GPU only
    what is packed travels to it. Its parameters are those of the dense model to the bit, each in its stored type. An
    ordinary model folder is loaded as :func:`load_model` does. No code of the folder is run.

    Raises:
        TrimPruneError: no model folder, or one that is damaged.
    """
    path, where = Path(folder).expanduser(), choose_device(device)
    if not path.is_dir():
        raise TrimPruneError(f"no model folder at {str(folder)!r}")
    for name, loader in LOADERS.items():
        if (path / name).is_file():
            return loader(path, where)
    return load_model(path, device=str(where)).model.to(where)
