"""Find a model (folder, hub id, GGUF file) and load it with its tokenizer."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..errors import TrimPruneError
from .gguf import tokenizer_problems

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
HUB_PATTERNS = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.py", "LICENSE*"]


@dataclass(frozen=True)
class Source:
    """Where a model is: a folder with safetensors, or a GGUF file; neither: it was given in memory."""

    name: str
    folder: Path | None = None
    gguf: Path | None = None


@dataclass
class LoadedModel:
    """A model, its tokenizer and what there is to say about them."""

    model: Any
    tokenizer: Any
    source: Source
    warnings: list[str] = field(default_factory=list)


def resolve(model: str | Path, gguf: str | Path | None = None) -> Source:
    """Find the files of MODEL: a local folder, a GGUF file (alone or in the folder), or a hub id (downloaded)."""
    path = Path(model).expanduser()
    if gguf is not None or path.suffix == ".gguf":
        return Source(str(model), gguf=_gguf_file(path, gguf))
    if path.is_dir():
        return Source(str(model), folder=_checked_folder(path))
    if path.exists() or not _is_hub_id(str(model)):
        raise TrimPruneError(
            f"no model at {str(model)!r}",
            expected="a model folder, a .gguf file, or a hub id such as 'org/name'",
        )
    return Source(str(model), folder=_checked_folder(_download(str(model))))


def load_model(
    model: str | Path,
    *,
    gguf: str | Path | None = None,
    dtype: str = "auto",
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Load a causal language model and its tokenizer, on the CPU, in evaluation mode.

    dtype "auto": as stored, except that float16 is computed in float32 on a machine without a GPU; a GGUF file
    is dequantised to float32. Only safetensors and GGUF are read, never pickle.
    """
    source = resolve(model, gguf)
    if source.gguf is not None:
        return _load_gguf(source, dtype)
    return _load_folder(source, dtype, trust_remote_code)


def _load_folder(source: Source, dtype: str, trust_remote_code: bool) -> LoadedModel:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder = str(source.folder)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        _refuse_config(config, source)
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise TrimPruneError(f"transformers cannot load this model: {error}", where=folder) from error
    notes = []
    if dtype == "auto" and not torch.cuda.is_available() and model.dtype == torch.float16:
        model = model.float()
        notes.append("the model is stored in float16 and computed in float32, as this machine has no GPU")
    return LoadedModel(model.eval(), tokenizer, source, notes)


def _load_gguf(source: Source, dtype: str) -> LoadedModel:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert source.gguf is not None
    folder, file = str(source.gguf.parent), source.gguf.name
    compute = torch.float32 if dtype == "auto" else getattr(torch, dtype)
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=compute)
        own_tokenizer = (source.gguf.parent / "tokenizer.json").is_file()
        tokenizer = AutoTokenizer.from_pretrained(folder, **({} if own_tokenizer else {"gguf_file": file}))
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, NotImplementedError) as error:
        raise TrimPruneError(f"transformers cannot load this GGUF file: {error}", where=str(source.gguf)) from error
    # transformers marks the dequantised model as quantised and would refuse to save or reload it.
    model.config = copy.deepcopy(model.config)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return LoadedModel(model.eval(), tokenizer, source, tokenizer_problems(tokenizer, source.gguf))


def _refuse_config(config: Any, source: Source) -> None:
    if getattr(config, "is_encoder_decoder", False):
        raise TrimPruneError("encoder-decoder models are not supported", where=source.name, got=config.model_type)
    if getattr(config, "quantization_config", None) is not None:
        raise TrimPruneError(
            "the model is quantised",
            where=source.name,
            fix="prune the unquantised model, and quantise afterwards",
        )


def _gguf_file(path: Path, gguf: str | Path | None) -> Path:
    candidates = [path] if gguf is None else [path / gguf, Path(gguf).expanduser()]
    for candidate in candidates:
        if candidate.is_file():
            return candidate.resolve()
    raise TrimPruneError("no such GGUF file", got=" or ".join(str(candidate) for candidate in candidates))


def _checked_folder(folder: Path) -> Path:
    names = sorted(p.name for p in folder.iterdir())
    if "config.json" not in names:
        raise TrimPruneError("not a model folder: config.json is missing", where=str(folder), got=_some(names))
    if SINGLE_FILE not in names and INDEX_FILE not in names:
        pickled = [name for name in names if name.endswith((".bin", ".pt", ".pth"))]
        raise TrimPruneError(
            "no safetensors weights in the model folder",
            where=str(folder),
            expected=f"{SINGLE_FILE} or {INDEX_FILE}",
            got=_some(names),
            fix="convert the pickled weights first: pickle can run any code, so it is never opened"
            if pickled
            else None,
        )
    return folder.resolve()


def _some(names: list[str]) -> str:
    return (", ".join(names[:8]) + (", ..." if len(names) > 8 else "")) or "an empty folder"


def _is_hub_id(name: str) -> bool:
    parts = name.split("/")
    return len(parts) <= 2 and all(part and part[0] not in ".~" for part in parts)


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=HUB_PATTERNS))
    except Exception as error:
        raise TrimPruneError(
            f"{name!r} is neither a local folder nor a model that the hub gives (offline, private, or misspelt?)",
            got=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}",
            fix="check the name and the network, or give a local model folder",
        ) from error
