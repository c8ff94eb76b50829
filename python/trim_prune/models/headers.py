"""What a model folder says of its weights without any of them being read."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import safe_open

from ..errors import TrimPruneError
from .load import INDEX_FILE, SINGLE_FILE, download, is_hub_id

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def header_folder(model: str | Path) -> Path:
    """The folder of a model; of a hub id one with its configuration and index alone.

    Raises:
        TrimPruneError: there is no such folder, or no config.json in it.
    """
    path = Path(model).expanduser()
    if not path.is_dir() and path.suffix != ".gguf" and not path.exists() and is_hub_id(str(model)):
        path = download(str(model), ["*.json", "*.py"])
    if not (path / "config.json").is_file():
        raise TrimPruneError(
            f"no model folder at {str(model)!r}",
            expected="a folder with config.json, or a hub id such as 'org/name'",
        )
    return path.resolve()


def read_headers(folder: Path) -> dict[str, str]:
    """The type of every tensor in the safetensors files of a folder, by name; of those that are there."""
    shards = {SINGLE_FILE}
    if (folder / INDEX_FILE).is_file():
        shards = set(json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))["weight_map"].values())
    found: dict[str, str] = {}
    for shard in sorted(shards):
        if (folder / shard).is_file():
            with safe_open(folder / shard, "pt") as file:
                for name in file.keys():  # noqa: SIM118 - not a dict
                    dtype = file.get_slice(name).get_dtype()
                    found[name] = DTYPES.get(dtype, dtype)
    return found
