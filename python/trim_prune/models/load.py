"""Find a model (folder, hub id, GGUF file) and load it with its tokenizer."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..errors import TrimPruneError, nearest
from .device import choose_device
from .gguf import parsed_once, tokenizer_problems
from .license import license_of_folder, license_of_gguf
from .on_disk import BlocksOnDisk, build_empty, open_blocks
from .shards import INDEX_FILE, SINGLE_FILE, Shards, weight_files

PACKED_FILE = "packed.json"
"""Beside a packed checkpoint."""
TOKENIZER_FILE = "tokenizer.json"
STRUCTURE_FILE = "structure.json"
"""Beside a model whose blocks differ in size."""
DTYPES = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
HUB_PATTERNS = [
    "model*.safetensors",
    "*.json",
    "*.txt",
    "*.model",
    "*.tiktoken",
    "*.jinja",
    "*.py",
    "LICENSE*",
    "README.md",
]
# The same weights once more, in the form of another library. In these patterns * matches / too.
HUB_IGNORED = ["original/*", "consolidated*"]


@dataclass(frozen=True)
class Source:
    """Where a model is: a folder with safetensors, or a GGUF file; neither: it was given in memory.

    ``tokenizer``: the folder with the tokenizer that belongs to a GGUF file; None: the file's own is converted.
    ``from_hub``: whether the name is a hub id.
    """

    name: str
    folder: Path | None = None
    gguf: Path | None = None
    tokenizer: Path | None = None
    from_hub: bool = False


@dataclass
class LoadedModel:
    """A model, its tokenizer and what there is to say about them.

    ``store``: where its blocks are, None: in memory. ``license``: as its files name it, if they do.
    """

    model: Any
    tokenizer: Any
    source: Source
    warnings: list[str] = field(default_factory=list)
    store: BlocksOnDisk | None = None
    license: str | None = None


def resolve(model: str | Path, gguf: str | Path | None = None) -> Source:
    """Find the files of MODEL: a local folder, a GGUF file (alone or in the folder), or a hub id (downloaded)."""
    path = Path(model).expanduser()
    if gguf is not None or path.suffix == ".gguf":
        return _gguf_source(path, gguf)
    if path.is_dir():
        return Source(str(model), folder=_checked_folder(path))
    if path.exists() or not is_hub_id(str(model)):
        raise TrimPruneError(
            f"no model at {str(model)!r}",
            expected="a model folder, a .gguf file, or a hub id such as 'org/name'",
        )
    return Source(str(model), folder=_checked_folder(download(str(model), HUB_PATTERNS)), from_hub=True)


def load_model(
    model: str | Path,
    *,
    gguf: str | Path | None = None,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    hold: bool = True,
) -> LoadedModel:
    """Load a causal language model and its tokenizer, on the CPU, in evaluation mode.

    dtype "auto": as stored, except that float16 becomes float32 where ``device``, on which the model will compute,
    is the CPU; a GGUF file is dequantised to float32. Only safetensors and GGUF are read, never pickle. hold: whether
    the model is wanted in memory; if not, its blocks stay in the files and come by the ``store`` of the result. That
    takes files that hold the parameters as they are: a GGUF file and a checkpoint that transformers converts while it
    loads it are held all the same.
    """
    compute_dtype(dtype)
    source = resolve(model, gguf)
    if source.gguf is not None:
        return _load_gguf(source, dtype)
    return _load_folder(source, dtype, choose_device(device), trust_remote_code, hold)


def _load_folder(source: Source, dtype: str, device: torch.device, trust_remote_code: bool, hold: bool) -> LoadedModel:
    from transformers import AutoTokenizer

    assert source.folder is not None
    folder = str(source.folder)
    notes = []
    try:
        config = read_config(source.folder, source.name, trust_remote_code)
        # What such a folder holds is not what the blocks of the model are made of.
        special = any((Path(folder) / name).is_file() for name in (STRUCTURE_FILE, PACKED_FILE))
        wide = dtype == "auto" and device.type == "cpu"
        opened = None if hold or special else _opened(Path(folder), config, dtype, wide, trust_remote_code)
        if opened is not None:
            model, first, store = opened
        else:
            model = _held(Path(folder), config, dtype, trust_remote_code)
            first, store = model.dtype, None
            model = _widened(model) if wide else model
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (TrimPruneError, MemoryError):
        raise
    except Exception as error:
        raise _unreadable("model", error, source.folder) from error
    if not hold and store is None:
        why = "its files are special" if special else "transformers converts its weights while it loads them"
        notes.append(f"the whole model is held in memory: {why}")
    if model.dtype != first:
        notes.append("the model is stored in float16 and computed in float32, as the device is the CPU")
    if (Path(folder) / PACKED_FILE).is_file():
        # Its shards are not those of the model: what is made of it is written from memory.
        source = Source(source.name)
    return LoadedModel(model.eval(), tokenizer, source, notes, store, license_of_folder(Path(folder)))


def _held(folder: Path, config: Any, dtype: str, trust_remote_code: bool) -> Any:
    """A model in memory as a whole."""
    # Here: these need this module. A packed folder has the structure.json of the folder that it was made from.
    if (folder / PACKED_FILE).is_file():
        from ..formats.load_packed import load_packed

        model, compute = load_packed(folder, torch.device("cpu")), compute_dtype(dtype)
        return model if compute is None else model.to(compute)
    if (folder / STRUCTURE_FILE).is_file():
        from ..structured.ragged import load_ragged

        return load_ragged(folder, config, compute_dtype(dtype))
    return auto_class(config).from_pretrained(
        folder,
        config=config,
        dtype=compute_dtype(dtype) or "auto",
        use_safetensors=True,
        trust_remote_code=trust_remote_code,
    )


def _opened(
    folder: Path, config: Any, dtype: str, wide: bool, trust_remote_code: bool
) -> tuple[Any, torch.dtype, BlocksOnDisk] | None:
    """A model whose blocks stay in the files, and the type in which transformers would load it; None if they cannot."""
    shards = Shards(folder, weight_files(folder))
    first = compute_dtype(dtype) or config.dtype or shards.only_dtype
    if first is None:
        return None
    model = empty_model(config, first, wide, trust_remote_code)
    if mixes_types(model):
        return None
    store = open_blocks(model, shards, first)
    return None if store is None else (model, first, store)


def empty_model(config: Any, dtype: torch.dtype, wide: bool, trust_remote_code: bool) -> Any:
    """The model of a configuration in that type, without weights; ``wide``: in float32 in place of float16."""
    # transformers notes the type in the configuration.
    model = build_empty(auto_class(config), copy.deepcopy(config), dtype, trust_remote_code)
    return _widened(model) if wide else model


def mixes_types(model: Any) -> bool:
    """Whether transformers loads some parameters in float32 whatever the type of the model is."""
    return bool(model._keep_in_fp32_modules or getattr(model, "_keep_in_fp32_modules_strict", None))


def _widened(model: Any) -> Any:
    """In float32 if it came in float16, in which a CPU is slow."""
    return model.float() if model.dtype == torch.float16 else model


def _load_gguf(source: Source, dtype: str) -> LoadedModel:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert source.gguf is not None
    folder, file = str(source.gguf.parent), source.gguf.name
    compute = compute_dtype(dtype) or torch.float32
    try:
        with parsed_once():
            model: Any = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=compute)
            if source.tokenizer is None:
                tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
                problems = tokenizer_problems(tokenizer, source.gguf)
            else:
                tokenizer, problems = AutoTokenizer.from_pretrained(source.tokenizer), []
            license_ = license_of_gguf(source.gguf)
    except MemoryError:
        raise
    except Exception as error:
        raise _unreadable("GGUF file", error, source.gguf) from error
    # transformers marks the dequantised model as quantised and would refuse to save or reload it.
    model.config, model.hf_quantizer = copy.deepcopy(model.config), None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return LoadedModel(model.eval(), tokenizer, source, problems, license=license_)


def auto_class(config: Any) -> Any:
    """The class of transformers that makes a model of this configuration: a language model, alone or with vision."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    )

    seeing = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING
    return AutoModelForImageTextToText if seeing else AutoModelForCausalLM


