from __future__ import annotations

import hypothesis
import pytest
import torch
from hypothesis import strategies as st

from trim_kernels import testing
from trim_kernels.ops.nm_mask import nm_mask
from trim_kernels.ops.nm_rank import nm_rank

SIZES = [1, 2, 4, 5, 8, 12, 16, 31, 32]


def kept_of_rank(rank, keep, of):
    """The mask, as the documentation says it follows from ranks."""
    tail = rank.shape[1] % of
    most = torch.full((rank.shape[1],), keep)
    most[rank.shape[1] - tail :] = -(-keep * tail // of)
    return rank < most


def test_ranks_below_n_are_the_definition_of_keeping_n(scored, case):
    weight, scores = scored
    for of in SIZES:
        rank = nm_rank(weight, of, **scores, backend="reference")
        for keep in {0, 1, of // 2, of - 1, of}:
            with case(keep=keep, of=of):
                expected = torch.tensor(testing.nm_kept(weight, keep, of, **scores)).reshape(weight.shape)
                assert torch.equal(kept_of_rank(rank, keep, of), expected.bool())


@st.composite
def calls(draw):
    """A weight with as many ties as drawn, a way to score it and the size of a group."""
    rows, columns, of = draw(st.integers(0, 4)), draw(st.integers(1, 80)), draw(st.integers(1, 32))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    levels = draw(st.sampled_from([1, 2, 5, 100_000]))
    weight = torch.randint(-levels, levels + 1, (rows, columns), generator=generator) / levels
    scoring = testing.SCORINGS[draw(st.sampled_from(list(testing.SCORINGS)))](weight)
    return weight.to(draw(st.sampled_from(list(testing.DTYPES.values())))), of, scoring


@hypothesis.given(call=calls())
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_every_mask_is_a_comparison_of_the_same_ranks(backend, call):
    weight, of, scoring = call
    rank = nm_rank(weight, of, **scoring, backend=backend)
    for keep in range(of + 1):
        assert torch.equal(kept_of_rank(rank, keep, of), nm_mask(weight, keep, of, **scoring, backend=backend))


@pytest.mark.parametrize("columns", [1, 3, 5, 31, 33, 100])
@pytest.mark.parametrize("of", SIZES)
def test_every_group_has_each_rank_once(of, columns, backend):
    rank = nm_rank(testing.nasty_matrix("ties", torch.float32)[:, :columns], of, backend=backend)
    for group in rank.split(of, dim=1):
        everyone = torch.arange(group.shape[1], dtype=torch.uint8)
        assert torch.equal(group.sort(dim=1).values, everyone.expand(group.shape))


def test_of_equal_scores_the_lower_column_goes_first(backend):
    rank = nm_rank(torch.tensor([[1.0, -1.0, 1.0, 0.5, 0.0, -0.0, 0.0]]), 4, backend=backend)
    assert rank.dtype == torch.uint8
    assert rank.tolist() == [[2, 1, 0, 3, 2, 1, 0]]


@pytest.mark.parametrize("layout", testing.LAYOUTS)
@pytest.mark.parametrize("of", [4, 7, 32])
def test_ranks_lie_row_by_row_whatever_the_layout_of_the_weight(of, layout, backend):
    weight = testing.nasty_matrix("17x129", torch.float16, layout)
    rank = nm_rank(weight, of, backend=backend)
    assert rank.is_contiguous()
    assert torch.equal(rank, nm_rank(weight.contiguous(), of, backend="reference"))


def test_a_score_overrules_the_magnitude(backend):
    rank = nm_rank(torch.tensor([[1.0, 9.0]]), 2, score=torch.tensor([[2.0, 0.0]]), backend=backend)
    assert rank.tolist() == [[0, 1]]


def test_a_score_that_overflows_to_infinity_is_the_highest(backend):
    weight, column_scale = torch.tensor([[3e38, 1.0, 3e38, 3e38]]), torch.tensor([2.0, 1.0, 1.0, 2.0])
    assert nm_rank(weight, 4, column_scale=column_scale, backend=backend).tolist() == [[1, 3, 2, 0]]


def test_a_parameter_is_taken_and_the_weight_left_alone(backend):
    weight = torch.nn.Parameter(testing.nasty_matrix("5x8", torch.float32))
    before = weight.detach().clone()
    assert not nm_rank(weight, 4, backend=backend).requires_grad
    assert torch.equal(weight.detach(), before)


def test_vouched_for_values_give_the_same_ranks(backend):
    weight = testing.nasty_matrix("ties", torch.float16)
    assert torch.equal(nm_rank(weight, 8, check_values=False, backend=backend), nm_rank(weight, 8, backend=backend))
