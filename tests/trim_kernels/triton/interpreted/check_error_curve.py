from __future__ import annotations

import pytest
import torch

from trim_kernels import row_error_curve, testing
from trim_kernels.ops.row_error_curve import triton as curves


def gram_of(columns, device):
    inputs = testing.heavy_tailed(1, columns, columns + 5)[1].to(device)
    return inputs @ inputs.t()


@pytest.mark.parametrize("dtype", testing.DTYPES)
@pytest.mark.parametrize(
    ("name", "scoring"),
    [("3x7", "score"), ("one_column", "magnitude"), ("no_rows", "magnitude"), ("ties", "column_scale")],
)
def test_curves_are_those_of_the_reference(name, scoring, dtype, matrix, device):
    weight, _, scores = matrix(name, dtype, scoring)
    columns = weight.shape[1]
    testing.check_row_error_curve("triton", weight, gram_of(columns, device), columns // 3, columns, **scores)


def test_tiles_and_blocks_change_nothing(matrix, monkeypatch, device):
    monkeypatch.setattr(curves, "TILE_VALUES", 1)
    monkeypatch.setattr(curves, "DEPTH", 24)
    monkeypatch.setattr(curves, "BLOCK_COLUMNS", 32)
    weight, _, scores = matrix("17x129", "bfloat16", "score", "transposed")
    testing.check_row_error_curve(
        "triton", weight[:, :50], gram_of(50, device).t(), 0, 31, score=scores["score"][:, :50]
    )


@pytest.mark.parametrize("name", ["weight", "gram"])
def test_a_nan_is_named(name, device):
    weight, gram = testing.nasty_matrix("3x7", torch.float32).to(device), torch.eye(7, device=device)
    {"weight": weight, "gram": gram}[name][2, 6] = torch.nan
    with pytest.raises(ValueError, match=rf"^{name}: expected finite values, got nan at \[2, 6\]"):
        row_error_curve(weight, gram, 1, 3, backend="triton")


def test_an_overflow_raises(device):
    with pytest.raises(ValueError, match=r"^weight, gram: expected outputs within float32"):
        row_error_curve(torch.full((1, 3), 1e20, device=device), torch.eye(3, device=device), 0, 3, backend="triton")
