"""A structured recipe, and what its result is good for, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..structured.modes import MEANING
from .words import calibration_words, method_options, packed_words, size

LAYERS = {
    "cosine": "Blocks lose the more, the more alike their input and output are (cosine)",
    "uniform": "Every block loses the same share",
    "table": "A table of block names says what each block loses",
}
HEADS = {
    "pearson": "KV groups, each a key and value head with its query heads, go while the output of those that stay "
    "is the most similar to the whole (Pearson)",
    "obs": "KV groups, each a key and value head with its query heads, go by the least error of the attention's output "
    "once the others make up for them (optimal brain surgeon)",
    "wanda": "KV groups, each a key and value head with its query heads, go by the sum of Wanda's scores",
    "magnitude": "KV groups, each a key and value head with its query heads, go by the norm of their weights",
    "none": "All KV groups stay",
}
CHANNELS = {
    "feature": "channels go by their importance in the feature space of the output",
    "obs": "channels go by the error that is left when the others make up for them (optimal brain surgeon)",
    "wanda": "channels go by the sum of Wanda's scores",
    "magnitude": "channels go by the norm of their weights",
}
REPAIRS = {
    "full": "The linear at the end of each part is fitted anew to what the part put out whole (least squares)",
    "affine": "Each output of a part is brought back by a slope and an intercept",
    "none": "Nothing makes up for what went",
}


def structured_words(facts: Mapping[str, Any]) -> list[str]:
    """What a run did, a sentence each."""
    recipe = facts["recipe"]
    return [
        f"{_asked(recipe, facts['parameters']['dense'])}.",
        f"{LAYERS[recipe['layers']]}{method_options(recipe, 'layers')}.",
        f"{HEADS[recipe['heads']]}{method_options(recipe, 'heads')}; {CHANNELS[recipe['channels']]}"
        f"{method_options(recipe, 'channels')}.",
        f"{REPAIRS[recipe['repair']]}{method_options(recipe, 'repair')}.",
        f"Mode {recipe['mode']}: {MEANING[recipe['mode']]}.",
        calibration_words(facts["calibration"], recipe),
    ]


def structured_title(facts: Mapping[str, Any]) -> str:
    """What the model is now, in a few words."""
    if facts["recipe"]["mode"] == "masked":
        return "heads and channels at zero"
    return f"{facts['parameters']['share']:.2%} of its parameters"


def _asked(recipe: Mapping[str, Any], parameters: int) -> str:
    if recipe["params"] is not None:
        return f"{recipe['params']:.2%} of {parameters} parameters were asked to stay"
    if recipe["ratio"] is not None:
        return f"{recipe['ratio']:.2%} of {parameters} parameters were asked to go"
    sizes = recipe["sizes"] or {}
    return f"Every block keeps {sizes.get('kv_groups')} KV groups and {sizes.get('channels')} channels"


def structured_honest(facts: Mapping[str, Any], sizes: Mapping[str, int]) -> list[tuple[str, str]]:
    """What a smaller model gains and what it does not, as pairs of heading and text."""
    mode, parameters, speed = facts["recipe"]["mode"], facts["parameters"], facts["speed"]
    dense = sizes["weights"] * parameters["dense"] / parameters["pruned"]
    measured = (
        f"Decoding one sequence on {speed['device']}: {speed['dense']:.2f} tokens per second dense, "
        f"{speed['pruned']:.2f} pruned ({speed['pruned'] / speed['dense']:.2f} times)."
    )
    if mode == "masked":
        on_disk = f"{size(sizes['weights'])}, as much as the dense model: what went is stored as zeros."
        return [
            ("Size on disk", packed_words(sizes) if "packed" in sizes else on_disk),
            ("What runs faster, and where", f"Nothing: all shapes are as they were. {measured}"),
            ("What does not", "Choose mode ragged or uniform for a model that is smaller and faster."),
        ]
    return [
        (
            "Size on disk",
            f"{size(sizes.get('packed', sizes['weights']))} for {parameters['pruned']} parameters; the dense model, "
            f"with {parameters['dense']}, takes {size(dense)} in the same type (computed).",
        ),
        (
            "What runs faster, and where",
            f"Every linear that lost something, on any device: matrices are smaller, and need no kernels of their own. "
            f"{measured}",
        ),
        (
            "What does not",
            {
                "ragged": "Runtimes that want one size for all blocks (AutoModelForCausalLM, vLLM, llama.cpp) cannot "
                "load it: trim_prune.load and the commands of trim-prune can. Embeddings and output head are whole.",
                "uniform": "Embeddings and output head are whole, and take as long as before.",
            }[mode],
        ),
    ]
