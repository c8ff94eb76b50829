"""How long a prune of single weights takes, by phase: operations and bytes over the rates of the machine.

An order of size and no promise: a library reaches its rate for some shapes and not for others, and other work on the
machine counts too.
"""

from __future__ import annotations

from ..budgets.layers import LAYER_BUDGETS
from ..models.discover import Linear
from ..output_error import error_inputs
from ..solvers.alps import RHO_STEPS
from .memory import factored, hidden_states, vectors
from .rates import Rates
from .subject import Subject

SORT, SELECT = 48, 20
"""Bytes of memory traffic that take as long as sorting, or selecting from, one weight of a row."""
CANDIDATES = 4
"""Products with the search inputs that all steps of TRIM's search are worth: each moves a few weights only."""
ADMM_STEPS = 24
"""About so many steps the solver alps takes until its support stands still."""
PASSES = 3
"""How often an activation is written or read on its way, as a multiple of what is live at once."""


def seconds_by_phase(subject: Subject, rates: Rates, batch: int, read: int, written: int) -> dict[str, float]:
    """Seconds of each phase; ``read`` and ``written``: bytes of the weight files."""
    found = {
        "load": subject.bytes_outside / rates.disk_read,
        "check": read / rates.disk_read + subject.bytes_of_blocks / rates.memory,
        "search": search(subject, rates),
        "apply": apply(subject, rates),
        "measure": measure(subject, rates),
        "write": written * (1 / rates.disk_write + 1 / rates.disk_read),
    }
    if subject.sequences:
        found |= {
            "capture": hidden_states(subject) / rates.memory,
            "forward": forward(subject, rates, batch) * passes(subject),
            "statistics": statistics(subject, rates),
            "gradients": gradients(subject, rates),
        }
    return {name: value for name, value in found.items() if value > 0}


def passes(subject: Subject) -> float:
    """Forwards through all blocks: to collect and, but for the last block, to propagate; in both models if paired.

    A layer budget that sees the model at work walks it once more; the evolution of ``msp`` is not counted.
    """
    recipe, blocks = subject.recipe, len(subject.blocks)
    collect = 1 + (max(len(groups) for groups in subject.groups.values()) - 1) * recipe.recapture
    once = (collect * bool(recipe.needs) + (blocks - 1) / blocks) * (2 if recipe.correction else 1)
    return once + LAYER_BUDGETS.get(recipe.layers).needs_text


def forward(subject: Subject, rates: Rates, batch: int) -> float:
    """One forward of all sequences: its operations or, if that takes longer, weights and activations to be passed."""
    traffic = len(subject.blocks) * PASSES * subject.workspace.of(1) * subject.sequences
    weights = subject.bytes_of_blocks * -(-subject.sequences // batch)
    return max(operations(subject) / rates.product, (traffic + weights) / rates.memory)


def operations(subject: Subject) -> float:
    """Of one forward of all sequences through all blocks: 2 for each weight and token, and the causal attention's."""
    attention = 2 * subject.tokens * subject.hidden_size * len(subject.blocks)
    return subject.sequences * subject.tokens * (2 * _active(subject) + attention)


def gradients(subject: Subject, rates: Rates) -> float:
    """Two forwards and a backward, which is worth two more, of some sequences."""
    tokens = subject.recipe.gradient_sequences * subject.tokens
    return 4 * tokens * 2 * _active(subject) / rates.product


def statistics(subject: Subject, rates: Rates) -> float:
    """Of each input and token: C values are read for a norm; C^2 operations, half a product, make a Gram matrix."""
    needs, tokens = subject.recipe.needs, subject.sequences * subject.tokens
    columns = _inputs(subject)
    read = tokens * sum(size * count for size, count in columns) * subject.element / rates.memory
    grams = ("gram" in needs) + 2 * ("drift" in needs)
    return read * bool(needs) + grams * tokens * sum(s * s * n for s, n in columns) / rates.product_float32


def search(subject: Subject, rates: Rates) -> float:
    """The row budget: a sort of every row and some products with the search inputs (trim), or the error curves."""
    weights, recipe = sum(linear.size for linear in subject.linears), subject.recipe
    if recipe.rows == "trim":
        products = 2 * CANDIDATES * weights * vectors(subject) / rates.product_float32
        return weights * SORT / rates.memory + products
    if recipe.rows == "optimal":
        return sum(linear.size * linear.shape[1] for linear in subject.linears) / rates.product_float32
    return weights * SELECT / rates.memory if recipe.rows == "whole" else 0.0


def apply(subject: Subject, rates: Rates) -> float:
    """The solver: selections; where columns make up for others, a factor (C^3) and its use (R C^2) as well."""
    linears, steps = subject.linears, _steps(subject)
    factors = sum(size**3 * count for size, count in _inputs(subject)) if factored(subject) else 0
    factors += -(-steps // RHO_STEPS) * sum(linear.shape[1] ** 3 for linear in linears)
    updates = sum(linear.size * linear.shape[1] for linear in linears)
    of_alps = 2 * (steps + subject.recipe.alps.cg_steps)
    uses = {"mask": 0, "sparsegpt": 1, "swaps": 2, "alps": of_alps}.get(subject.recipe.solver, 2)
    select = (1 + steps) * SELECT * sum(linear.size for linear in linears) / rates.memory
    return select + (factors + uses * updates) / rates.product_float32


def measure(subject: Subject, rates: Rates) -> float:
    """Two products of each weight with what tells the error: the Gram matrix, or the search inputs."""
    inputs = error_inputs(subject.recipe.needs)
    if inputs is None:
        return 0.0

    def width(linear: Linear) -> int:
        return linear.shape[1] if inputs == "gram" else vectors(subject)

    return sum(4 * linear.size * width(linear) for linear in subject.linears) / rates.product_float32


def _steps(subject: Subject) -> int:
    """Steps of ADMM; 0 where no support is searched for."""
    recipe = subject.recipe
    searched = recipe.solver == "alps" and recipe.alps.support == "rows"
    return min(recipe.alps.iterations, ADMM_STEPS) if searched else 0


def _active(subject: Subject) -> float:
    """Weights that a token meets: of experts, as many as the configuration sends it to."""
    config = getattr(subject.model, "config", None)
    text = config.get_text_config() if config is not None and hasattr(config, "get_text_config") else config
    taken, total = (getattr(text, name, None) for name in ("num_experts_per_tok", "num_local_experts"))
    total = total or getattr(text, "num_experts", None)
    share = taken / total if isinstance(taken, int) and isinstance(total, int) and total else 1.0
    return sum(linear.size * (share if linear.routed else 1.0) for linear in subject.linears)


def _inputs(subject: Subject) -> list[tuple[int, int]]:
    """The width of each distinct input of a block, and how many blocks have it."""
    counts = subject.kind_counts
    return [(group[0].shape[1], counts[block]) for block, groups in subject.groups.items() for group in groups]
