"""How strongly the loss answers to an error of each output of each linear."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial

import torch
from torch import Tensor

from .backward import backward, without_gradients
from .errors import NOT_FINITE_FIX, TrimPruneError
from .models.capture import Capture
from .models.device import evaluation_mode
from .models.discover import Linear
from .models.watch import watched
from .team import ALONE, OrderedSum, Team


def output_gradients(
    capture: Capture,
    token_ids: Tensor,
    device: torch.device,
    *,
    on_sequence: Callable[[int], None] | None = None,
    team: Team = ALONE,
) -> dict[Linear, Tensor]:
    """The mean squared gradient of the loss with respect to each output of every linear of the captured blocks.

    float32 [R] per linear: the mean over all tokens t of g_ti^2, with g_ti the gradient of the next-token
    cross-entropy, summed over a sequence, with respect to output i at token t. An error e of that output costs about
    e^2 g_ti^2 / 2 where squared gradients stand for the curvature (empirical Fisher information). A linear that no
    token reaches has zeros. Gradients have the dtype of the model, squares are float32, summed in float64.

    Args:
        capture: of the model, whose weights, gradients and requires_grad are afterwards as they were.
        token_ids: int64 [sequences, tokens], at least one sequence of at least 2 tokens.
        device: where each block computes.
        on_sequence: called with the number of sequences so far after each of them.
        team: the ranks among which the sequences are divided.

    Raises:
        TrimPruneError: nothing to predict; NaN or infinity in a gradient.
    """
    linears = [linear for block in capture.blocks for linear in block.linears]
    rows = [linear.shape[0] for linear in linears]
    sums, number = OrderedSum(), 0
    with evaluation_mode(capture.model), without_gradients(capture.model):
        for group, sequences in team.groups(len(token_ids)):
            part = sums.part(group, lambda: torch.zeros(sum(rows), dtype=torch.float64))
            watch = partial(_squaring, sums=dict(zip(linears, torch.split(part, rows), strict=True)))
            for index in sequences:
                backward(capture, token_ids[index : index + 1], device, watch)
                number += 1
                if on_sequence is not None:
                    on_sequence(number)
    sums.settle()
    nodes = team.exchange(list(sums.nodes))
    total = team.total(sums, nodes, [sum(rows)], torch.float64, torch.device("cpu")).total()
    assert total is not None
    found = dict(zip(linears, torch.split(total, rows), strict=True))
    for linear, squares in found.items():
        if not torch.isfinite(squares).all():
            raise TrimPruneError(
                "NaN or infinity in the gradient of the outputs of a linear",
                where=f"block {linear.block}, {linear.name}",
                fix=NOT_FINITE_FIX,
            )
    return {linear: (squares / token_ids.numel()).float() for linear, squares in found.items()}


def _squaring(linears: Sequence[Linear], sums: Mapping[Linear, Tensor]) -> AbstractContextManager[None]:
    """A forward and a backward pass inside this context add the squared gradients of all outputs to ``sums``."""

    def watch(linear: Linear, _: Tensor, output: Tensor) -> None:
        def square(gradient: Tensor) -> None:
            squares = gradient.detach().float().square().flatten(0, -2).sum(dim=0, dtype=torch.float64)
            sums[linear].add_(squares.cpu())

        if output.requires_grad:
            output.register_hook(square)  # type: ignore[no-untyped-call]

    return watched(linears, watch)
