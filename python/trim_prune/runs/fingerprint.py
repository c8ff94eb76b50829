"""What a run is made of, field by field: two runs of one fingerprint give the same bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

import trim_kernels
from trim_kernels.machine import machine

from ..calibration.tokens import Calibration
from ..digest import add_tensor
from ..errors import TrimPruneError
from ..events import to_json
from ..models.load import LoadedModel
from ..models.shards import weight_files
from ..recipe import Recipe
from ..runfile import versions
from .earlier import Earlier

Fingerprint = Mapping[str, Any]


def fingerprint(
    loaded: LoadedModel,
    recipe: Recipe,
    calibration: Calibration | None,
    device: torch.device,
    earlier: Earlier | None,
    max_shard_size: int | None,
) -> Fingerprint:
    """The fields: model, recipe, calibration, earlier (run), output, code and machine, each followed by a part of it.

    Files are known by name, size and time of their last change; a model from memory by the digest of its parameters.
    """
    fields = {
        **_model(loaded),
        **{f"recipe.{key}": value for key, value in recipe.model_dump(mode="json").items()},
        **_calibration(calibration),
        **({} if earlier is None else earlier.fields),
        "output.max_shard_size": max_shard_size,
        **code(),
        **{f"machine.{key}": value for key, value in machine(str(device)).items() if key not in ("platform", "cpus")},
    }
    found: Fingerprint = json.loads(to_json(fields))
    return found


def code() -> Fingerprint:
    """The fields of the code."""
    return {**{f"code.{name}": version for name, version in versions().items()}, "code.sources": _sources()}


def refuse_other(before: Fingerprint, now: Fingerprint, folder: Path) -> None:
    """An error unless the unfinished run in a folder is the same one."""
    fields = [field for field in {**before, **now} if before.get(field) != now.get(field)]
    if fields:
        more = "" if len(fields) == 1 else f"; {len(fields)} fields differ: {', '.join(fields[:8])}"
        raise TrimPruneError(
            f"an unfinished run for this output is another one: it differs in {fields[0]}",
            where=str(folder),
            expected=f"{fields[0]}: {_short(before.get(fields[0]))}",
            got=f"{_short(now.get(fields[0]))}{more}",
            fix="go on with what it began with; or give another --out; or give --no-resume, and it is lost",
        )


def _model(loaded: LoadedModel) -> Fingerprint:
    source = loaded.source
    files: list[Path] = []
    if source.folder is not None:
        files = [source.folder / name for name in ("config.json", *weight_files(source.folder))]
    elif source.gguf is not None:
        files = [source.gguf]
    found: dict[str, Any] = {f"model.{file.name}": [file.stat().st_size, file.stat().st_mtime_ns] for file in files}
    if not files:
        digest = hashlib.sha256()
        for name, parameter in loaded.model.named_parameters():
            digest.update(f"{name} ".encode())
            add_tensor(digest, parameter)
        found["model.parameters"] = digest.hexdigest()
    return found


def _calibration(calibration: Calibration | None) -> Fingerprint:
    if calibration is None:
        return {}
    digest = hashlib.sha256()
    add_tensor(digest, calibration.token_ids)
    add_tensor(digest, calibration.held_out)
    return {"calibration.sample_ids": calibration.sample_ids, "calibration.tokens": digest.hexdigest()}


@cache
def _sources() -> str:
    """A digest of the code of both packages, as it was when this process first asked."""
    digest = hashlib.sha256()
    for package in (Path(__file__).parents[1], Path(trim_kernels.__file__).parent):
        for file in sorted(package.rglob("*")):
            if file.suffix in (".py", ".yaml", ".so"):
                digest.update(f"{file.relative_to(package)} ".encode() + file.read_bytes())
    return digest.hexdigest()


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
