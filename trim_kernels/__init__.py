"""Which weights of a matrix go: row-wise selection, its quality, and budgets found by iteration.

The names below are the API. Every function takes plain torch tensors, has a plain torch reference that defines it, and
runs on the fastest backend that supports the call (see :func:`explain`).
"""

from trim_kernels import library  # noqa: F401 - registers torch.ops.trim_kernels
from trim_kernels._version import __version__
from trim_kernels.backends import explain
from trim_kernels.bits import pack_bits, unpack_bits
from trim_kernels.inverse_factor import inverse_factor
from trim_kernels.ops.allocate_rows import RowBudget, Trial, allocate_rows
from trim_kernels.ops.allocate_rows.rounding import uniform_counts
from trim_kernels.ops.column_sqnorm import column_sqnorm_
from trim_kernels.ops.gram import gram_
from trim_kernels.ops.nm_mask import nm_mask
from trim_kernels.ops.nm_rank import nm_rank
from trim_kernels.ops.obs_update import obs_update_
from trim_kernels.ops.pack_values import pack_values
from trim_kernels.ops.prune_nm import prune_nm_
from trim_kernels.ops.prune_rows import prune_rows_
from trim_kernels.ops.row_error_curve import row_error_curve
from trim_kernels.ops.row_error_curve.optimal_counts import optimal_counts
from trim_kernels.ops.row_mask import row_mask
from trim_kernels.ops.row_order import row_order
from trim_kernels.ops.row_quality import RowQuality, row_quality
from trim_kernels.ops.row_threshold import RowThreshold, row_threshold
from trim_kernels.ops.unpack_values import unpack_values

__all__ = [
    "RowBudget",
    "RowQuality",
    "RowThreshold",
    "Trial",
    "__version__",
    "allocate_rows",
    "column_sqnorm_",
    "explain",
    "gram_",
    "inverse_factor",
    "nm_mask",
    "nm_rank",
    "obs_update_",
    "optimal_counts",
    "pack_bits",
    "pack_values",
    "prune_nm_",
    "prune_rows_",
    "row_error_curve",
    "row_mask",
    "row_order",
    "row_quality",
    "row_threshold",
    "uniform_counts",
    "unpack_bits",
    "unpack_values",
]
