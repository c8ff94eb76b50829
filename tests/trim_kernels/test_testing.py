"""The contract notices a backend that is wrong, and the layouts are what they say."""

from __future__ import annotations

import pytest
import torch

from trim_kernels import testing
from trim_kernels.ops.column_sqnorm import reference as column_sqnorm
from trim_kernels.ops.gram import reference as gram
from trim_kernels.ops.nm_mask import reference as nm_mask
from trim_kernels.ops.nm_rank import reference as nm_rank
from trim_kernels.ops.obs_update import reference as obs_update
from trim_kernels.ops.prune_nm import reference as prune_nm
from trim_kernels.ops.prune_rows import reference as prune_rows
from trim_kernels.ops.row_mask import reference as row_mask
from trim_kernels.ops.row_order import reference as row_order
from trim_kernels.ops.row_quality import reference as row_quality
from trim_kernels.ops.row_threshold import reference as row_threshold

MODULES = {
    "row_threshold": (row_threshold, testing.check_row_threshold),
    "row_mask": (row_mask, testing.check_row_mask),
    "row_order": (row_order, lambda backend, weight, _: testing.check_row_order(backend, weight)),
    "nm_rank": (nm_rank, lambda backend, weight, _: testing.check_nm_rank(backend, weight, 4)),
    "nm_mask": (nm_mask, lambda backend, weight, _: testing.check_nm_mask(backend, weight, 2, 4)),
}


class Sabotage:
    """A backend "cpu" that is the reference but for what ``spoil`` does to its results."""

    def __init__(self, monkeypatch):
        self._monkeypatch = monkeypatch

    def __call__(self, op, module, spoil):
        import importlib

        native = importlib.import_module(module.__name__.replace("reference", "native"))
        right = getattr(module, op)
        self._monkeypatch.setattr(native, "refusal", lambda call: None)
        self._monkeypatch.setattr(native, op, lambda **call: spoil(right(**call), call))


@pytest.fixture
def sabotage(monkeypatch):
    return Sabotage(monkeypatch)


def last_changed(result, _):
    last = result[-1] if isinstance(result, tuple) else result
    last.view(-1)[-1] = ~last.view(-1)[-1]
    return result


@pytest.mark.parametrize("op", MODULES)
def test_one_wrong_value_is_noticed(op, sabotage):
    module, check = MODULES[op]
    sabotage(op, module, last_changed)
    with pytest.raises(
        AssertionError, match=rf"^{op}.*: 1 of \d+ values differ, first at .*: expected \w+, got -?\w+$"
    ):
        check("cpu", testing.nasty_matrix("17x129", torch.float32), 64)


def write_outside(_, call):
    call["weight"].as_strided((1,), (1,), 0)[0] = 1


def test_a_write_outside_of_a_view_is_noticed(sabotage):
    sabotage("prune_rows_", prune_rows, write_outside)
    sabotage("prune_nm_", prune_nm, write_outside)
    weight = testing.nasty_matrix("5x8", torch.float32, "offset")
    with pytest.raises(AssertionError, match="prune_rows_ memory around the weight: 1 of"):
        testing.check_prune_rows("cpu", weight, 4)
    with pytest.raises(AssertionError, match="prune_nm_ memory around the weight: 1 of"):
        testing.check_prune_nm("cpu", weight, 2, 4)


@pytest.mark.parametrize("statistic", range(4))
def test_an_error_of_a_hundredth_of_a_percent_is_noticed(statistic, sabotage):
    def spoil(result, _):
        result[statistic][3] *= 1 + 1e-4
        return result

    sabotage("row_quality", row_quality, spoil)
    weight, inputs, _ = testing.heavy_tailed(8, 64, 16)
    with pytest.raises(AssertionError, match=r"^row_quality \w+: rows \[3\]: error of .* units, allowed"):
        testing.check_row_quality("cpu", weight, 32, inputs)


def one_weight_more(errors, call):
    call["weight"][1, int(call["kept"][1].nonzero()[-1])] += 1e-4
    return errors


