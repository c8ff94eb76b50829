"""Every wrong argument is a ValueError that names it, says what was expected and what came."""

from __future__ import annotations

import functools
import re

import pytest
import torch

import trim_kernels
from trim_kernels import testing

nan, inf = float("nan"), float("inf")


def weight():
    return testing.nasty_matrix("3x7", torch.float32)


def inputs():
    return torch.ones(7, 4)


def gram(weight):
    return torch.eye(weight.shape[-1] if isinstance(weight, torch.Tensor) else 7)


def with_value(tensor, value, *position):
    tensor = tensor.clone()
    tensor[position] = value
    return tensor


CALLS = {
    "row_threshold": lambda weight, **options: trim_kernels.row_threshold(weight, 2, **options),
    "row_mask": lambda weight, **options: trim_kernels.row_mask(weight, 2, **options),
    "prune_rows_": lambda weight, **options: trim_kernels.prune_rows_(weight, 2, **options),
    "row_order": trim_kernels.row_order,
    "row_quality": lambda weight, **options: trim_kernels.row_quality(weight, 2, inputs(), **options),
    "row_error_curve": lambda weight, **options: trim_kernels.row_error_curve(weight, gram(weight), 1, 3, **options),
    "allocate_rows": lambda weight, **options: trim_kernels.allocate_rows(weight, inputs(), 0.5, **options),
    "nm_rank": lambda weight, **options: trim_kernels.nm_rank(weight, 4, **options),
    "nm_mask": lambda weight, **options: trim_kernels.nm_mask(weight, 2, 4, **options),
    "prune_nm_": lambda weight, **options: trim_kernels.prune_nm_(weight, 2, 4, **options),
}
GROUPED = {"nm_mask": trim_kernels.nm_mask, "prune_nm_": trim_kernels.prune_nm_}
COUNTED = {
    "row_threshold": trim_kernels.row_threshold,
    "row_mask": trim_kernels.row_mask,
    "prune_rows_": trim_kernels.prune_rows_,
    "row_quality": lambda weight, prune_count, **options: trim_kernels.row_quality(
        weight, prune_count, inputs(), **options
    ),
}
FED = {
    "row_quality": lambda weight, inputs, **options: trim_kernels.row_quality(weight, 2, inputs, **options),
    "allocate_rows": lambda weight, inputs, **options: trim_kernels.allocate_rows(weight, inputs, 0.5, **options),
}

WRONG_WEIGHTS = {
    "vector": (torch.ones(3), "float32 [3] on cpu"),
    "cube": (torch.ones(1, 2, 3), "float32 [1, 2, 3] on cpu"),
    "no columns": (torch.ones(3, 0), "float32 [3, 0] on cpu"),
    "float64": (torch.ones(3, 7, dtype=torch.float64), "float64 [3, 7] on cpu"),
    "int8": (torch.ones(3, 7, dtype=torch.int8), "int8 [3, 7] on cpu"),
    "list": ([[1.0]], "list [[1.0]]"),
}


@pytest.mark.parametrize("op", CALLS)
@pytest.mark.parametrize("wrong", WRONG_WEIGHTS)
def test_weight_of_a_wrong_kind(op, wrong):
    value, came = WRONG_WEIGHTS[wrong]
    with pytest.raises(ValueError, match=rf"^weight: expected a float32, bfloat16 .*, got {re.escape(came)}$"):
        CALLS[op](value)


WRONG_SCORINGS = {
    "scale too short": ("column_scale", torch.ones(6), "float32 [7] on cpu", "float32 [6] on cpu"),
    "scale a matrix": ("column_scale", torch.ones(3, 7), "float32 [7] on cpu", "float32 [3, 7] on cpu"),
    "scale in float64": ("column_scale", torch.ones(7).double(), "float32 [7] on cpu", "float64 [7] on cpu"),
    "scale elsewhere": ("column_scale", torch.ones(7, device="meta"), "float32 [7] on cpu", "float32 [7] on meta"),
    "scale a number": ("column_scale", 2.0, "float32 [7] on cpu", "float 2.0"),
    "score transposed": ("score", torch.ones(7, 3), "float32 [3, 7] on cpu", "float32 [7, 3] on cpu"),
    "score in bfloat16": ("score", torch.ones(3, 7).bfloat16(), "float32 [3, 7] on cpu", "bfloat16 [3, 7] on cpu"),
    "score elsewhere": ("score", torch.ones(3, 7, device="meta"), "float32 [3, 7] on cpu", "float32 [3, 7] on meta"),
}


