"""tk_search of trim_kernels.h from the options of allocate_rows."""

from __future__ import annotations

from trim_kernels.c_types import Search
from trim_kernels.ops.allocate_rows.metrics import ROW_METRICS, STATISTIC_METRICS
from trim_kernels.ops.allocate_rows.rounding import row_cap, total_count


def search_options(
    rows: int,
    columns: int,
    sparsity: float,
    max_sparsity: float,
    layer_metric: str,
    row_metric: str,
    rounding: str,
    rates_address: int,
    rates: tuple[int, int],
    iterations: int,
) -> Search:
    """``rates`` says how many at the address are positive and how many, after these, negative."""
    return Search(
        # The enumerations of trim_kernels.h have the order of these tables.
        layer_metric=list(STATISTIC_METRICS).index(layer_metric),
        row_metric=list(ROW_METRICS).index(row_metric),
        exact=rounding == "exact",
        sparsity=sparsity,
        max_sparsity=max_sparsity,
        total=total_count(rows, columns, sparsity),
        cap=row_cap(columns, max_sparsity),
        rates=rates_address,
        positive_rates=rates[0],
        negative_rates=rates[1],
        iterations=iterations,
    )