def read_config(folder: Path, name: str, trust_remote_code: bool) -> Any:
    """The configuration in a model folder; an error for kinds of models that cannot be pruned. ``name``: for errors."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
    except Exception as error:
        raise _unreadable("model", error, folder) from error
    _refuse_config(config, name)
    return config


def _refuse_config(config: Any, name: str) -> None:
    if getattr(config, "is_encoder_decoder", False):
        raise TrimPruneError("encoder-decoder models are not supported", where=name, got=config.model_type)
    if getattr(config, "quantization_config", None) is not None:
        raise TrimPruneError(
            "the model is quantised",
            where=name,
            fix="prune the unquantised model, and quantise afterwards",
        )


def compute_dtype(name: str) -> torch.dtype | None:
    """The type of that name; None for "auto"."""
    if name not in DTYPES:
        raise TrimPruneError(
            f"unknown dtype {name!r}", expected="one of " + ", ".join(DTYPES), fix=nearest(name, DTYPES) or None
        )
    return DTYPES[name]


def _unreadable(what: str, error: Exception, where: Path | None) -> TrimPruneError:
    """Whatever transformers raises about a user's files (it has no error class of its own), in one form."""
    return TrimPruneError(
        f"transformers cannot load this {what}",
        where=str(where),
        got=f"{type(error).__name__}: {error}",
        fix="check that the files are complete; fetch or convert them again",
    )


