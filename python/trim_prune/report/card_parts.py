"""What a model card says of a run of either kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .run import Run
from .structured import KINDS, kept_of, totals
from .structured_page import check_words
from .structured_words import structured_honest, structured_title, structured_words
from .words import honest_words, recipe_words

SHARES = [
    ("the prunable weights (all linears in the blocks)", "of_prunable", "prunable_weights"),
    ("the parameters without embeddings and head", "of_non_embedding", "non_embedding_parameters"),
    ("all parameters", "of_all", "all_parameters"),
]


@dataclass(frozen=True)
class About:
    """``title``: after the name of the model. ``what``: it is the model with that. ``table``: in Markdown.

    ``files``: what lies beside the weights.
    """

    title: str
    what: str
    words: Sequence[str]
    table: Sequence[str]
    honest: Sequence[tuple[str, str]]
    tags: Sequence[str]
    files: str


def about(run: Run, derived: Mapping[str, Any]) -> About:
    """The parts of a card."""
    return _of_structured(run, derived) if run.structured else _of_weights(run, derived)


def _of_weights(run: Run, derived: Mapping[str, Any]) -> About:
    facts, sparsity = run.facts, run.facts["sparsity"]
    return About(
        title=f"{sparsity['of_prunable']:.2%} pruned",
        what=f"zeros in place of {sparsity['pruned']} of its weights",
        words=recipe_words(facts),
        table=[
            "| pruned share of | | weights |",
            "|---|---|---|",
            *(
                f"| {what} | {sparsity[key]:.6f} | {sparsity['pruned']} of {sparsity[whole]} |"
                for what, key, whole in SHARES
            ),
        ],
        honest=honest_words(facts, derived["bytes"]),
        tags=["sparse"],
        files="run.json has the recipe and the results of every linear, "
        + ("masks.safetensors" if "masks" in derived["bytes"] else "the packed files")
        + " which weights are zero.",
    )


def _of_structured(run: Run, derived: Mapping[str, Any]) -> About:
    facts, parameters = run.facts, run.facts["parameters"]
    masked, share = facts["recipe"]["mode"] == "masked", parameters["share"]
    rows = [f"| all parameters | {'—' if share is None else f'{share:.6f}'} | {kept_of(parameters)} |"]
    for kind, units in KINDS.items():
        kept, whole = totals(derived, kind)
        if whole:
            rows.append(f"| {units} of all blocks | {kept / whole:.6f} | {kept} of {whole} |")
    return About(
        title=structured_title(facts),
        what="whole heads and channels at zero" if masked else "fewer heads and channels",
        words=[*structured_words(facts), check_words(facts)],
        table=[f"| share that {'is not zero' if masked else 'stays'} of | | count |", "|---|---|---|", *rows],
        honest=structured_honest(facts, derived["bytes"]),
        tags=[],
        files="run.json has the recipe, and of every part of a block what stays and what its output lacks.",
    )
