"""For authors of backends and plug-ins: awkward matrices, and checks of a backend against the reference.

A backend is right when every check here passes on every matrix here::

    from trim_kernels import testing

    for matrix in testing.MATRICES:
        for dtype in testing.DTYPES.values():
            weight = testing.nasty_matrix(matrix, dtype)
            testing.check_row_mask("cpu", weight, weight.shape[1] // 2)

A plug-in is right when :func:`check_score`, :func:`check_row_budget`, :func:`check_layer_budget`,
:func:`check_solver` or :func:`check_callback` passes.
"""

from trim_kernels.testing.brute_force import nm_kept, pruning_order
from trim_kernels.testing.budgets import check_layer_budget, check_row_budget
from trim_kernels.testing.callbacks import check_callback
from trim_kernels.testing.contract import (
    check_allocate_rows,
    check_column_sqnorm,
    check_gram,
    check_nm_mask,
    check_nm_rank,
    check_obs_update,
    check_pack_values,
    check_prune_nm,
    check_prune_rows,
    check_row_error_curve,
    check_row_mask,
    check_row_order,
    check_row_quality,
    check_row_threshold,
    check_unpack_values,
)
from trim_kernels.testing.nasty import (
    DTYPES,
    LAYOUTS,
    MATRICES,
    SCORINGS,
    elimination,
    heavy_tailed,
    mixed_counts,
    nasty_matrix,
)
from trim_kernels.testing.plugins import check_score, check_solver

__all__ = [
    "DTYPES",
    "LAYOUTS",
    "MATRICES",
    "SCORINGS",
    "check_allocate_rows",
    "check_callback",
    "check_column_sqnorm",
    "check_gram",
    "check_layer_budget",
    "check_nm_mask",
    "check_nm_rank",
    "check_obs_update",
    "check_pack_values",
    "check_prune_nm",
    "check_prune_rows",
    "check_row_budget",
    "check_row_error_curve",
    "check_row_mask",
    "check_row_order",
    "check_row_quality",
    "check_row_threshold",
    "check_score",
    "check_solver",
    "check_unpack_values",
    "elimination",
    "heavy_tailed",
    "mixed_counts",
    "nasty_matrix",
    "nm_kept",
    "pruning_order",
]
