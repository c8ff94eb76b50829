"""Peak memory of a prune of single weights: what lies where, at each moment that may be the highest.

One function for each part; ``moments`` says which of them are there together. All are bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..activations import Where
from ..budgets.layers import LAYER_BUDGETS
from ..digest import WORDS
from ..models.discover import Linear
from ..output_error import error_inputs
from ..team.groups import groups_of
from . import workspaces
from .subject import Subject, block_bytes
from .workspaces import FLOAT, Matrix

Place = Literal["gpu", "host"]
BUFFERS = 3 * 8 * WORDS
"""What a checksum takes: some words, their numbers, and the product of both."""


@dataclass(frozen=True)
class Moment:
    """What lies in one place at one moment, by name."""

    name: str
    place: Place
    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        """Of all parts."""
        return sum(self.parts.values())


def peak(subject: Subject, batch: int, where: Where, place: Place) -> Moment:
    """The highest moment of a place; ``batch``: sequences at once, ``where``: the hidden states wait."""
    return max((m for m in moments(subject, batch, where) if m.place == place), key=lambda moment: moment.total)


def moments(subject: Subject, batch: int, where: Where) -> list[Moment]:
    """What is where, in each phase of the run."""
    # A block is written while the next one is measured, or pruned at once where nothing is measured.
    before, measured = last_block(subject), subject.sequences > 0 and bool(subject.recipe.needs)
    phases: dict[str, tuple[dict[str, int], dict[str, int]]] = {
        "check": ({}, {"being checked": checking(subject)}),
        "prune": (
            {
                "statistics": collected(subject),
                "factors": factors(subject),
                "one linear": one_linear(subject),
                **both_models(subject, batch),
            },
            {} if measured else before,
        ),
    }
    if subject.sequences:
        phases["propagate"] = ({"forward": subject.workspace.of(batch)}, {})
    if measured:
        forward = {"statistics": collected(subject), "forward": subject.workspace.of(batch)}
        phases["measure"] = (forward | both_models(subject, batch), before)
        # The block before is written by then, if disks are not slower than forwards.
        phases["last group"] = ({"sums of groups": unsettled(subject), **phases["measure"][0]}, {})
    if subject.recipe.gradient_sequences:
        phases["gradients"] = ({"backward": gradients(subject)}, {})
    if LAYER_BUDGETS.get(subject.recipe.layers).needs_text:
        phases["layer budget"] = ({"statistics": of_all_blocks(subject), "forward": subject.workspace.of(batch)}, {})
    found = []
    for name, (computing, beside) in phases.items():
        working = name != "check"
        on_device = {"block": one_block(subject), **computing} if working else {}
        host = {"embeddings and head": subject.bytes_outside, **blocks_in_memory(subject), **beside}
        waiting = {"hidden states": hidden_states(subject, name)} if working else {}
        if name == "gradients" and subject.device.type == "cuda":
            on_device["embeddings and head"] = subject.bytes_outside
        if subject.device.type == "cuda":
            on_device |= waiting if where == "device" else travelling(subject, batch) if working else {}
            found.append(Moment(name, "gpu", on_device))
        else:
            # A model that is held has its block among the others.
            host |= on_device if subject.streamed else {n: size for n, size in on_device.items() if n != "block"}
        host |= waiting if where == "memory" else {}
        found.append(Moment(name, "host", {part: size for part, size in host.items() if size}))
    return found


def one_block(subject: Subject) -> int:
    """The largest block, as it is computed."""
    return max(block_bytes(block) for block in subject.blocks)


def blocks_in_memory(subject: Subject) -> dict[str, int]:
    """The blocks beside the one that is computed: all of a model that is held; else one that is read ahead."""
    if not subject.streamed:
        return {"all blocks": subject.bytes_of_blocks}
    return {"block read ahead": one_block(subject) * (len(subject.blocks) > 1)}


def last_block(subject: Subject) -> dict[str, int]:
    """The block before, which is being written: its weights, which are the model's own where that is held; the rest."""
    if len(subject.blocks) == 1 or not subject.written:
        return {}
    return {"block to be written": one_block(subject) * subject.streamed, "being written": writing(subject)}


def checking(subject: Subject) -> int:
    """The block that is read to be checked, and of its largest matrix the magnitudes and two comparisons."""
    largest = max(linear.size for linear in subject.linears)
    return one_block(subject) * subject.streamed + largest * (subject.element + 2)


def hidden_states(subject: Subject, phase: str = "measure") -> int:
    """The hidden states of all sequences: [sequences, tokens, hidden] values.

    Three times with ``correction``: those of the pruned model, and of the dense one before and after the block. Twice
    for a layer budget that walks the model while those of the first block wait.
    """
    one = subject.sequences * subject.tokens * subject.hidden_size * subject.element
    if phase == "layer budget":
        return 2 * one
    return one * (3 if subject.recipe.correction else 1)


def travelling(subject: Subject, batch: int) -> dict[str, int]:
    """Hidden states of a batch that come to the device, and of one that leave it, while a third is worked on."""
    return {"on their way": 2 * batch * subject.tokens * subject.hidden_size * subject.element}


