"""A recipe, and what its result is good for, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SCORES = {
    "magnitude": "its magnitude",
    "wanda": "its magnitude times the norm of its input (Wanda)",
    "ria": "its magnitude relative to its row and its column, times a power of the norm of its input (RIA)",
    "obs": "the error that is left when later columns make up for it (optimal brain surgeon)",
}
LAYERS = {
    "uniform": "Every linear loses the same share",
    "owl": "Blocks with more outlying scores keep more (OWL)",
    "alphapruning": "Blocks whose spectra have heavier tails keep more (AlphaPruning)",
    "dlp": "Blocks with a larger median score keep more, relative to the others (DLP)",
    "msp": "Fisher information and an evolutionary search divide the weights among the blocks (MSP)",
    "optimal": "One price for output error, in the whole model, divides the weights among the linears",
    "table": "A table of module names says what each linear loses",
}
ROWS = {
    "uniform": "every row of a linear loses the same number",
    "trim": "rows get counts of their own by a search on the quality of the output (TRIM)",
    "optimal": "rows get the counts of least output error",
    "whole": "the rows of a linear compete, by score",
}
SOLVERS = {
    "mask": "Weights that stay are not changed",
    "sparsegpt": "Weights that stay make up for those that go (SparseGPT)",
    "swaps": "Kept and pruned weights are exchanged while that lowers the output error",
    "alps": "Mask and weights are found together by ADMM (ALPS)",
}


def recipe_words(facts: Mapping[str, Any]) -> list[str]:
    """What a run did, a sentence each."""
    recipe = facts["recipe"]
    sentences = [f"{recipe['sparsity']:.2%} of the weights of all linears in the blocks go."]
    if recipe["pattern"] is not None:
        sentences.append(_pattern(recipe["pattern"]))
    score = SCORES.get(recipe["score"], f"the score {recipe['score']}")
    sentences.append(f"A weight counts by {score}{method_options(recipe, 'score')}; the smallest go first.")
    layers = LAYERS.get(recipe["layers"], f"The layer budget {recipe['layers']} divides the weights among the linears")
    rows = ROWS.get(recipe["rows"], f"the row budget {recipe['rows']} divides them among its rows")
    options = "" if recipe["rows"] == recipe["layers"] else method_options(recipe, "rows")
    sentences.append(f"{layers}{method_options(recipe, 'layers')}; {rows}{options}.")
    solver = SOLVERS.get(recipe["solver"], f"The solver {recipe['solver']} finds what stays")
    sentences.append(f"{solver}{method_options(recipe, 'solver')}.")
    if recipe["permute"]:
        sentences.append("Columns were reordered first, where the model stays the same function.")
    if recipe["correction"]:
        sentences.append(
            f"Before it is pruned, a linear makes up for {recipe['correction']:.0%} of what earlier blocks changed."
        )
    if recipe["recapture"]:
        sentences.append("Later linears of a block were measured after its earlier ones were pruned.")
    sentences.append(calibration_words(facts["calibration"], recipe))
    return sentences


def _pattern(pattern: str) -> str:
    if pattern.startswith("keep"):
        return f"Every row keeps the pattern “{pattern}” consecutive columns."
    return f"Every row is cut into groups {pattern} consecutive columns, of which a linear keeps the same number."


def method_options(recipe: Mapping[str, Any], choice: str) -> str:
    """The options of a method that is chosen, where it has any."""
    options = recipe.get(recipe[choice])
    if not isinstance(options, Mapping):
        return ""
    shown = {name: value for name, value in options.items() if isinstance(value, (bool, int, float, str))}
    return f", with {', '.join(f'{name} {value}' for name, value in shown.items())}" if shown else ""


def calibration_words(calibration: Mapping[str, Any] | None, recipe: Mapping[str, Any]) -> str:
    """What was measured on which text."""
    if calibration is None:
        return "No calibration text was needed."
    sequences, seqlen = calibration["sequences"], calibration["seqlen"]
    return (
        f"Calibrated on {sequences} x {seqlen} = {sequences * seqlen} tokens of {calibration['text']}, "
        f"seed {recipe['seed']}."
    )


def honest_words(facts: Mapping[str, Any], sizes: Mapping[str, int]) -> list[tuple[str, str]]:
    """What the zeros gain and what they do not, as pairs of heading and text."""
    sparsity, pattern = facts["sparsity"], facts["recipe"]["pattern"]
    left = sparsity["all_parameters"] - sparsity["prunable_weights"]
    return [
        ("Size on disk", _on_disk(sizes)),
        ("What runs faster, and where", f"{_faster(pattern)} {_measured(facts)}"),
        (
            "What does not",
            "Speed and memory in a dense runtime (transformers, vLLM, llama.cpp): it multiplies zeros as it does other "
            f"numbers. Embeddings, norms and output head were not pruned: {left / sparsity['all_parameters']:.0%} of "
            "all parameters.",
        ),
    ]


def _on_disk(sizes: Mapping[str, int]) -> str:
    if "masks" not in sizes:
        return packed_words(sizes)
    share = f"{sizes['packed'] / sizes['weights']:.0%}"
    return (
        f"{size(sizes['weights'])}, as much as the dense model in the same type: zeros are stored like any other "
        f"value. The masks take {size(sizes['masks'])} more. Stored as one bit a weight and the values that stay, "
        f"the model would take {size(sizes['packed'])} ({share}; computed, not measured)."
    )


def packed_words(sizes: Mapping[str, int]) -> str:
    """What a packed folder takes."""
    return (
        f"{size(sizes['packed'])}: of pruned tensors, the values that stay and where they are. As an ordinary model "
        f"folder (trim-prune unpack) it takes {size(sizes['weights'])}, computed, as much as the dense model."
    )


def _faster(pattern: str | None) -> str:
    if pattern == "keep 2 of 4":
        return (
            "NVIDIA GPUs since Ampere have sparse tensor cores for this pattern, in 16 and 8 bits. They need the "
            "weights in a compressed form (torch.sparse.to_sparse_semi_structured, TensorRT), and gain with large "
            "batches rather than one sequence at a time."
        )
    kind = "zeros anywhere" if pattern is None else f"the pattern “{pattern}”"
    return (
        f"Nothing by itself: the units that processors have for sparse weights do not take {kind}. A gain needs a "
        "runtime with kernels of its own for them."
    )


def _measured(facts: Mapping[str, Any]) -> str:
    measured = any(evaluation["kind"] == "speed" for evaluation in facts.get("evaluations", []))
    return (
        "What was measured stands under Evaluation." if measured else "Not measured yet (trim-prune evaluate --speed)."
    )


def size(count: float) -> str:
    """Bytes for people: three figures in the unit that suits."""
    units = ["bytes", "KiB", "MiB", "GiB", "TiB"]
    place = 0
    while abs(count) >= 999.5 and place + 1 < len(units):
        count, place = count / 1024, place + 1
    return f"{count:.0f} {units[place]}" if place == 0 else f"{count:#.3g} {units[place]}".replace(". ", " ")


def peak(memory: Mapping[str, int]) -> str:
    """The peak of the process; earlier versions did not note it."""
    return size(memory["process"]) if "process" in memory else "—"


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
