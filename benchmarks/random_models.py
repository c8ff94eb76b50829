"""Models of published sizes with random weights: as many of their blocks as one wants, made one by one."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from trim_prune.models.discover import find_blocks
from trim_prune.models.load import auto_class
from trim_prune.models.on_disk import build_empty

QWEN = {
    "model_type": "qwen2",
    "vocab_size": 152064,
    "max_position_embeddings": 131072,
    "rope_theta": 1000000.0,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
LLAMA_2 = {
    "model_type": "llama",
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}


def _sizes(hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int) -> dict[str, int]:
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
    }


CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "qwen2.5-14b": QWEN | _sizes(5120, 13824, 48, 40, 8),
    "qwen2.5-72b": QWEN | _sizes(8192, 29568, 80, 64, 8),
    "llama-2-7b": LLAMA_2 | _sizes(4096, 11008, 32, 32, 32),
    "llama-2-13b": LLAMA_2 | _sizes(5120, 13824, 40, 40, 40),
}
"""As the models' config.json files say; what decides speed is the sizes."""
DEVIATION = 0.02
"""Of random weights: that with which such models are begun."""
BYTES_PER_LINE = 100


def read_config(name: str) -> dict[str, Any]:
    """A configuration by name, or from a config.json."""
    if name in CONFIGS:
        return dict(CONFIGS[name])
    found: dict[str, Any] = json.loads(Path(name).read_text(encoding="utf-8"))
    return found


def write_model(folder: Path, values: Mapping[str, Any], blocks: int, dtype: torch.dtype, device: torch.device) -> None:
    """A model folder with so many blocks of that configuration, a file for each, and a tokenizer of bytes.

    No more than the tensors of one file are in memory at a time, and they are made on the device.
    """
    from transformers import AutoConfig

    config = AutoConfig.for_model(
        **(dict(values) | {"num_hidden_layers": blocks, "bos_token_id": 0, "eos_token_id": 1})
    )
    kind = auto_class(config)
    model = build_empty(kind, config, dtype, trust_remote_code=False)
    config.architectures, config.dtype = [type(model).__name__], dtype
    config.save_pretrained(folder)
    _write_tokenizer(folder)
    generator = torch.Generator(device).manual_seed(0)
    weight_map: dict[str, str] = {}
    total = 0
    for number, shapes in enumerate(_files(model)):
        file = f"model-{number:05d}.safetensors"
        tensors = {name: _random(name, shape, dtype, device, generator) for name, shape in shapes.items()}
        save_file(tensors, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
        total += sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def random_text(tokens: int) -> str:
    """A text of so many bytes, each of which is a token; always the same."""
    letters = random.Random(0).choices("abcdefghijklmnopqrstuvwxyz ", k=tokens)
    return "\n".join("".join(letters[at : at + BYTES_PER_LINE]) for at in range(0, tokens, BYTES_PER_LINE))


def _files(model: Any) -> Iterator[dict[str, torch.Size]]:
    """The shapes of the parameters that share a file: those outside the blocks, then those of each block."""
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    inside = [{f"{block.name}.{name}" for name, _ in block.module.named_parameters()} for block in find_blocks(model)]
    yield {name: shape for name, shape in shapes.items() if not any(name in names for names in inside)}
    for names in inside:
        yield {name: shape for name, shape in shapes.items() if name in names}


def _random(
    name: str, shape: torch.Size, dtype: torch.dtype, device: torch.device, generator: torch.Generator
) -> Tensor:
    if len(shape) == 1:
        # Weights of norms are near one, biases near zero.
        return torch.full(shape, float(name.endswith("norm.weight") or "layernorm" in name), dtype=dtype)
    return torch.randn(shape, dtype=dtype, device=device, generator=generator).mul_(DEVIATION).cpu()


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {
        token: number for number, token in enumerate(["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())])
    }
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made: Any = PreTrainedTokenizerFast
    made(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
