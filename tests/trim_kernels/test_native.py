"""The native backend selects exactly what the reference selects, on every instruction set."""

from __future__ import annotations

import itertools

import hypothesis
import pytest
import torch
from hypothesis import strategies as st

from trim_kernels import native, testing

SELECTIONS = {
    "row_threshold": testing.check_row_threshold,
    "row_mask": testing.check_row_mask,
    "prune_rows_": testing.check_prune_rows,
    "row_order": lambda backend, weight, _, **scoring: testing.check_row_order(backend, weight, **scoring),
}

pytestmark = pytest.mark.usefixtures("poisoned_memory", "instruction_set")


def prune_counts(weight):
    columns = weight.shape[1]
    return {"none": 0, "half": columns // 2, "all": columns, "mixed": testing.mixed_counts(weight)}


@pytest.mark.parametrize("op", SELECTIONS)
@pytest.mark.parametrize("dtype", testing.DTYPES)
@pytest.mark.parametrize("matrix", testing.MATRICES)
def test_selection_equals_reference(op, dtype, matrix, case):
    for layout, scoring in itertools.product(testing.LAYOUTS, testing.SCORINGS):
        weight = testing.nasty_matrix(matrix, testing.DTYPES[dtype], layout)
        for name, prune_count in prune_counts(weight).items():
            with case(layout=layout, scoring=scoring, prune_count=name):
                SELECTIONS[op]("cpu", weight, prune_count, **testing.SCORINGS[scoring](weight))


@pytest.mark.parametrize("dtype", testing.DTYPES)
@pytest.mark.parametrize("matrix", [name for name in testing.MATRICES if name != "huge"])
def test_quality_is_as_exact_as_plain_float32(dtype, matrix, case):
    for layout, scoring in itertools.product(("contiguous", "transposed", "row_strided"), testing.SCORINGS):
        weight = testing.nasty_matrix(matrix, testing.DTYPES[dtype], layout)
        inputs = torch.randn(weight.shape[1], 19, generator=torch.Generator().manual_seed(5))
        for name, prune_count in prune_counts(weight).items():
            with case(layout=layout, scoring=scoring, prune_count=name):
                testing.check_row_quality("cpu", weight, prune_count, inputs, **testing.SCORINGS[scoring](weight))


@pytest.mark.parametrize("tokens", [1, 2, 15, 16, 17, 100, 257])
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (7, 300), (33, 129)], ids=str)
def test_quality_is_as_exact_as_plain_float32_for_any_number_of_tokens(shape, tokens):
    weight, inputs, column_scale = testing.heavy_tailed(*shape, tokens)
    counts = testing.mixed_counts(weight)
    testing.check_row_quality("cpu", weight, counts, inputs, column_scale=column_scale)


@pytest.mark.parametrize("dtype", testing.DTYPES)
def test_quality_takes_inputs_of_any_dtype_and_layout(dtype, case):
    weight, inputs, _ = testing.heavy_tailed(5, 33, 17)
    for layout in testing.LAYOUTS:
        with case(layout=layout):
            tokens = testing.LAYOUTS[layout](inputs.to(testing.DTYPES[dtype]))
            testing.check_row_quality("cpu", weight, 16, tokens)


@st.composite
def calls(draw):
    """A weight with as many ties as drawn, a scoring and prune counts."""
    rows, columns = draw(st.integers(0, 6)), draw(st.integers(1, 300))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    levels = draw(st.sampled_from([1, 2, 5, 50, 100_000]))
    dtype = draw(st.sampled_from(list(testing.DTYPES.values())))
    weight = (torch.randint(-levels, levels + 1, (rows, columns), generator=generator) / levels).to(dtype)
    scoring = {}
    match draw(st.sampled_from(list(testing.SCORINGS))):
        case "column_scale":
            scoring["column_scale"] = torch.randint(0, levels + 1, (columns,), generator=generator).float()
        case "score":
            scoring["score"] = torch.randint(0, levels + 1, (rows, columns), generator=generator).float()
    counts = draw(st.lists(st.integers(0, columns), min_size=rows, max_size=rows))
    return weight, torch.tensor(counts, dtype=torch.int32), scoring


@pytest.mark.parametrize("op", SELECTIONS)
@hypothesis.given(call=calls())
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_any_selection_equals_reference(op, call):
    weight, prune_count, scoring = call
    SELECTIONS[op]("cpu", weight, prune_count, **scoring)


NM = {
    "nm_rank": lambda backend, weight, _, of, **scoring: testing.check_nm_rank(backend, weight, of, **scoring),
    "nm_mask": testing.check_nm_mask,
    "prune_nm_": testing.check_prune_nm,
}
PATTERNS = [(2, 4), (3, 5), (9, 16), (16, 32)]