@pytest.mark.parametrize("op", CALLS)
@pytest.mark.parametrize("wrong", WRONG_SCORINGS)
def test_scale_or_score_of_a_wrong_kind(op, wrong):
    name, value, expected, came = WRONG_SCORINGS[wrong]
    with pytest.raises(ValueError, match=rf"^{name}: expected {re.escape(expected)}, got {re.escape(came)}$"):
        CALLS[op](weight(), **{name: value})


@pytest.mark.parametrize("op", CALLS)
def test_scale_and_score_together(op):
    with pytest.raises(ValueError, match=r"^column_scale, score: expected at most one of the two, got both$"):
        CALLS[op](weight(), column_scale=torch.ones(7), score=torch.ones(3, 7))


WRONG_COUNTS = {
    "negative": (-1, "an int from 0 to 7", "int -1"),
    "too large": (8, "an int from 0 to 7", "int 8"),
    "float": (1.5, "an int from 0 to 7", "float 1.5"),
    "bool": (True, "an int from 0 to 7", "bool True"),
    "list": ([1, 2, 3], "an int from 0 to 7", "list [1, 2, 3]"),
    "int64": (torch.ones(3, dtype=torch.int64), "int32 [3] on cpu", "int64 [3] on cpu"),
    "too short": (torch.ones(2, dtype=torch.int32), "int32 [3] on cpu", "int32 [2] on cpu"),
    "elsewhere": (torch.ones(3, dtype=torch.int32, device="meta"), "int32 [3] on cpu", "int32 [3] on meta"),
}


@pytest.mark.parametrize("op", COUNTED)
@pytest.mark.parametrize("wrong", WRONG_COUNTS)
def test_prune_count_of_a_wrong_kind(op, wrong):
    value, expected, came = WRONG_COUNTS[wrong]
    with pytest.raises(ValueError, match=rf"^prune_count: expected {re.escape(expected)}.*, got {re.escape(came)}$"):
        COUNTED[op](weight(), value)


@pytest.mark.parametrize("op", COUNTED)
@pytest.mark.parametrize("bad", [-1, 8, -(2**31), 2**31 - 1])
def test_prune_count_with_a_value_out_of_range(op, bad, backend):
    counts = torch.tensor([0, bad, 7], dtype=torch.int32)
    with pytest.raises(ValueError, match=f"^prune_count: expected values from 0 to 7, got {bad} at row 1$"):
        COUNTED[op](weight(), counts, backend=backend)


WRONG_INPUTS = {
    "too few rows": (torch.ones(6, 4), "float32 [6, 4] on cpu"),
    "vector": (torch.ones(7), "float32 [7] on cpu"),
    "no tokens": (torch.ones(7, 0), "float32 [7, 0] on cpu"),
    "float64": (torch.ones(7, 4).double(), "float64 [7, 4] on cpu"),
    "elsewhere": (torch.ones(7, 4, device="meta"), "float32 [7, 4] on meta"),
    "none": (None, "NoneType None"),
}


@pytest.mark.parametrize("op", FED)
@pytest.mark.parametrize("wrong", WRONG_INPUTS)
def test_inputs_of_a_wrong_kind(op, wrong):
    value, came = WRONG_INPUTS[wrong]
    with pytest.raises(ValueError, match=rf"^inputs: expected .* matrix \[7, N\] .* on cpu, got {re.escape(came)}$"):
        FED[op](weight(), value)


@pytest.mark.parametrize("bad", [nan, inf, -inf], ids=str)
@pytest.mark.parametrize("dtype", testing.DTYPES)
@pytest.mark.parametrize("op", CALLS)
def test_weight_that_is_not_finite(op, dtype, bad, backend):
    wrong = with_value(weight().to(testing.DTYPES[dtype]), bad, 2, 6)
    with pytest.raises(
        ValueError, match=rf"^weight: expected finite values, got {bad} at \[2, 6\] \(1 of 21 values\)$"
    ):
        CALLS[op](wrong, backend=backend)


