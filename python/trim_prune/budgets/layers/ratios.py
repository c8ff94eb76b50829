"""From one importance per block to keep ratios: the scaling that OWL and DLP share."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean


def keep_ratios(importances: Sequence[float], width: float, sparsity: float) -> list[float]:
    """The share of its weights that each block keeps: an affine map of the importances.

    keep_l = (x_l - min x) / (max x - min x) * width, shifted so that the mean over the blocks is 1 - sparsity. Equal
    importances, or a single one, give 1 - sparsity.
    """
    low, high = min(importances), max(importances)
    scaled = [(x - low) / (high - low) * width if high > low else 0.0 for x in importances]
    mean = fmean(scaled)
    return [x - mean + 1 - sparsity for x in scaled]
