"""What stands beside the weights in a model folder: configuration, tokenizer, code, licence."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

from .load import STRUCTURE_FILE, LoadedModel

COPIED = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "chat_template*",
    "additional_chat_templates/*.jinja",
    "preprocessor_config.json",
    "processor_config.json",
    STRUCTURE_FILE,
    "*.py",
    "LICENSE*",
    "NOTICE*",
)


def save_companions(loaded: LoadedModel, folder: Path) -> None:
    """Write the configuration and the tokenizer of a model from memory."""
    config = copy.deepcopy(loaded.model.config)
    # What save_pretrained of the model would add: loaders choose the class by the first and the type by the second.
    config.architectures, config.dtype = [type(loaded.model).__name__], loaded.model.dtype
    config.save_pretrained(folder)
    if getattr(loaded.model, "generation_config", None) is not None:
        loaded.model.generation_config.save_pretrained(folder)
    if loaded.tokenizer is not None:
        loaded.tokenizer.save_pretrained(folder)


def copy_companions(source: Path, folder: Path) -> None:
    """Copy what other tools need beside the weights, byte for byte."""
    for file in companion_files(source):
        target = folder / file.relative_to(source)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, target)


def companion_files(source: Path) -> list[Path]:
    """The files beside the weights of a model folder that belong to the model."""
    return [file for pattern in COPIED for file in source.glob(pattern) if file.is_file()]