@pytest.mark.parametrize("bad", [nan, inf, -inf], ids=str)
@pytest.mark.parametrize("op", CALLS)
def test_weight_that_is_not_finite_although_a_score_is_given(op, bad, backend):
    wrong = with_value(weight(), bad, 1, 0)
    with pytest.raises(ValueError, match=rf"^weight: expected finite values, got {bad} at \[1, 0\]"):
        CALLS[op](wrong, score=torch.ones(3, 7), backend=backend)


@pytest.mark.parametrize("op", CALLS)
def test_weight_that_is_not_finite_in_a_strided_view(op, backend):
    view = testing.nasty_matrix("17x129", torch.float32, "column_strided")
    view[16, 128] = nan
    call = functools.partial(FED[op], inputs=torch.ones(129, 2)) if op in FED else CALLS[op]
    with pytest.raises(ValueError, match=r"^weight: expected finite values, got nan at \[16, 128\]"):
        call(view, backend=backend)


@pytest.mark.parametrize(("bad", "expected"), [(nan, "finite values"), (inf, "finite values"), (-0.5, "values >= 0")])
@pytest.mark.parametrize("op", CALLS)
def test_scale_with_a_bad_value(op, bad, expected, backend):
    wrong = with_value(torch.ones(7), bad, 3)
    with pytest.raises(ValueError, match=rf"^column_scale: expected {expected}, got {bad} at \[3\] \(1 of 7 values\)$"):
        CALLS[op](weight(), column_scale=wrong, backend=backend)


@pytest.mark.parametrize(("bad", "expected"), [(nan, "finite values"), (inf, "finite values"), (-0.5, "values >= 0")])
@pytest.mark.parametrize("op", CALLS)
def test_score_with_a_bad_value(op, bad, expected, backend):
    wrong = with_value(torch.ones(3, 7), bad, 1, 3)
    with pytest.raises(ValueError, match=rf"^score: expected {expected}, got {bad} at \[1, 3\] \(1 of 21 values\)$"):
        CALLS[op](weight(), score=wrong, backend=backend)


@pytest.mark.parametrize("bad", [nan, inf, -inf], ids=str)
@pytest.mark.parametrize("dtype", testing.DTYPES)
@pytest.mark.parametrize("op", FED)
def test_inputs_that_are_not_finite(op, dtype, bad, backend):
    wrong = with_value(inputs().to(testing.DTYPES[dtype]), bad, 6, 3)
    with pytest.raises(
        ValueError, match=rf"^inputs: expected finite values, got {bad} at \[6, 3\] \(1 of 28 values\)$"
    ):
        FED[op](weight(), wrong, backend=backend)


@pytest.mark.parametrize("op", FED)
def test_inputs_that_are_not_finite_where_the_weight_is_zero(op, backend):
    with pytest.raises(ValueError, match=r"^inputs: expected finite values, got inf at \[2, 0\]"):
        FED[op](torch.zeros(3, 7), with_value(inputs(), inf, 2, 0), backend=backend)


WRONG_GRAMS = {
    "too narrow": (torch.eye(6), "float32 [6, 6] on cpu"),
    "not square": (torch.ones(7, 6), "float32 [7, 6] on cpu"),
    "float64": (torch.eye(7).double(), "float64 [7, 7] on cpu"),
    "elsewhere": (torch.eye(7, device="meta"), "float32 [7, 7] on meta"),
    "none": (None, "NoneType None"),
}


@pytest.mark.parametrize("wrong", WRONG_GRAMS)
def test_gram_of_a_wrong_kind(wrong):
    value, came = WRONG_GRAMS[wrong]
    with pytest.raises(ValueError, match=rf"^gram: expected float32 \[7, 7\] on cpu, got {re.escape(came)}$"):
        trim_kernels.row_error_curve(weight(), value, 1, 3)


