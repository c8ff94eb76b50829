"""The spectrum of a weight matrix, and how heavy its tail is."""

from __future__ import annotations

import torch
from torch import Tensor

VERSION = "alpha_peak 1"
"""To be changed with anything here that changes an exponent: cached ones are then found anew."""
BINS = 100
COLUMNS = 1024


def spectrum(weight: Tensor) -> Tensor:
    """float64 [min(R, C)], ascending: the squared singular values of a matrix [R, C].

    Eigenvalues of the smaller Gram matrix, in float64: faster than the singular values in float32 and closer to the
    exact ones. The matrix is widened by a slice at a time.
    """
    wide = weight if weight.shape[0] <= weight.shape[1] else weight.t()
    gram = torch.zeros(wide.shape[0], wide.shape[0], dtype=torch.float64, device=weight.device)
    for start in range(0, wide.shape[1], COLUMNS):
        piece = wide[:, start : start + COLUMNS].to(torch.float64)
        gram.addmm_(piece, piece.t())
    eigenvalues: Tensor = torch.linalg.eigvalsh(gram)
    return eigenvalues


def peak_exponent(eigenvalues: Tensor) -> float | None:
    """The alpha of the power law x^-alpha that fits the tail of a spectrum best: the larger, the lighter it is.

    For a tail of n values that begins with x_min, alpha = 1 + n / sum of log(x / x_min) (Hill). x_min is the value with
    the smallest Kolmogorov-Smirnov distance max_j |1 - (x_j / x_min)^(1 - alpha) - j / n| among those from 0.95 to 1.5
    times the peak of the spectrum, the lower edge of the fullest of 100 equal bins of log10(x).

    Two deliberate differences from the published code. Its lower bound is log10(0.95 * peak), compared with values and
    not with their logarithms: it lies below the peak by an amount that depends on the scale of the weights, and for
    peaks below 1 it bounds nothing. Ours gives a weight and its multiples one alpha. And eigenvalues that are zero
    within rounding are left out; there they make the histogram fail.

    None if there is no tail to fit: fewer than two values, or all of them equal.
    """
    largest = float(eigenvalues.max())
    smallest = 10 * largest * len(eigenvalues) * torch.finfo(eigenvalues.dtype).eps
    values = eigenvalues[eigenvalues > smallest].sort().values
    if len(values) < 2 or values[0] == values[-1]:
        return None
    peak = _peak(values)
    count = len(values)
    logs = values.log()
    tails = logs.flip(0).cumsum(0).flip(0)
    first, last = torch.searchsorted(values, torch.tensor([0.95, 1.5], dtype=values.dtype) * peak).tolist()
    best: tuple[float, float] | None = None
    for start in range(first, min(last, count - 1)):
        size = count - start
        excess = float(tails[start] - size * logs[start])
        if excess <= 0:
            continue
        alpha = 1 + size / excess
        fitted = 1 - (values[start:] / values[start]) ** (1 - alpha)
        distance = float((fitted - torch.arange(size, dtype=values.dtype) / size).abs().max())
        if best is None or distance < best[0]:
            best = distance, alpha
    return None if best is None else best[1]


def _peak(values: Tensor) -> float:
    logs = values.log10()
    low, high = float(logs[0]), float(logs[-1])
    counts = torch.histc(logs, BINS, min=low, max=high)
    return float(10 ** (low + (high - low) / BINS * int(counts.argmax())))
