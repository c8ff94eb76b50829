"""row_error_curve: the reference against its definition, the native backend against the reference."""

from __future__ import annotations

import functools
import itertools

import hypothesis
import pytest
import torch
from hypothesis import strategies as st

from trim_kernels import row_error_curve, row_order, testing


@functools.cache
def gram_of(columns, tokens=None, seed=0):
    """Correlated columns of very different size; as many tokens as columns, or fewer."""
    _, inputs, _ = testing.heavy_tailed(1, columns, tokens or columns + 5, seed)
    products = inputs.double() @ inputs.double().t()
    return products.float()


def by_definition(weight, gram, count, **scoring):
    order = row_order(weight, **scoring, backend="reference")[:, :count].long()
    d = torch.zeros(weight.shape, dtype=torch.float64).scatter_(1, order, weight.double().gather(1, order))
    return ((d @ gram.double()) * d).sum(1)


BANDS = {
    "all": lambda columns: (0, columns),
    "middle": lambda columns: (columns // 3, 2 * columns // 3),
    "none": lambda columns: (0, 0),
    "the last": lambda columns: (columns, columns),
}
ORDINARY = [name for name in testing.MATRICES if name not in ("huge", "3x2049")]


@pytest.mark.parametrize("band", BANDS)
@pytest.mark.parametrize("matrix", ["1x1", "one_column", "3x7", "17x129", "ties", "all_zero"])
def test_the_reference_is_the_definition(matrix, band):
    weight = testing.nasty_matrix(matrix, torch.float32)
    first, last = BANDS[band](weight.shape[1])
    gram = gram_of(weight.shape[1])
    for scoring in testing.SCORINGS.values():
        curve = row_error_curve(weight, gram, first, last, **scoring(weight), backend="reference")
        assert (curve.dtype, curve.shape) == (torch.float32, (weight.shape[0], last - first + 1))
        for count in range(first, last + 1):
            expected = by_definition(weight, gram, count, **scoring(weight))
            torch.testing.assert_close(curve[:, count - first].double(), expected, rtol=1e-6, atol=1e-30)


def test_the_error_is_that_of_the_outputs(backend):
    weight, inputs, scale = testing.heavy_tailed(9, 70, 200)
    curve = row_error_curve(weight, inputs @ inputs.t(), 20, 60, column_scale=scale, backend=backend)
    order = row_order(weight, column_scale=scale)
    for count in (20, 41, 60):
        pruned = weight.scatter(1, order[:, :count].long(), 0)
        error = ((weight - pruned).double() @ inputs.double()).square().sum(1)
        torch.testing.assert_close(curve[:, count - 20].double(), error, rtol=1e-4, atol=0)


@pytest.mark.usefixtures("poisoned_memory", "instruction_set")
@pytest.mark.parametrize("dtype", testing.DTYPES)
@pytest.mark.parametrize("matrix", ORDINARY)
def test_native_is_within_rounding_of_the_reference(matrix, dtype, case):
    for scoring, band in itertools.product(testing.SCORINGS, BANDS):
        weight = testing.nasty_matrix(matrix, testing.DTYPES[dtype], "row_strided")
        with case(scoring=scoring, band=band):
            gram, counts = gram_of(weight.shape[1]), BANDS[band](weight.shape[1])
            testing.check_row_error_curve("cpu", weight, gram, *counts, **testing.SCORINGS[scoring](weight))


@pytest.mark.parametrize("layout", testing.LAYOUTS)
def test_the_gram_matrix_is_read_by_its_strides(layout, backend):
    weight = testing.nasty_matrix("17x129", torch.float32)
    gram = testing.LAYOUTS[layout](gram_of(129))
    testing.check_row_error_curve(backend, weight, gram, 11, 100)


@pytest.mark.usefixtures("poisoned_memory", "instruction_set")
@hypothesis.given(
    rows=st.integers(0, 30),
    columns=st.integers(1, 300),
    first=st.floats(0, 1),
    last=st.floats(0, 1),
    seed=st.integers(0, 99),
)
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture], max_examples=15)
def test_any_band_of_any_shape(rows, columns, first, last, seed):
    weight, _, scale = testing.heavy_tailed(rows, columns, 4, seed)
    counts = sorted((round(first * columns), round(last * columns)))
    testing.check_row_error_curve("cpu", weight, gram_of(columns, 9, seed), *counts, column_scale=scale)


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize(("columns", "tokens"), [(320, 2000), (700, 60), (1900, 300)])
def test_native_errs_by_less_than_a_millionth(columns, tokens):
    weight, inputs, scale = testing.heavy_tailed(7, columns, tokens, seed=columns)
    gram = inputs @ inputs.t()
    band = (columns // 3, 9 * columns // 10)
    truth = row_error_curve(weight, gram, *band, column_scale=scale, backend="reference").double()
    got = row_error_curve(weight, gram, *band, column_scale=scale, backend="cpu").double()
    assert float(((got - truth) / truth).abs().max()) < 1e-6
    assert float(truth.min()) > 0


def test_a_band_is_a_part_of_the_whole_curve(backend):
    weight, inputs, scale = testing.heavy_tailed(5, 90, 200)
    gram = inputs @ inputs.t()
    whole = row_error_curve(weight, gram, 0, 90, column_scale=scale, backend=backend)
    part = row_error_curve(weight, gram, 31, 62, column_scale=scale, backend=backend)
    torch.testing.assert_close(part, whole[:, 31:63], rtol=1e-6, atol=0)
    assert whole[:, 0].tolist() == [0] * 5