WRONG_BANDS = {
    "beyond the columns": ((0, 8), "last_count: expected an int from 0 to 7, got int 8"),
    "negative": ((-1, 3), "first_count: expected an int from 0 to 3, got int -1"),
    "backwards": ((4, 3), "first_count: expected an int from 0 to 3, got int 4"),
    "float": ((0, 3.0), "last_count: expected an int from 0 to 7, got float 3.0"),
    "bool": ((True, 3), "first_count: expected an int from 0 to 3, got bool True"),
}


@pytest.mark.parametrize("wrong", WRONG_BANDS)
def test_band_of_a_wrong_kind(wrong):
    band, message = WRONG_BANDS[wrong]
    with pytest.raises(ValueError, match=f"^{message}$"):
        trim_kernels.row_error_curve(weight(), torch.eye(7), *band)


@pytest.mark.parametrize("bad", [nan, inf, -inf], ids=str)
@pytest.mark.parametrize("rows", [0, 3])
def test_gram_that_is_not_finite(rows, bad, backend):
    message = rf"^gram: expected finite values, got {bad} at \[6, 3\] \(1 of 49 values\)$"
    with pytest.raises(ValueError, match=message):
        trim_kernels.row_error_curve(weight()[:rows], with_value(torch.eye(7), bad, 6, 3), 1, 1, backend=backend)


def test_errors_beyond_float32(backend):
    with pytest.raises(ValueError, match=r"^weight, gram: expected outputs within float32, got an overflow; scale one"):
        trim_kernels.row_error_curve(weight() * 1e20, torch.eye(7), 0, 7, backend=backend)


@pytest.mark.parametrize("op", CALLS)
def test_unknown_backend(op):
    with pytest.raises(ValueError, match=r"^backend: expected auto, cuda.* or reference, got 'gpu'$"):
        CALLS[op](weight(), backend="gpu")


WRONG_OPTIONS = {
    "method": ({"method": "best"}, "method: expected one of trim, got 'best'"),
    "layer_metric": ({"layer_metric": "ssim"}, "layer_metric: expected one of cosine, .*, got 'ssim'"),
    "row_metric": ({"row_metric": "snr"}, "row_metric: expected one of cosine, mse, psnr, got 'snr'"),
    "rounding": ({"rounding": "up"}, "rounding: expected one of exact, floor, got 'up'"),
    "iterations": ({"iterations": -1}, "iterations: expected a whole number, 0 or more, got -1"),
    "max_sparsity": ({"max_sparsity": 1.1}, "max_sparsity: expected a share from 0 to 1, got 1.1"),
    "learning rate 0": ({"learning_rates": (0.1, 0)}, r"learning_rates: expected numbers > 0, got \(0.1, 0\)"),
    "infinite rate": ({"learning_rates": (inf,)}, r"learning_rates: expected numbers > 0, got \(inf,\)"),
    "nan rate": ({"negative_learning_rates": (nan,)}, r"negative_learning_rates: expected numbers < 0, got \(nan,\)"),
    "positive negative rate": (
        {"negative_learning_rates": (0.1,)},
        r"negative_learning_rates: expected numbers < 0, got \(0.1,\)",
    ),
}


@pytest.mark.parametrize("wrong", WRONG_OPTIONS)
def test_allocate_rows_with_a_wrong_option(wrong):
    options, message = WRONG_OPTIONS[wrong]
    with pytest.raises(ValueError, match=f"^{message}$"):
        trim_kernels.allocate_rows(weight(), inputs(), 0.5, **options)


@pytest.mark.parametrize("sparsity", [-0.1, 1.1, nan], ids=str)
def test_allocate_rows_with_a_sparsity_that_is_no_share(sparsity):
    with pytest.raises(ValueError, match=f"^sparsity: expected a share from 0 to 1, got {sparsity}$"):
        trim_kernels.allocate_rows(weight(), inputs(), sparsity)


def test_allocate_rows_with_a_sparsity_beyond_the_cap():
    message = r"^sparsity: expected at most 0.857143 for 7 columns with max_sparsity=0.9 \(at most 6 .*\), got 0.9; "
    with pytest.raises(ValueError, match=message):
        trim_kernels.allocate_rows(weight(), inputs(), 0.9, max_sparsity=0.9)


