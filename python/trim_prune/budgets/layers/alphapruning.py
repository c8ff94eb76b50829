"""AlphaPruning (Lu et al. 2024, arXiv 2410.10912): blocks with a lighter-tailed spectrum lose more weights."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import torch

from ...cache import extend_cache, read_cache
from ...digest import add_tensor
from ...models.device import choose_device
from ...models.discover import Linear
from .base import LayerRequest, register_layer_budget
from .spectrum import VERSION, peak_exponent, spectrum

CACHE = "alpha.json"


@register_layer_budget("alphapruning")
def alphapruning(request: LayerRequest) -> Sequence[float]:
    """One sparsity per block, by the mean tail exponent alpha of its linears' spectra, for every linear of the block.

    sparsity_l is in proportion to 1 - epsilon + 2 epsilon (alpha_l - min) / (max - min), and the mean over all weights
    is the target. Needs no calibration. A linear without an exponent (see ``peak_exponent``) does not count in the mean
    of its block; a block without any stands at the mean of the others. Exponents are cached by the bytes of the weight.
    Source: AlphaPruning's published code, metric alpha_peak, block by block.
    """
    alphas = _block_alphas(request)
    known = [alpha for alpha in alphas.values() if alpha is not None] or [0.0]
    low, high, middle = min(known), max(known), fmean(known)
    epsilon = request.recipe.alphapruning.epsilon

    def proportion(alpha: float | None) -> float:
        place = ((middle if alpha is None else alpha) - low) / (high - low) if high > low else 0.5
        return 1 - epsilon + 2 * epsilon * place

    proportions = [proportion(alphas[linear.block]) for linear in request.linears]
    weighted = math.fsum(p * linear.size for p, linear in zip(proportions, request.linears, strict=True))
    scale = request.sparsity * sum(linear.size for linear in request.linears) / weighted
    return [p * scale for p in proportions]


def _block_alphas(request: LayerRequest) -> dict[int, float | None]:
    cached, device = read_cache(CACHE), choose_device(request.recipe.device)
    means = {}
    for block, linears in request.blocks.items():
        with request.on_device(block):
            digests = [_digest(linear) for linear in linears]
            found = {
                digest: _exponent(linear, device)
                for digest, linear in zip(digests, linears, strict=True)
                if not _is_exponent(cached.get(digest, math.nan))
            }
        if found:
            extend_cache(CACHE, found)
        values = [found.get(digest, cached.get(digest)) for digest in digests]
        known = [value for value in values if value is not None]
        means[block] = fmean(known) if known else None
    return means


def _exponent(linear: Linear, device: torch.device) -> float | None:
    return peak_exponent(spectrum(linear.weight.to(device)).cpu())


def _digest(linear: Linear) -> str:
    digest = hashlib.sha256(f"{VERSION} ".encode())
    add_tensor(digest, linear.weight)
    return digest.hexdigest()


def _is_exponent(value: Any) -> bool:
    """Whether a cached value is one that ``peak_exponent`` may return: a number above 1, or None."""
    return value is None or (isinstance(value, float) and 1 < value < math.inf)
