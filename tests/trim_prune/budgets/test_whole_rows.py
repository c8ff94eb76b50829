"""Row budget `whole`: the counts of a stable sort of the flattened scores."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from tiny_models import linears_of, make_model

from trim_kernels import testing
from trim_kernels.scoring import scores
from trim_prune import Importance, Recipe, RowRequest, prune, tiles
from trim_prune.budgets.rows import ROW_BUDGETS
from trim_prune.calibration.statistics import LinearStatistics


def whole(weight, count, **scoring):
    request = RowRequest(weight, Importance(**scoring), LinearStatistics(), count, Recipe(sparsity=0.5))
    return ROW_BUDGETS.get("whole").function(request).prune_count


def pruned_by_sorting(weight, count, **scoring):
    flat = scores(weight, scoring.get("column_scale"), scoring.get("score")).flatten()
    pruned = torch.zeros(flat.shape, dtype=torch.bool)
    pruned[flat.sort(stable=True).indices[:count]] = True
    return pruned.view(weight.shape)


@pytest.fixture(params=[1, 50, 1 << 20], ids=lambda values: f"tiles of {values}")
def tile(request, monkeypatch):
    monkeypatch.setattr(tiles, "TILE", request.param)


@pytest.mark.parametrize("scoring", testing.SCORINGS)
@pytest.mark.parametrize("matrix", testing.MATRICES)
def test_the_lowest_scores_of_the_whole_matrix_are_counted(matrix, scoring, tile):
    for dtype in testing.DTYPES.values():
        weight = testing.nasty_matrix(matrix, dtype, "row_strided")
        scored = testing.SCORINGS[scoring](weight)
        for count in {0, min(1, weight.numel()), weight.numel() // 3, weight.numel() // 2, weight.numel()}:
            counts = whole(weight, count, **scored)
            assert counts.dtype == torch.int32
            assert counts.tolist() == pruned_by_sorting(weight, count, **scored).sum(1).tolist()


@given(st.integers(1, 9), st.integers(1, 40), st.integers(1, 6), st.floats(0, 1), st.integers(0, 2**31))
def test_ties_go_in_row_major_order(rows, columns, values, share, seed):
    generator = torch.Generator().manual_seed(seed)
    score = torch.randint(0, values, (rows, columns), generator=generator).float()
    weight, count = torch.ones(rows, columns), round(share * rows * columns)
    assert whole(weight, count, score=score).tolist() == pruned_by_sorting(weight, count, score=score).sum(1).tolist()


def test_scores_that_overflow_come_last():
    weight = torch.tensor([[3e38, 1.0], [2.0, 3e38]])
    assert whole(weight, 2, column_scale=torch.tensor([2.0, 2.0])).tolist() == [1, 1]
    assert whole(weight, 3, column_scale=torch.tensor([2.0, 2.0])).tolist() == [2, 1]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["weight", "column_scale", "score"])
def test_what_is_not_finite_is_refused_by_name(part, bad):
    given = {"weight": torch.ones(3, 4), part: torch.ones(4 if part == "column_scale" else (3, 4))}
    given[part][..., 2] = bad
    with pytest.raises(ValueError, match=rf"^{part}: expected finite values, got {bad}"):
        whole(**given, count=5)


def test_a_prune_takes_the_lowest_magnitudes_of_each_linear():
    model, dense = make_model("llama"), make_model("llama")
    prune(model, {"sparsity": 0.5, "score": "magnitude", "rows": "whole"})
    uneven = 0
    for name, linear in linears_of(model, "llama").items():
        weight = dense.get_submodule(name).weight.detach()
        pruned = pruned_by_sorting(weight, weight.numel() // 2)
        assert torch.equal(linear.weight, weight.masked_fill(pruned, 0))
        uneven += pruned.sum(1).unique().numel() > 1
    assert uneven == 14


def test_a_solver_is_told_that_the_rows_compete():
    assert ROW_BUDGETS.get("whole").rows_compete
    assert not ROW_BUDGETS.get("uniform").rows_compete