def test_prune_rows_of_an_expanded_weight(backend):
    with pytest.raises(ValueError, match=r"^weight: expected .* their own memory, got an expanded one; clone it$"):
        trim_kernels.prune_rows_(torch.ones(1, 7).expand(3, 7), 2, backend=backend)


WRONG_PATTERNS = {
    "no columns": ((0, 0), "of: expected an int from 1 to 32, got int 0"),
    "too many columns": ((2, 33), "of: expected an int from 1 to 32, got int 33"),
    "float columns": ((2, 4.0), "of: expected an int from 1 to 32, got float 4.0"),
    "bool columns": ((1, True), "of: expected an int from 1 to 32, got bool True"),
    "negative": ((-1, 4), "keep: expected an int from 0 to 4, got int -1"),
    "more than there are": ((5, 4), "keep: expected an int from 0 to 4, got int 5"),
    "float": ((0.5, 4), "keep: expected an int from 0 to 4, got float 0.5"),
    "text": (("2", 4), "keep: expected an int from 0 to 4, got str '2'"),
}


@pytest.mark.parametrize("op", GROUPED)
@pytest.mark.parametrize("wrong", WRONG_PATTERNS)
def test_keep_n_of_m_with_a_wrong_pattern(op, wrong):
    pattern, message = WRONG_PATTERNS[wrong]
    with pytest.raises(ValueError, match=f"^{message}$"):
        GROUPED[op](weight(), *pattern)


@pytest.mark.parametrize("wrong", [name for name in WRONG_PATTERNS if "columns" in name])
def test_ranks_in_groups_of_a_wrong_size(wrong):
    (_, of), message = WRONG_PATTERNS[wrong]
    with pytest.raises(ValueError, match=f"^{message}$"):
        trim_kernels.nm_rank(weight(), of)


def test_prune_nm_of_an_expanded_weight(backend):
    with pytest.raises(ValueError, match=r"^weight: expected .* their own memory, got an expanded one; clone it$"):
        trim_kernels.prune_nm_(torch.ones(1, 7).expand(3, 7), 2, 4, backend=backend)


ACCUMULATING = {"column_sqnorm_": trim_kernels.column_sqnorm_, "gram_": trim_kernels.gram_}
ACCUMULATORS = {"column_sqnorm_": torch.zeros(7), "gram_": torch.zeros(7, 7)}
EXPECTED_ACC = {"column_sqnorm_": "float32 or float64 [7] on cpu", "gram_": "float32 [7, 7] on cpu"}

WRONG_ACTIVATIONS = {
    "vector": (torch.ones(7), "float32 [7] on cpu"),
    "batch": (torch.ones(2, 3, 7), "float32 [2, 3, 7] on cpu"),
    "no columns": (torch.ones(3, 0), "float32 [3, 0] on cpu"),
    "float64": (torch.ones(3, 7, dtype=torch.float64), "float64 [3, 7] on cpu"),
    "int32": (torch.ones(3, 7, dtype=torch.int32), "int32 [3, 7] on cpu"),
    "list": ([[1.0]], "list [[1.0]]"),
}


@pytest.mark.parametrize("op", ACCUMULATING)
@pytest.mark.parametrize("wrong", WRONG_ACTIVATIONS)
def test_activations_of_a_wrong_kind(op, wrong):
    value, came = WRONG_ACTIVATIONS[wrong]
    message = rf"^x: expected a float32, bfloat16 or float16 matrix \[T, C\] with C >= 1, got {re.escape(came)}$"
    with pytest.raises(ValueError, match=message):
        ACCUMULATING[op](ACCUMULATORS[op], value)


WRONG_ACCUMULATORS = {
    "too short": (torch.zeros(6), "float32 [6] on cpu"),
    "not square": (torch.zeros(3, 7), "float32 [3, 7] on cpu"),
    "bfloat16": (torch.zeros(7).bfloat16(), "bfloat16 [7] on cpu"),
    "bfloat16 matrix": (torch.zeros(7, 7).bfloat16(), "bfloat16 [7, 7] on cpu"),
    "elsewhere": (torch.zeros(7, device="meta"), "float32 [7] on meta"),
    "matrix elsewhere": (torch.zeros(7, 7, device="meta"), "float32 [7, 7] on meta"),
    "number": (0.0, "float 0.0"),
}


