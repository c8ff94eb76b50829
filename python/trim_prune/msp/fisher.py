"""How strongly the loss answers to the weights of each linear: the trace of the empirical Fisher information.

Memory: that of a backward pass, and the gradient of one weight matrix.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..backward import backward, without_gradients
from ..errors import NOT_FINITE_FIX, TrimPruneError
from ..models.capture import Capture
from ..models.device import evaluation_mode
from ..models.discover import Linear
from ..tiles import row_tiles


@dataclass(frozen=True)
class FisherSums:
    """Sums over the first ``sequences`` calibration sequences; divided by their number they are means.

    ``trace``: per linear, in the order of the blocks and of the linears in them, sum over sequences k and weights i of
    g_ki^2. ``weighted``: likewise, sum of (g_ki w_i)^2.
    """

    sequences: int
    trace: list[float]
    weighted: list[float]


def fisher_sums(
    capture: Capture,
    token_ids: Tensor,
    device: torch.device,
    *,
    done: FisherSums | None = None,
    on_sequence: Callable[[FisherSums], None] | None = None,
) -> FisherSums:
    """Sum the squared gradients of every linear of the captured blocks.

    g_k is the gradient of the mean next-token cross-entropy of sequence k alone: squaring the gradient of a batch's
    mean gives something else, smaller by about the batch size. tr F = trace / sequences, the sensitivity of "Towards
    Extreme Pruning of LLMs with Plug-and-Play Mixed Sparsity" (arXiv 2503.11164). The variant weighted by w^2 is ours:
    half of it is what pruning these weights costs to second order. Gradients have the dtype of their weights, squares
    are float32, summed in float32 by tiles of about a million and from there on in float64. A linear that no token
    reaches counts zero.

    Args:
        capture: of the model; its weights, gradients and requires_grad are afterwards as they were.
        token_ids: int64 [sequences, tokens], at least 2 tokens.
        device: where each block computes; a block lies there for the time of its turn only.
        done: the sums over the first sequences, from which to go on; the result is the same to the bit.
        on_sequence: called with the sums so far after every sequence.

    Raises:
        TrimPruneError: nothing to predict; sums of another model or of more sequences; NaN or infinity in a gradient.
    """
    linears = [linear for block in capture.blocks for linear in block.linears]
    sums = FisherSums(0, [0.0] * len(linears), [0.0] * len(linears)) if done is None else done
    _check(sums, linears, token_ids)
    with evaluation_mode(capture.model), without_gradients(capture.model):
        for sequence in token_ids[sums.sequences :]:
            squares = _squares(capture, sequence[None], device)
            found = [squares.get(linear, (0.0, 0.0)) for linear in linears]
            sums = FisherSums(
                sums.sequences + 1,
                [total + plain for total, (plain, _) in zip(sums.trace, found, strict=True)],
                [total + weighted for total, (_, weighted) in zip(sums.weighted, found, strict=True)],
            )
            if on_sequence is not None:
                on_sequence(sums)
    return sums


def _check(sums: FisherSums, linears: Sequence[Linear], token_ids: Tensor) -> None:
    if sums.sequences > len(token_ids) or not len(sums.trace) == len(sums.weighted) == len(linears):
        raise TrimPruneError(
            "the Fisher sums to go on from belong to another run",
            expected=f"{len(linears)} linears, at most {len(token_ids)} sequences",
            got=f"{len(sums.trace)} linears, {sums.sequences} sequences",
            fix="start anew",
        )


def _squares(capture: Capture, token_ids: Tensor, device: torch.device) -> dict[Linear, tuple[float, float]]:
    """Sum of g^2 and of (g w)^2 per linear for one sequence [1, tokens], without the linears that it does not reach."""
    squares = dict[Linear, tuple[float, float]]()
    backward(capture, token_ids, device, lambda linears: _squaring(linears, squares))
    scale = (token_ids.shape[1] - 1) ** -2
    return {linear: (plain * scale, weighted * scale) for linear, (plain, weighted) in squares.items()}


@contextmanager
def _squaring(linears: Sequence[Linear], squares: dict[Linear, tuple[float, float]]) -> Iterator[None]:
    """A backward pass inside this context puts the sums of every linear into ``squares``, and keeps no gradient."""

    def hook(held: Sequence[Linear]) -> Callable[[Tensor], None]:
        def square(parameter: Tensor) -> None:
            assert parameter.grad is not None
            for linear in held:
                squares[linear] = _square_sums(linear.of(parameter.grad), linear.weight)
                if not all(map(math.isfinite, squares[linear])):
                    raise TrimPruneError(
                        "NaN or infinity in the gradient of a linear",
                        where=f"block {linear.block}, {linear.name}",
                        fix=NOT_FINITE_FIX,
                    )
            parameter.grad = None

        return square

    held: dict[nn.Parameter, list[Linear]] = {}
    for linear in linears:
        linear.whole.requires_grad_()
        held.setdefault(linear.whole, []).append(linear)
    handles = [
        parameter.register_post_accumulate_grad_hook(hook(inside))  # type: ignore[no-untyped-call]
        for parameter, inside in held.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter in held:
            parameter.requires_grad_(False).grad = None


def _square_sums(gradient: Tensor, weight: Tensor) -> tuple[float, float]:
    sums = torch.zeros(2, dtype=torch.float64, device=gradient.device)
    for rows in row_tiles(gradient):
        tile = gradient[rows].float()
        sums[0] += tile.square().sum()
        sums[1] += (tile * weight[rows]).square_().sum()
    plain, weighted = sums.tolist()
    return plain, weighted