def gguf_candidates(path: Path, gguf: str | Path | None) -> list[Path]:
    """Where the GGUF file may be: MODEL itself; or in the folder MODEL, or anywhere. The first that exists is it."""
    return [path] if gguf is None else [path / gguf, Path(gguf).expanduser()]


def _gguf_source(path: Path, gguf: str | Path | None) -> Source:
    if gguf is not None and not path.is_dir():
        raise TrimPruneError(
            f"no model folder at {str(path)!r}", fix="give the folder, or the .gguf file alone in place of MODEL"
        )
    candidates = gguf_candidates(path, gguf)
    file = next((candidate.resolve() for candidate in candidates if candidate.is_file()), None)
    if file is None:
        raise TrimPruneError("no such GGUF file", got=" or ".join(str(candidate) for candidate in candidates))
    folders = [path, file.parent] if gguf is not None else [file.parent]
    tokenizer = next((folder.resolve() for folder in folders if (folder / TOKENIZER_FILE).is_file()), None)
    return Source(str(path), gguf=file, tokenizer=tokenizer)


def _checked_folder(folder: Path) -> Path:
    names = sorted(p.name for p in folder.iterdir())
    if "config.json" not in names:
        raise TrimPruneError("not a model folder: config.json is missing", where=str(folder), got=_some(names))
    if not {SINGLE_FILE, INDEX_FILE, PACKED_FILE} & set(names):
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


def is_hub_id(name: str) -> bool:
    """Whether a name may be one of the hub's: org/name, or a name alone."""
    parts = name.split("/")
    return len(parts) <= 2 and all(part and part[0] not in ".~" for part in parts)


def download(name: str, patterns: list[str]) -> Path:
    """The folder with those files of a hub id that match the patterns."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=patterns, ignore_patterns=HUB_IGNORED))
    except Exception as error:
        raise TrimPruneError(
            f"{name!r} is neither a local folder nor a model that the hub gives (offline, private, or misspelt?)",
            got=f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}",
            fix="check the name and the network, or give a local model folder",
        ) from error
