"""Tiny random models of six families and a byte-level tokenizer, saved and loaded like real ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor, nn

if TYPE_CHECKING:
    from pathlib import Path

LAYERS, HIDDEN, CONTEXT = 2, 32, 64
BOS, EOS = "<s>", "</s>"


@dataclass(frozen=True)
class Family:
    """How to make a tiny model of a family, and where its blocks and linears are."""

    config: str
    options: dict[str, Any]
    blocks: str
    linears: tuple[str, ...]
    tied: bool = False


_GATED = tuple(f"self_attn.{name}_proj" for name in "qkvo") + tuple(
    f"mlp.{name}_proj" for name in ("gate", "up", "down")
)
_SIZES = {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
_GROUPED = _SIZES | {"intermediate_size": 48, "num_key_value_heads": 2}

FAMILIES = {
    "llama": Family("LlamaConfig", _GROUPED, "model.layers", _GATED),
    "qwen2": Family("Qwen2Config", _GROUPED, "model.layers", _GATED),
    "mistral": Family("MistralConfig", _GROUPED | {"sliding_window": 6}, "model.layers", _GATED),
    "gemma": Family("GemmaConfig", _GROUPED | {"head_dim": 12}, "model.layers", _GATED, tied=True),
    "opt": Family(
        "OPTConfig",
        _SIZES | {"ffn_dim": 48, "word_embed_proj_dim": HIDDEN},
        "model.decoder.layers",
        ("self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "self_attn.out_proj", "fc1", "fc2"),
        tied=True,
    ),
    "gpt_neox": Family(
        "GPTNeoXConfig",
        _SIZES | {"intermediate_size": 48},
        "gpt_neox.layers",
        ("attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    ),
}


def make_tokenizer() -> Any:
    """One token per byte, BOS in front; no vocabulary to download."""
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([BOS, EOS, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS)


def make_model(family: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    """A random model in which nothing is left at zero or one: biases and norms are drawn as well."""
    import transformers

    made = FAMILIES[family]
    common = {"vocab_size": 258, "max_position_embeddings": CONTEXT, "tie_word_embeddings": made.tied}
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None}
    config = getattr(transformers, made.config)(**(common | special | made.options | options))
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.to(dtype).eval()


def save_model(folder: Path, model: Any, tokenizer: Any, **options: Any) -> Path:
    """A model folder as transformers writes it."""
    model.save_pretrained(folder, **options)
    tokenizer.save_pretrained(folder)
    return folder


def linears_of(model: nn.Module, family: str) -> dict[str, nn.Linear]:
    """The linears that the engine should prune, by the names that the family is known to have."""
    made = FAMILIES[family]
    names = [f"{made.blocks}.{block}.{name}" for block in range(LAYERS) for name in made.linears]
    return {name: model.get_submodule(name) for name in names}


def zeros(weight: Tensor) -> int:
    return int((weight == 0).sum())


def random_tokens(sequences: int, length: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, 258, (sequences, length), generator=generator)