@pytest.mark.parametrize("op", ACCUMULATING)
@pytest.mark.parametrize("wrong", WRONG_ACCUMULATORS)
def test_accumulator_of_a_wrong_kind(op, wrong):
    value, came = WRONG_ACCUMULATORS[wrong]
    message = rf"^acc: expected {re.escape(EXPECTED_ACC[op])}, got {re.escape(came)}$"
    with pytest.raises(ValueError, match=message):
        ACCUMULATING[op](value, torch.ones(3, 7))


def test_a_gram_matrix_in_float64():
    with pytest.raises(ValueError, match=r"^acc: expected float32 \[7, 7\] on cpu, got float64 \[7, 7\] on cpu$"):
        trim_kernels.gram_(torch.zeros(7, 7).double(), torch.ones(3, 7))


@pytest.mark.parametrize("op", ACCUMULATING)
def test_an_expanded_accumulator(op, backend):
    with pytest.raises(ValueError, match=r"^acc: expected .* their own memory, got an expanded one; clone it$"):
        ACCUMULATING[op](torch.zeros(1).expand_as(ACCUMULATORS[op]), torch.ones(3, 7), backend=backend)


WRONG_TOKEN_MASKS = {
    "too short": (torch.ones(2, dtype=torch.bool), "bool [2] on cpu"),
    "of the columns": (torch.ones(7, dtype=torch.bool), "bool [7] on cpu"),
    "of a batch": (torch.ones(1, 3, dtype=torch.bool), "bool [1, 3] on cpu"),
    "int64": (torch.ones(3, dtype=torch.int64), "int64 [3] on cpu"),
    "elsewhere": (torch.ones(3, dtype=torch.bool, device="meta"), "bool [3] on meta"),
    "list": ([True, False, True], "list [True, False, True]"),
}


@pytest.mark.parametrize("op", ACCUMULATING)
@pytest.mark.parametrize("wrong", WRONG_TOKEN_MASKS)
def test_token_mask_of_a_wrong_kind(op, wrong):
    value, came = WRONG_TOKEN_MASKS[wrong]
    with pytest.raises(ValueError, match=rf"^token_mask: expected bool \[3\] on cpu, got {re.escape(came)}$"):
        ACCUMULATING[op](ACCUMULATORS[op], torch.ones(3, 7), token_mask=value)


@pytest.mark.parametrize("op", ACCUMULATING)
def test_an_unknown_backend_for_a_sum_over_tokens(op):
    with pytest.raises(ValueError, match=r"^backend: expected auto, cuda.* or reference, got 'gpu'$"):
        ACCUMULATING[op](ACCUMULATORS[op], torch.ones(3, 7), backend="gpu")


BAD_CALLS = {
    "NaN in the last row": (with_value(torch.ones(40, 7), nan, 39, 6), {}),
    "infinity in the last row": (with_value(torch.ones(40, 7), inf, 39, 0), {}),
    "NaN in the score": (torch.ones(40, 7), {"score": with_value(torch.ones(40, 7), nan, 39, 6)}),
    "negative score": (torch.ones(40, 7), {"score": with_value(torch.ones(40, 7), -1.0, 39, 6)}),
    "negative scale": (torch.ones(40, 7), {"column_scale": with_value(torch.ones(7), -1.0, 6)}),
    "count out of range": (torch.ones(40, 7), {"prune_count": torch.tensor([3] * 39 + [8], dtype=torch.int32)}),
}


@pytest.mark.parametrize("layout", testing.LAYOUTS)
@pytest.mark.parametrize("wrong", BAD_CALLS)
def test_prune_rows_leaves_the_weight_as_it_was_when_it_raises(wrong, layout, backend):
    matrix, options = BAD_CALLS[wrong]
    weight = testing.LAYOUTS[layout](matrix)
    with pytest.raises(ValueError, match="expected"):
        trim_kernels.prune_rows_(weight, **{"prune_count": 3, **options}, backend=backend)
    assert torch.equal(weight.nan_to_num(nan=-7), matrix.nan_to_num(nan=-7))


