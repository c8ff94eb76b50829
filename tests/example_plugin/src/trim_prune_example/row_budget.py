"""A row budget: how many weights of each row go?"""

import torch

from trim_prune import RowDecision, RowRequest, register_row_budget


@register_row_budget("example-slope")
def slope(request: RowRequest) -> RowDecision:
    """The later a row, the more of it goes: by one weight from the first half of the rows to the second."""
    rows, columns = request.weight.shape
    base, rest = divmod(request.prune_count, rows)
    counts = torch.full((rows,), base, dtype=torch.int32)
    counts[rows - rest :] += 1  # the engine wants the exact total
    half = rows // 2
    if 0 < base < columns - 1:
        counts[:half] -= 1
        counts[rows - half :] += 1
    return RowDecision(counts)
