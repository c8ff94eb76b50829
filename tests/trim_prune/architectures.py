"""Tiny random models of every architecture that is said to work, beyond the families of tiny_models.

A model is known by what its files should hold: which tensors a prune may touch, by a pattern over their names, and how
many linears they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any

import torch
from tiny_models import CONTEXT, FAMILIES, HIDDEN, LAYERS, make_model

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Architecture:
    """``make``: a configuration. ``pruned``: matches the names, in files, of the tensors that lose weights.

    ``transposed``: matches those whose matrices are [inputs, outputs] there. ``options``: of a recipe, without which it
    is refused. ``since``: the transformers that can be followed there, by its first number.
    """

    make: Callable[[], Any]
    pruned: str
    transposed: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    since: int = 4


_ATTENTION = r"self_attn\.[qkvo]_proj"
_GATED = r"mlp\.(gate|up|down)_proj"
_SIZES = {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
_GROUPED = _SIZES | {"intermediate_size": 48, "num_key_value_heads": 2}
_COMMON = {"vocab_size": 258, "max_position_embeddings": CONTEXT, "tie_word_embeddings": False}
_TOKENS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None}
_LANGUAGE = _COMMON | _TOKENS | _GROUPED
_VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 8,
}
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 40}


def _config(name: str, **options: Any) -> Callable[[], Any]:
    def make() -> Any:
        import transformers

        return getattr(transformers, name)(**(_COMMON | _TOKENS | options))

    return make


def _llava() -> Any:
    import transformers

    text, vision = transformers.LlamaConfig(**_LANGUAGE), transformers.CLIPVisionConfig(**_VISION)
    return transformers.LlavaConfig(text_config=text, vision_config=vision, image_token_index=257)


def _gemma3_vision() -> Any:
    import transformers

    text = _LANGUAGE | {"head_dim": 12, "sliding_window": 6}
    tokens = {"image_token_index": 257, "boi_token_index": 255, "eoi_token_index": 256, "mm_tokens_per_image": 4}
    return transformers.Gemma3Config(text_config=text, vision_config=_VISION, tie_word_embeddings=False, **tokens)


def _family(name: str) -> Architecture:
    last = "|".join(linear.replace(".", r"\.") for linear in FAMILIES[name].linears)
    return Architecture(lambda: make_model(name).config, rf"({last})\.weight")


_ALL = {name: _family(name) for name in FAMILIES} | {
    "qwen3": Architecture(_config("Qwen3Config", head_dim=8, **_GROUPED), rf"({_ATTENTION}|{_GATED})\.weight"),
    "gemma2": Architecture(
        _config("Gemma2Config", head_dim=12, sliding_window=6, **_GROUPED), rf"({_ATTENTION}|{_GATED})\.weight"
    ),
    "gemma3": Architecture(
        _config("Gemma3TextConfig", head_dim=12, sliding_window=6, **_GROUPED), rf"({_ATTENTION}|{_GATED})\.weight"
    ),
    "phi3": Architecture(
        _config("Phi3Config", **_GROUPED), r"(self_attn\.(qkv|o)_proj|mlp\.(gate_up|down)_proj)\.weight"
    ),
    "falcon": Architecture(
        _config("FalconConfig", num_kv_heads=2, new_decoder_architecture=True, **_SIZES),
        r"(self_attention\.(query_key_value|dense)|mlp\.dense_(h_to_4h|4h_to_h))\.weight",
    ),
    "gpt2": Architecture(
        _config("GPT2Config", n_embd=HIDDEN, n_layer=LAYERS, n_head=4, n_positions=CONTEXT),
        r"(attn\.c_(attn|proj)|mlp\.c_(fc|proj))\.weight",
        transposed=r"c_(attn|proj|fc)\.weight",
    ),
    "mixtral": Architecture(
        _config("MixtralConfig", num_local_experts=4, **_GROUPED),
        rf"({_ATTENTION}|block_sparse_moe\.experts\.\d+\.w[123])\.weight",
    ),
    "qwen2-moe": Architecture(
        _config("Qwen2MoeConfig", num_experts=4, shared_expert_intermediate_size=56, **_GROUPED, **_EXPERTS),
        rf"({_ATTENTION}|mlp\.experts\.\d+\.(gate|up|down)_proj|mlp\.shared_expert\.(gate|up|down)_proj)\.weight",
    ),
    "qwen3-moe": Architecture(
        _config("Qwen3MoeConfig", num_experts=4, head_dim=8, **_GROUPED, **_EXPERTS),
        rf"({_ATTENTION}|mlp\.experts\.\d+\.(gate|up|down)_proj)\.weight",
    ),
    "gpt-oss": Architecture(
        _config(
            "GptOssConfig",
            num_local_experts=4,
            num_experts_per_tok=2,
            head_dim=8,
            rope_scaling=None,
            **_GROUPED,
        ),
        rf"({_ATTENTION}\.weight|mlp\.experts\.(gate_up|down)_proj)",
        transposed=r"experts\.(gate_up|down)_proj",
        # The biases of experts are matrices, and not small in a tiny model.
        options={"allow_uncovered": True},
        since=5,
    ),
    "deepseek-v3": Architecture(
        _config(
            "DeepseekV3Config",
            n_routed_experts=4,
            n_group=1,
            topk_group=1,
            first_k_dense_replace=1,
            q_lora_rank=16,
            kv_lora_rank=16,
            qk_rope_head_dim=8,
            qk_nope_head_dim=8,
            v_head_dim=8,
            **_GROUPED | {"num_key_value_heads": 4},
            **_EXPERTS,
        ),
        r"(self_attn\.(q_a|q_b|kv_a|kv_b|o)_proj(_with_mqa)?|mlp\.((shared_)?experts\.(\d+\.)?)?(gate|up|down)_proj)\.weight",
    ),
    "mamba": Architecture(
        _config("MambaConfig", hidden_size=HIDDEN, num_hidden_layers=LAYERS, state_size=2),
        r"mixer\.(in|x|dt|out)_proj\.weight",
        options={"allow_uncovered": True},
    ),
    "jamba": Architecture(
        _config(
            "JambaConfig",
            num_experts=4,
            mamba_d_state=2,
            mamba_dt_rank=4,
            attn_layer_period=2,
            attn_layer_offset=1,
            expert_layer_period=2,
            expert_layer_offset=1,
            use_mamba_kernels=False,
            **_GROUPED,
        ),
        rf"(mamba\.(in|x|dt|out)_proj|{_ATTENTION}|feed_forward\.(experts\.\d+\.)?(gate|up|down)_proj)\.weight",
        options={"allow_uncovered": True},
    ),
    "llava": Architecture(_llava, rf"language_model.*\.({_ATTENTION}|{_GATED})\.weight"),
    "gemma3-vision": Architecture(_gemma3_vision, rf"language_model.*\.({_ATTENTION}|{_GATED})\.weight"),
}


_VERSION = int(metadata.version("transformers").partition(".")[0])
ARCHITECTURES = {name: architecture for name, architecture in _ALL.items() if architecture.since <= _VERSION}


def make_architecture(name: str, *, seed: int = 0) -> Any:
    """A random model in which nothing is left at zero or one."""
    from trim_prune.models.load import auto_class

    config = ARCHITECTURES[name].make()
    torch.manual_seed(seed)
    model = auto_class(config).from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()