def one_error_less(errors, call):
    errors[2, int((~call["kept"][2]).nonzero()[-1])] *= 1 - 1e-4
    return errors


@pytest.mark.parametrize("spoil", [one_weight_more, one_error_less])
def test_a_wrong_elimination_is_noticed(spoil, sabotage):
    sabotage("obs_update_", obs_update, spoil)
    with pytest.raises(AssertionError, match=r"^obs_update_ (weights|errors): 1 of 102 values are wrong, first at "):
        testing.check_obs_update("cpu", *testing.elimination(3, 34))


def test_a_pruned_weight_that_is_not_zero_is_noticed(sabotage):
    def spoil(errors, call):
        call["weight"][~call["kept"]] = 1e-30
        return errors

    sabotage("obs_update_", obs_update, spoil)
    with pytest.raises(AssertionError, match=r"^obs_update_ pruned weights: "):
        testing.check_obs_update("cpu", *testing.elimination(3, 34))


SUMS = {"column_sqnorm_": (column_sqnorm, torch.ones(9)), "gram_": (gram, torch.ones(9, 9))}
CHECKS = {"column_sqnorm_": testing.check_column_sqnorm, "gram_": testing.check_gram}


def one_token_less(_, call):
    call["acc"][(-1,) * call["acc"].dim()] -= call["x"][3, -1].float().square()


def a_relative_error(_, call):
    call["acc"][(-1,) * call["acc"].dim()] *= 1 + 1e-5


@pytest.mark.parametrize("spoil", [one_token_less, a_relative_error])
@pytest.mark.parametrize("op", SUMS)
def test_a_wrong_sum_is_noticed(op, spoil, sabotage):
    module, acc = SUMS[op]
    sabotage(op, module, spoil)
    with pytest.raises(AssertionError, match=rf"^{op}: 1 of \d+ values are wrong, first at .*: got .*, in float64 "):
        CHECKS[op]("cpu", acc, testing.heavy_tailed(1, 9, 30)[1].t())


def write_above_the_diagonal(_, call):
    call["acc"][0, 1] += 1


def write_beside(_, call):
    call["acc"].as_strided((1,), (1,), 0)[0] = 1


@pytest.mark.parametrize("spoil", [write_above_the_diagonal, write_beside])
def test_a_write_outside_of_the_lower_triangle_is_noticed(spoil, sabotage):
    sabotage("gram_", gram, spoil)
    acc = testing.LAYOUTS["offset"](torch.ones(9, 9))
    with pytest.raises(AssertionError, match=r"^gram_ memory around the lower triangle: 1 of 82 values differ"):
        testing.check_gram("cpu", acc, testing.heavy_tailed(1, 9, 30)[1].t())


def test_a_write_outside_of_an_accumulator_is_noticed(sabotage):
    sabotage("column_sqnorm_", column_sqnorm, write_beside)
    with pytest.raises(AssertionError, match=r"^column_sqnorm_ memory around acc: 1 of 10 values differ"):
        testing.check_column_sqnorm("cpu", torch.zeros(10)[1:], testing.heavy_tailed(1, 9, 30)[1].t())


@pytest.mark.parametrize("dtype", testing.DTYPES)
@pytest.mark.parametrize("matrix", testing.MATRICES)
def test_layouts_change_strides_and_not_values(matrix, dtype):
    dense = testing.nasty_matrix(matrix, testing.DTYPES[dtype])
    for layout in testing.LAYOUTS:
        assert torch.equal(testing.nasty_matrix(matrix, testing.DTYPES[dtype], layout), dense)
    assert torch.isfinite(dense).all()


@pytest.mark.parametrize(
    ("layout", "stride", "offset"),
    [("transposed", (1, 5), 0), ("column_strided", (17, 2), 1), ("row_strided", (22, 1), 0), ("offset", (8, 1), 1)],
)
def test_layouts_have_the_strides_they_are_named_for(layout, stride, offset):
    weight = testing.nasty_matrix("5x8", torch.float32, layout)
    assert (weight.stride(), weight.storage_offset()) == (stride, offset)
