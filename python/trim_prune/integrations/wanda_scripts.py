"""Kernels for the published scripts of Wanda, SparseGPT, OWL and TRIM, in place of their selection and search loops.

Each is an import and one line; the scripts' own statistics, data and models stay as they are.

Wanda and OWL, ``lib/prune.py``: in place of what makes ``W_mask`` from ``W_metric`` (OWL: ``layer_sparsity_ratio``)::

    from trim_prune.integrations import wanda_scripts
    W_mask = wanda_scripts.wanda_mask(W_metric, args.sparsity_ratio, prune_n, prune_m)

SparseGPT, also in Wanda's and OWL's repositories, after the import of ``SparseGPT`` in ``lib/prune.py``::

    from trim_prune.integrations import wanda_scripts
    SparseGPT.fasterprune = wanda_scripts.fasterprune

TRIM, ``lib/prune.py``: in place of the lines from ``calculate_row_wise_sparsities`` to ``W_mask``::

    from trim_prune.integrations import wanda_scripts
    W_mask, all_sparsities[(i, name)] = wanda_scripts.trim_mask(args, layer_sparsity_ratio, W, W_metric, inputs)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import trim_kernels

from .sparsegpt_blocks import as_matrix, as_weight, prune_blocks

LAYER_METRICS = {
    "cosim_flat": "cosine",
    "cosim_dim": "cosine_rows",
    "cosim_sample": "cosine_tokens",
    "mse": "mse",
    "mse_dim": "mse_rows",
    "mae": "mae",
    "snr": "snr",
    "psnr_flat": "psnr",
    "psnr_dim": "psnr_rows",
    "psnr_sample": "psnr_tokens",
}
"""What TRIM's script calls a layer metric, and what :func:`trim_kernels.allocate_rows` does."""
NEGATIVE_RATES = (-0.01, -0.02, -0.04)
ROW_METRICS = {"cosim": "cosine", "mse": "mse", "psnr": "psnr"}


def wanda_mask(metric: Tensor, sparsity: float, prune_n: int = 0, prune_m: int = 0) -> Tensor:
    """Which weights go: bool [R, C], True = goes, as the scripts of Wanda and OWL choose them.

    Of every row the ``int(C * sparsity)`` lowest of ``metric``, ties by lower column: equal to a stable sort. With
    ``prune_n`` of ``prune_m``, that many of every group of columns; where scores tie, ``torch.topk`` takes any of them,
    and this the lower columns.

    Args:
        metric: the scripts' ``W_metric``, >= 0, [R, C]; the result may index the weight, as theirs does.
    """
    score = metric.float()
    if prune_n:
        return ~trim_kernels.nm_mask(score, prune_m - prune_n, prune_m, score=score)
    return ~trim_kernels.row_mask(score, int(score.shape[1] * sparsity), score=score)


def trim_mask(
    args: Any, sparsity: float, weight: Tensor, metric: Tensor, inputs: Tensor
) -> tuple[Tensor, tuple[Tensor, dict[str, Any]]]:
    """TRIM's search for the counts of the rows, and the mask of what goes, with the arithmetic of its script.

    Counts differ by at most 1 in few rows from those of the script, whose float32 sums run in another order.

    Args:
        args: the script's; of it ``qmetric``, ``qmetric_dimwise``, ``iterations`` and ``forbid_neg_lr``.
        sparsity: ``layer_sparsity_ratio``.
        weight: float32 [R, C].
        metric: ``W_metric`` [R, C].
        inputs: float32 [C, N].

    Returns:
        bool [R, C], True = goes; and what the script stores of a linear: the shares of the rows, and what was found.

    Raises:
        ValueError: ``qmetric`` or ``qmetric_dimwise`` is none that the search knows ("pass" is not).
    """
    score = metric.float()
    budget = trim_kernels.allocate_rows(
        weight,
        inputs,
        float(sparsity),
        score=score,
        iterations=args.iterations,
        layer_metric=_known("qmetric", args.qmetric, LAYER_METRICS),
        row_metric=_known("qmetric_dimwise", args.qmetric_dimwise, ROW_METRICS),
        rounding="floor",
        negative_learning_rates=() if args.forbid_neg_lr else NEGATIVE_RATES,
    )
    goes = ~trim_kernels.row_mask(weight, budget.prune_count, score=score)
    found = {
        "baseline_metric": budget.baseline_quality,
        "best_metric": budget.quality,
        "learning_rate": budget.learning_rate,
        "best_iter": budget.iteration,
    }
    return goes, (budget.prune_count / weight.shape[1], found)


@torch.no_grad()
def fasterprune(
    self: Any, sparsity: float, prune_n: int = 0, prune_m: int = 0, blocksize: int = 128, percdamp: float = 0.01
) -> None:
    """The method of that name of the scripts' class ``SparseGPT``: see :func:`.sparsegpt_blocks.prune_blocks`."""
    layer, hessian = self.layer, self.H
    del self.H
    weight = as_matrix(layer)
    prune_blocks(weight, hessian, sparsity, prune_n, prune_m, blocksize, percdamp)
    layer.weight.data = as_weight(weight, layer)


def _known(name: str, value: str, names: dict[str, str]) -> str:
    if value not in names:
        raise ValueError(f"{name}: expected one of {', '.join(names)}, got {value!r}")
    return names[value]
