"""How strongly the loss answers to an error of each output of each linear."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from .backward import backward, without_gradients
from .errors import NOT_FINITE_FIX, TrimPruneError
from .models.capture import Capture
from .models.device import evaluation_mode
from .models.discover import Linear
from .models.watch import watched


def output_gradients(
    capture: Capture,
    token_ids: Tensor,
    device: torch.device,
    *,
    on_sequence: Callable[[int], None] | None = None,
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

    Raises:
        TrimPruneError: nothing to predict; NaN or infinity in a gradient.
    """
    sums = {
        linear: torch.zeros(linear.shape[0], dtype=torch.float64)
        for block in capture.blocks
        for linear in block.linears
    }
    with evaluation_mode(capture.model), without_gradients(capture.model):
        for number, sequence in enumerate(token_ids, start=1):
            backward(capture, sequence[None], device, lambda linears: _squaring(linears, sums))
            if on_sequence is not None:
                on_sequence(number)
    for linear, total in sums.items():
        if not torch.isfinite(total).all():
            raise TrimPruneError(
                "NaN or infinity in the gradient of the outputs of a linear",
                where=f"block {linear.block}, {linear.name}",
                fix=NOT_FINITE_FIX,
            )
    return {linear: (total / token_ids.numel()).float() for linear, total in sums.items()}


def _squaring(linears: Sequence[Linear], sums: dict[Linear, Tensor]) -> AbstractContextManager[None]:
    """A forward and a backward pass inside this context add the squared gradients of all outputs to ``sums``."""

    def watch(linear: Linear, _: Tensor, output: Tensor) -> None:
        def square(gradient: Tensor) -> None:
            sums[linear] += gradient.detach().float().square().flatten(0, -2).sum(dim=0, dtype=torch.float64).cpu()

        if output.requires_grad:
            output.register_hook(square)  # type: ignore[no-untyped-call]

    return watched(linears, watch)