@pytest.mark.parametrize(
    ("total", "message"),
    [(-1, r"total: expected a count from 0 to 12 \(3 x 4 weights\), got -1"), (13, "total: expected .*, got 13")],
)
def test_uniform_counts_of_an_impossible_total(total, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        trim_kernels.uniform_counts(3, 4, total)


def elimination(**changed):
    weight, kept, factor = testing.elimination(3, 7)
    return {"weight": weight, "kept": kept, "factor": factor} | changed


WRONG_ELIMINATIONS = {
    "weight in bfloat16": (
        "weight",
        torch.ones(3, 7).bfloat16(),
        r"a float32 matrix .*\(.*half precision.*\)",
        "bfloat16",
    ),
    "weight in float64": ("weight", torch.ones(3, 7).double(), "a float32 matrix", "float64"),
    "weight without columns": ("weight", torch.ones(3, 0), "a float32 matrix", "float32 [3, 0]"),
    "weight expanded": ("weight", torch.ones(1, 7).expand(3, 7), "a tensor .* own memory", "an expanded one"),
    "kept of numbers": ("kept", torch.ones(3, 7), "bool [3, 7] on cpu", "float32 [3, 7]"),
    "kept transposed": ("kept", torch.ones(7, 3).bool(), "bool [3, 7] on cpu", "bool [7, 3]"),
    "kept elsewhere": ("kept", torch.ones(3, 7, device="meta").bool(), "bool [3, 7] on cpu", "bool [3, 7] on meta"),
    "factor of another width": ("factor", torch.eye(6), "float32 [7, 7] on cpu", "float32 [6, 6]"),
    "factor in float64": ("factor", torch.eye(7).double(), "float32 [7, 7] on cpu", "float64 [7, 7]"),
    "factor a list": ("factor", [[1.0]], "float32 [7, 7] on cpu", "list [[1.0]]"),
}


@pytest.mark.parametrize("wrong", WRONG_ELIMINATIONS)
def test_obs_update_of_a_wrong_kind(wrong):
    name, value, expected, came = WRONG_ELIMINATIONS[wrong]
    expected = expected if name == "weight" else re.escape(expected)
    with pytest.raises(ValueError, match=rf"^{name}: expected {expected}.*, got {re.escape(came)}"):
        trim_kernels.obs_update_(**elimination(**{name: value}))


BAD_ELIMINATIONS = {
    "NaN": ("weight", nan, (2, 6), "finite values, got nan at [2, 6] (1 of 21 values)"),
    "infinity": ("weight", -inf, (0, 0), "finite values, got -inf at [0, 0] (1 of 21 values)"),
    "NaN in the factor": ("factor", nan, (0, 6), "finite values, got nan at [0, 6] (1 of 49 values)"),
    "infinity in the factor": ("factor", inf, (5, 5), "finite values, got inf at [5, 5] (1 of 49 values)"),
    "zero on the diagonal": ("factor", 0.0, (6, 6), "a diagonal > 0, got 0.0 at [6, 6] (1 of 7 values)"),
    "negative diagonal": ("factor", -1.0, (3, 3), "a diagonal > 0, got -1.0 at [3, 3] (1 of 7 values)"),
}


@pytest.mark.parametrize("layout", testing.LAYOUTS)
@pytest.mark.parametrize("wrong", BAD_ELIMINATIONS)
def test_obs_update_leaves_the_weight_as_it_was_when_it_raises(wrong, layout, backend):
    name, value, position, message = BAD_ELIMINATIONS[wrong]
    given = elimination()
    given[name] = with_value(given[name], value, *position)
    given["weight"] = testing.LAYOUTS[layout](given["weight"])
    before = given["weight"].clone()
    with pytest.raises(ValueError, match=rf"^{name}: expected {re.escape(message)}$"):
        trim_kernels.obs_update_(**given, backend=backend)
    assert torch.equal(given["weight"].nan_to_num(nan=-7), before.nan_to_num(nan=-7))


def test_obs_update_with_an_unknown_backend():
    with pytest.raises(ValueError, match=r"^backend: expected auto, cuda.* or reference, got 'gpu'$"):
        trim_kernels.obs_update_(**elimination(), backend="gpu")
