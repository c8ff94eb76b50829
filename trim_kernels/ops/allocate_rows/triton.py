"""allocate_rows in Triton: all learning rates as chains of one batch, a round of which is captured as a CUDA graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trim_kernels import triton_common as common
from trim_kernels.ops.allocate_rows.batched import BATCHED_ROUNDINGS, Chains, replay
from trim_kernels.ops.allocate_rows.metrics import metric_refusal
from trim_kernels.ops.allocate_rows.rounding import ROUNDINGS
from trim_kernels.ops.row_order.triton import row_order
from trim_kernels.ops.row_quality.triton import Products, require_values

_BLOCK_ROWS = 128


def refusal(call: Mapping[str, Any]) -> str | None:
    return metric_refusal(call) or common.refusal(call)


def allocate_rows(
    weight: Tensor,
    inputs: Tensor,
    sparsity: float,
    column_scale: Tensor | None,
    score: Tensor | None,
    learning_rates: list[float],
    negative_learning_rates: list[float],
    iterations: int,
    max_sparsity: float,
    layer_metric: str,
    row_metric: str,
    rounding: str,
) -> tuple[Tensor, Tensor]:
    order = row_order(weight, column_scale, score, check_values=True)
    products = Products.of(weight, inputs, column_scale, score)
    require_values(products)

    def statistics(prune_count: Tensor) -> tuple[Tensor, Tensor]:
        return products.dropped(*_thresholds(weight, column_scale, score, order, prune_count))

    limits = (*weight.shape, sparsity, max_sparsity, weight.device)
    chains = Chains(
        statistics,
        products.dense_sq,
        products.peak,
        inputs.shape[1],
        BATCHED_ROUNDINGS[rounding](*limits),
        [*learning_rates, *negative_learning_rates],
        iterations,
        layer_metric,
        row_metric,
    )
    if learning_rates or negative_learning_rates:
        _run(chains, iterations, weight.device)
    trace, winner = replay(chains.trace.cpu(), len(learning_rates), len(negative_learning_rates))
    best = ROUNDINGS[rounding](*limits)
    return best.finish(best.uniform() if winner is None else chains.best_shares[winner]), trace


def _run(chains: Chains, rounds: int, device: torch.device) -> None:
    """Enqueue the rounds: the first as it is, which compiles what it needs, the others as replays of a CUDA graph."""
    if device.type != "cuda" or torch.cuda.is_current_stream_capturing() or rounds < 3:
        for _ in range(rounds):
            chains.round()
        return
    chains.round()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        # torch.cuda.graph would wait for the device and empty its cache first.
        with torch.cuda.stream(stream):
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                chains.round()
            finally:
                graph.capture_end()
        torch.cuda.current_stream().wait_stream(stream)
        for _ in range(rounds - 1):
            graph.replay()


def _thresholds(
    weight: Tensor, column_scale: Tensor | None, score: Tensor | None, order: Tensor, prune_count: Tensor
) -> tuple[Tensor, Tensor]:
    """Row thresholds int32 [chains, R] of prune counts [chains, R]."""
    from trim_kernels.ops.allocate_rows.triton_kernels import look_up_thresholds

    chains, rows = prune_count.shape
    key, column = torch.empty_like(prune_count), torch.empty_like(prune_count)
    if chains and rows:
        with common.on_device(weight):
            look_up_thresholds[(common.cdiv(rows, _BLOCK_ROWS), chains)](
                order=order,
                prune_count=prune_count.contiguous(),
                threshold_key=key,
                threshold_column=column,
                rows=rows,
                width=weight.shape[1],
                BLOCK=_BLOCK_ROWS,
                **common.scoring_arguments(weight, column_scale, score),
            )
    return key, column