def both_models(subject: Subject, batch: int) -> dict[str, int]:
    """With ``correction``, the block as it is in the dense model, and the inputs of its linears for one batch."""
    if not subject.recipe.correction:
        return {}
    columns = max(sum(group[0].shape[1] for group in groups) for groups in subject.groups.values())
    return {
        "dense block": one_block(subject),
        "dense inputs": batch * subject.tokens * columns * subject.element,
    }


def collected(subject: Subject) -> int:
    """What is collected at the inputs of the linears of a block; see ``calibration.statistics``.

    Of each input [tokens, C]: ``column_energy`` 8 C; ``gram`` 4 C^2; ``drift`` 4 C^2; ``search_inputs``: C values for
    each vector.
    """
    return _of_block(subject, subject.recipe.needs)


def unsettled(subject: Subject) -> int:
    """The sums of groups of sequences that wait for others while a block is measured; see ``team.sums``."""
    return _waiting(subject) * _of_block(subject, subject.recipe.needs - {"search_inputs"})


def _waiting(subject: Subject) -> int:
    """How many sums there are at most beside that of the group at hand."""
    return max((group.bit_count() for group in range(len(groups_of(subject.sequences)))), default=0)


def factors(subject: Subject) -> int:
    """The factors of the inverse Gram matrices of a block, 4 C^2 each, where a method takes them."""
    if not factored(subject):
        return 0
    return max(sum(FLOAT * group[0].shape[1] ** 2 for group in groups) for groups in subject.groups.values())


def _of_block(subject: Subject, needs: frozenset[str]) -> int:
    return max(sum(_of_input(subject, group[0], needs) for group in groups) for groups in subject.groups.values())


def of_all_blocks(subject: Subject) -> int:
    """What a layer budget holds: its statistics of every block; of each block alone where it walks by itself."""
    needs = LAYER_BUDGETS.get(subject.recipe.layers).needs
    if "output_gradient" in needs:
        return (1 + _waiting(subject)) * _of_block(subject, frozenset({"gram"}))
    ranks = sum(linear.size for linear in subject.linears) if subject.recipe.layers == "msp" else 0
    counts = subject.kind_counts
    return ranks + sum(
        counts[block] * _of_input(subject, group[0], needs)
        for block, groups in subject.groups.items()
        for group in groups
    )


def factored(subject: Subject) -> bool:
    """Whether a method takes the factor of an inverse Gram matrix."""
    recipe = subject.recipe
    return recipe.score == "obs" or recipe.solver in ("sparsegpt", "alps") or bool(recipe.correction)


def _of_input(subject: Subject, linear: Linear, needs: frozenset[str]) -> int:
    columns = linear.shape[1]
    return (
        8 * columns * ("column_energy" in needs)
        + FLOAT * columns**2 * (("gram" in needs) + ("drift" in needs))
        + columns * vectors(subject) * subject.element * ("search_inputs" in needs)
    )


def vectors(subject: Subject) -> int:
    """How many input vectors a row search sees."""
    return subject.sequences * min(subject.recipe.tokens_per_sequence, subject.tokens)


def one_linear(subject: Subject) -> int:
    """The most that one linear takes: its weight once more where errors are measured, and what its methods take."""
    recipe, needs = subject.recipe, subject.recipe.needs
    score = workspaces.SCORE.get(recipe.score, workspaces.two_copies)
    rows = workspaces.ROWS.get(recipe.rows, workspaces.two_copies)
    solver = workspaces.SOLVER.get(recipe.solver, workspaces.two_copies)
    found = []
    for linear in {linear.shape: linear for linear in subject.linears}.values():
        matrix = Matrix(*linear.shape, subject.element, vectors(subject), subject.device)
        dense = matrix.size * matrix.element * (error_inputs(needs) is not None)
        factor = workspaces.factor(matrix.columns) * factored(subject)
        searched = matrix.columns * matrix.vectors * matrix.element * ("search_inputs" in needs)
        steps = (
            workspaces.corrected(matrix) if recipe.correction else 0,
            score(matrix) + max(factor, searched + rows(matrix)),
            score(matrix) + max(factor, solver(matrix) + workspaces.check(matrix)),
            workspaces.measure(matrix) + searched if dense else 0,
        )
        found.append(dense + max(steps))
    return max(found)


def writing(subject: Subject) -> int:
    """Of the largest matrix of a block: its stored and its merged values and three comparisons; and a checksum."""
    stored = subject.element if subject.stored is None else subject.stored
    largest = max(linear.whole.numel() for linear in subject.linears)
    return largest * (2 * stored + 3) + min(BUFFERS, 3 * largest * stored)


def gradients(subject: Subject) -> int:
    """Of one sequence: hidden states between all blocks, twice what a block takes, the logits and their slopes."""
    hidden = len(subject.blocks) * subject.tokens * subject.hidden_size * subject.element
    vocabulary = max(parameter.shape[0] for parameter in subject.model.parameters())
    return hidden + 2 * subject.workspace.of(1) + 2 * subject.tokens * vocabulary * subject.element