@pytest.mark.parametrize("op", NM)
@pytest.mark.parametrize("dtype", testing.DTYPES)
@pytest.mark.parametrize("matrix", testing.MATRICES)
def test_keep_n_of_m_equals_reference(op, dtype, matrix, case):
    for layout, scoring, pattern in itertools.product(testing.LAYOUTS, testing.SCORINGS, PATTERNS):
        with case(layout=layout, scoring=scoring, pattern=pattern):
            weight = testing.nasty_matrix(matrix, testing.DTYPES[dtype], layout)
            NM[op]("cpu", weight, *pattern, **testing.SCORINGS[scoring](weight))


@pytest.mark.parametrize("op", NM)
@hypothesis.given(call=calls(), of=st.integers(1, 32), share=st.floats(0, 1))
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_any_n_of_m_equals_reference(op, call, of, share):
    weight, _, scoring = call
    NM[op]("cpu", weight, round(share * of), of, **scoring)


@pytest.mark.parametrize("op", NM)
@pytest.mark.parametrize("of", range(1, 33))
def test_every_n_of_every_m_equals_reference(op, of):
    weight = testing.nasty_matrix("ties", torch.float32)[:2]
    for keep in range(of + 1):
        NM[op]("cpu", weight, keep, of)


@pytest.mark.parametrize("op", NM)
def test_keep_n_of_m_reads_strided_scales_and_scores_right(op):
    weight = testing.nasty_matrix("17x129", torch.float32)
    column_scale = torch.arange(2.0 * 129)[::2]
    NM[op]("cpu", weight, 3, 8, column_scale=column_scale)
    NM[op]("cpu", weight, 3, 8, score=weight.abs().t().contiguous().t())
    NM[op]("cpu", weight, 3, 8, score=column_scale.expand(17, 129))


@pytest.mark.parametrize("dtype", testing.DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (8, 512), (9, 513), (130, 191), (257, 193)], ids=str)
def test_sums_over_tokens_are_as_exact_as_plain_torch(shape, dtype):
    tokens, columns = shape
    x = testing.heavy_tailed(1, columns, tokens)[1].t().to(testing.DTYPES[dtype])
    acc = torch.randn(columns, columns, generator=torch.Generator().manual_seed(columns))
    for token_mask in (None, torch.arange(tokens) % 5 != 2):
        testing.check_column_sqnorm("cpu", acc[0], x, token_mask)
        testing.check_column_sqnorm("cpu", acc[0].double(), x, token_mask)
        testing.check_gram("cpu", acc, x, token_mask)


FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize("op", SELECTIONS)
@hypothesis.given(values=st.lists(st.tuples(FINITE, FINITE.map(abs)), min_size=1, max_size=40), share=st.floats(0, 1))
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_any_finite_floats_are_ordered_as_by_the_reference(op, values, share):
    weight, column_scale = torch.tensor(values).t().contiguous().split(1)
    SELECTIONS[op]("cpu", weight, int(share * len(values)), column_scale=column_scale[0])


@pytest.mark.parametrize("op", SELECTIONS)
def test_scores_that_overflow_are_equal_and_go_last(op):
    weight = torch.tensor([[3e38, 1.0, -2e38, 2.0, 0.0]])
    column_scale = torch.tensor([10.0, 1.0, 20.0, 3e38, 3e38])
    for prune_count in range(6):
        SELECTIONS[op]("cpu", weight, prune_count, column_scale=column_scale)


@pytest.mark.parametrize("op", SELECTIONS)
def test_the_sign_of_a_zero_scale_does_not_count(op):
    weight = torch.tensor([[3.0, 1.0, 2.0, 4.0]])
    for prune_count in range(5):
        SELECTIONS[op]("cpu", weight, prune_count, column_scale=torch.tensor([0.0, -0.0, -0.0, 1.0]))


@pytest.mark.parametrize("op", SELECTIONS)
def test_strided_counts_scales_and_scores_are_read_right(op):
    weight = testing.nasty_matrix("17x129", torch.float32)
    counts = testing.mixed_counts(weight).repeat_interleave(2)[::2]
    column_scale = torch.arange(2.0 * 129)[::2]
    SELECTIONS[op]("cpu", weight, counts, column_scale=column_scale)
    for layout in testing.LAYOUTS.values():
        SELECTIONS[op]("cpu", weight, counts, score=layout(weight.abs()))
    SELECTIONS[op]("cpu", weight, counts, score=column_scale.expand(17, 129))


def test_the_instruction_set_asked_for_is_the_one_in_use(instruction_set):
    assert native.instruction_set() == instruction_set
