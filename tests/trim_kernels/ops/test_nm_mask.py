from __future__ import annotations

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from trim_kernels import testing, unpack_bits
from trim_kernels.ops.nm_mask import nm_mask

PATTERNS = [(0, 1), (1, 1), (1, 2), (2, 4), (0, 4), (4, 4), (3, 5), (4, 8), (7, 12), (8, 16), (16, 32), (31, 32)]


def test_reference_keeps_what_comes_last_in_each_group(scored, case):
    weight, scores = scored
    for pattern in PATTERNS:
        with case(pattern=pattern):
            expected = np.array(testing.nm_kept(weight, *pattern, **scores), dtype=bool).reshape(weight.shape)
            mask = nm_mask(weight, *pattern, **scores, backend="reference")
            packed = nm_mask(weight, *pattern, **scores, packed=True, backend="reference")
            assert np.array_equal(mask.numpy(), expected)
            assert np.array_equal(packed.numpy(), np.packbits(expected, axis=1, bitorder="little"))


@st.composite
def calls(draw):
    """A weight with as many ties as drawn, and a pattern."""
    rows, columns, of = draw(st.integers(0, 4)), draw(st.integers(1, 80)), draw(st.integers(1, 32))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    levels = draw(st.sampled_from([1, 2, 5, 100_000]))
    weight = torch.randint(-levels, levels + 1, (rows, columns), generator=generator) / levels
    return weight.to(draw(st.sampled_from(list(testing.DTYPES.values())))), draw(st.integers(0, of)), of


@hypothesis.given(call=calls())
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_any_mask_equals_the_definition(backend, call):
    weight, keep, of = call
    mask = nm_mask(weight, keep, of, backend=backend)
    assert mask.tolist() == testing.nm_kept(weight, keep, of)


@pytest.mark.parametrize("columns", [1, 3, 5, 31, 33, 100])
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_every_group_keeps_its_share_and_a_shorter_last_one_no_less(pattern, columns, backend):
    keep, of = pattern
    mask = nm_mask(testing.heavy_tailed(7, columns, 1)[0], keep, of, backend=backend)
    for group in mask.split(of, dim=1):
        size = group.shape[1]
        assert group.sum(dim=1).tolist() == [-(-keep * size // of)] * 7


@pytest.mark.parametrize("pattern", [(1, 3), (2, 4), (5, 12), (8, 16)], ids=str)
def test_packed_is_the_same_mask_in_bits(pattern, backend):
    weight = testing.nasty_matrix("17x129", torch.bfloat16)
    packed = nm_mask(weight, *pattern, packed=True, backend=backend)
    assert packed.dtype == torch.uint8
    assert torch.equal(unpack_bits(packed, 129), nm_mask(weight, *pattern, backend=backend))


def test_equal_scores_go_from_the_left(backend):
    mask = nm_mask(torch.tensor([[1.0, -1.0, 1.0, 0.5, 0.0, -0.0, 0.0, -0.0]]), 2, 4, backend=backend)
    assert mask.int().tolist() == [[0, 1, 1, 0, 0, 0, 1, 1]]


def test_a_group_is_not_influenced_by_its_neighbours(backend):
    weight = torch.tensor([[9.0, 8.0, 7.0, 6.0, 1.0, 2.0, 3.0, 4.0]])
    assert nm_mask(weight, 1, 4, backend=backend).int().tolist() == [[1, 0, 0, 0, 0, 0, 0, 1]]


def test_a_group_larger_than_the_row_is_a_tail(backend):
    assert nm_mask(torch.tensor([[3.0, 1.0, 2.0]]), 1, 8, backend=backend).int().tolist() == [[1, 0, 0]]


def test_a_score_overrules_the_magnitude(backend):
    mask = nm_mask(torch.tensor([[1.0, 9.0]]), 1, 2, score=torch.tensor([[2.0, 0.0]]), backend=backend)
    assert mask.tolist() == [[True, False]]


def test_bfloat16_is_scored_in_float32(backend):
    weight = torch.tensor([[1.0, 1.0078125]], dtype=torch.bfloat16)
    # In bfloat16 both products would round to the same number, and the left weight would go.
    column_scale = torch.tensor([1.0079, 1.0])
    assert nm_mask(weight, 1, 2, column_scale=column_scale, backend=backend).tolist() == [[True, False]]


def test_a_score_that_overflows_to_infinity_is_the_highest(backend):
    weight, column_scale = torch.tensor([[3e38, 1.0, 3e38, 3e38]]), torch.tensor([2.0, 1.0, 1.0, 2.0])
    assert nm_mask(weight, 2, 4, column_scale=column_scale, backend=backend).int().tolist() == [[1, 0, 0, 1]]


def test_a_parameter_is_taken_and_the_weight_left_alone(backend):
    weight = torch.nn.Parameter(testing.nasty_matrix("5x8", torch.float32))
    before = weight.detach().clone()
    mask = nm_mask(weight, 2, 4, backend=backend)
    assert not mask.requires_grad
    assert torch.equal(weight.detach(), before)


def test_vouched_for_values_give_the_same_mask(backend):
    weight = testing.nasty_matrix("ties", torch.float16)
    vouched = nm_mask(weight, 2, 4, check_values=False, backend=backend)
    assert torch.equal(vouched, nm_mask(weight, 2, 4, backend=backend))
