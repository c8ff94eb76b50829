"""Prune weights of a fixed mask, and let those that follow in their row make up for them."""

from __future__ import annotations

import torch
from torch import Tensor

from trim_kernels.checks import check_elimination


def obs_update_(weight: Tensor, kept: Tensor, factor: Tensor, *, backend: str = "auto") -> Tensor:
    """Eliminate the weights that are not kept, columns from left to right; return the errors.

    With U = ``factor``, for each column j in turn, where a weight is pruned::

        e_j = w_j / U_jj;    w_k -= e_j * U_jk for k > j;    w_j = 0, exactly

    and ``e_j = 0`` where it is kept. That is the optimal-brain-surgeon update ``w_k -= w_j F_jk / F_jj``, F being the
    inverse of ``H[j:, j:]``: the columns left of j stay as they are, and those right of it keep the row's output as
    near to what it was as they can. No inverse but H's is needed, as ``F_jk = U_jj * U_jk``; so F_jj is U_jj squared,
    and column j adds ``e_j^2 = w_j^2 / F_jj`` to the row's error ``d^T H d``. Products are float32 in full accuracy,
    whatever torch is set to. Source: SparseGPT, arXiv 2301.00774. Not differentiable.

    Args:
        weight: float32 [R, C], changed in place; any strides, such as those of some columns of a larger matrix.
        kept: bool [R, C], False where a weight goes.
        factor: float32 [C, C], upper triangular with ``inverse(H) = U^T U`` and positive diagonal, as
            :func:`trim_kernels.inverse_factor` makes it. What lies below the diagonal is not read.
        backend: "auto", "triton", "cpu" or "reference".

    Returns:
        errors float32 [R, C]. Columns that follow outside of ``weight`` are updated by
        ``rest -= errors @ U[these columns, rest]``.

    Raises:
        ValueError: an argument has a wrong shape, dtype or device; NaN or infinity in the weight or the upper triangle,
            or a diagonal that is not positive (the weight is as it was then); or the backend cannot run here.
    """
    check_elimination(weight, kept, factor)
    errors: Tensor = torch.ops.trim_kernels.obs_update_(weight, kept, factor, backend)
    return errors
