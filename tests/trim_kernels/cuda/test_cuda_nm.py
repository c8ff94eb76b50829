"""nm_rank, nm_mask and prune_nm_ on the CUDA kernels: every group size, share, layout and schedule."""

from __future__ import annotations

import itertools

import pytest
import torch

from trim_kernels import testing
from trim_kernels.ops.nm_mask import nm_mask
from trim_kernels.ops.nm_rank import nm_rank
from trim_kernels.ops.prune_nm import prune_nm_

pytestmark = pytest.mark.usefixtures("cuda_on_cpu")
CHECKS = {
    "nm_rank": lambda backend, weight, _, of, **scoring: testing.check_nm_rank(backend, weight, of, **scoring),
    "nm_mask": testing.check_nm_mask,
    "prune_nm_": testing.check_prune_nm,
}
PATTERNS = [(1, 1), (1, 2), (2, 4), (1, 4), (3, 5), (4, 8), (2, 8), (8, 16), (5, 16), (16, 32), (31, 32), (13, 29)]


def with_ties(rows, columns, levels=4):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(columns)).mul(levels).round()


@pytest.mark.parametrize("op", CHECKS)
@pytest.mark.parametrize("dtype", testing.DTYPES)
@pytest.mark.parametrize("matrix", testing.MATRICES)
def test_nasty_matrices(op, dtype, matrix, case):
    for number, (layout, scoring) in enumerate(itertools.product(testing.LAYOUTS, testing.SCORINGS)):
        weight = testing.nasty_matrix(matrix, testing.DTYPES[dtype], layout)
        for keep, of in (PATTERNS[number % 12], PATTERNS[(number + 5) % 12]):
            with case(layout=layout, scoring=scoring, keep=keep, of=of):
                CHECKS[op]("cuda", weight, keep, of, **testing.SCORINGS[scoring](weight))


@pytest.mark.parametrize("of", range(1, 33))
def test_every_share_of_every_group_size(of, case):
    for keep, columns in itertools.product(range(of + 1), (32, 131)):
        with case(keep=keep, columns=columns):
            testing.check_nm_mask("cuda", with_ties(2, columns).bfloat16(), keep, of)


@pytest.mark.parametrize("of", range(1, 33))
def test_ranks_in_groups_of_every_size(of, case):
    for columns in (1, 32, 96, 131):
        with case(columns=columns):
            testing.check_nm_rank("cuda", with_ties(3, columns).bfloat16(), of)


@pytest.mark.parametrize("op", CHECKS)
@pytest.mark.parametrize("scoring", testing.SCORINGS)
@pytest.mark.parametrize("dtype", testing.DTYPES)
def test_rows_in_registers(op, dtype, scoring, case):
    weight = with_ties(5, 1056, levels=3).to(testing.DTYPES[dtype])
    for keep, of in [(1, 2), (2, 4), (1, 4), (4, 8), (7, 8), (8, 16), (3, 16), (16, 32), (8, 32), (0, 4), (32, 32)]:
        with case(keep=keep, of=of):
            CHECKS[op]("cuda", weight, keep, of, **testing.SCORINGS[scoring](weight))


def test_a_thread_takes_several_rows():
    # More rows than threads of a large GPU would take one each.
    weight = with_ties(70_001, 64).half()
    testing.check_prune_nm("cuda", weight, 2, 4)
    testing.check_nm_rank("cuda", weight, 8)


@pytest.mark.parametrize("columns", [640, 4000])
def test_groups_that_pass_through_shared_memory(columns):
    weight = with_ties(2, columns)
    for keep, of in [(2, 3), (5, 7), (4, 12), (30, 31)]:
        testing.check_nm_rank("cuda", weight, of)
        testing.check_nm_mask("cuda", weight, keep, of)
        testing.check_prune_nm("cuda", weight.bfloat16(), keep, of, column_scale=torch.rand(columns))


@pytest.mark.parametrize("pattern", [(2, 4), (3, 7)], ids=str)
def test_any_schedule(pattern, cuda_on_cpu):
    weight = with_ties(3, 1000).half()
    for seed in range(5):
        cuda_on_cpu.cuda_on_cpu_seed(seed)
        testing.check_nm_rank("cuda", weight, pattern[1])
        testing.check_nm_mask("cuda", weight, *pattern)
        testing.check_prune_nm("cuda", weight, *pattern)


def test_scores_and_scales_that_overflow_or_are_negative_zero():
    weight = torch.tensor([[3e38, 1.0, 3e38, 3e38] * 8])
    scale, score = torch.tensor([2.0, -0.0, 1.0, 2.0] * 8), torch.tensor([[-0.0, 0.0, 3e38, -0.0] * 8])
    for check in CHECKS.values():
        check("cuda", weight, 2, 4, column_scale=scale)
        check("cuda", weight, 2, 4, score=score)


@pytest.mark.parametrize("check_values", [False, True])
def test_without_checks_the_result_is_the_same(check_values):
    weight = testing.nasty_matrix("17x129", torch.bfloat16)
    expected = prune_nm_(weight.clone(), 3, 8, backend="reference")
    assert torch.equal(prune_nm_(weight, 3, 8, check_values=check_values, backend="cuda"), expected)


def test_without_checks_bad_values_do_no_harm_to_other_groups():
    weight = testing.nasty_matrix("17x129", torch.float32)
    expected = nm_mask(weight, 2, 4, backend="reference")
    weight[3, 5] = float("nan")
    mask = nm_mask(weight, 2, 4, check_values=False, backend="cuda")
    mask[3, 4:8] = expected[3, 4:8]
    assert torch.equal(mask, expected)


@pytest.mark.parametrize("of", [4, 5, 32])
def test_without_checks_bad_values_do_no_harm_to_the_ranks_of_other_groups(of):
    weight = testing.nasty_matrix("17x129", torch.float32)[:, :128].contiguous()
    expected = nm_rank(weight, of, backend="reference")
    weight[3, 5], weight[3, 127] = float("nan"), float("-inf")
    rank = nm_rank(weight, of, check_values=False, backend="cuda")
    for column in (5, 127):
        group = slice(column // of * of, column // of * of + of)
        rank[3, group] = expected[3, group]
    assert torch.equal(rank, expected)


@pytest.mark.parametrize("columns", [128, 129])
@pytest.mark.parametrize("op", [nm_mask, prune_nm_, lambda weight, _, of, **options: nm_rank(weight, of, **options)])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")], ids=str)
def test_a_bad_weight_is_named_and_nothing_is_written(op, bad, columns):
    weight = with_ties(17, columns).bfloat16()
    weight[16, columns - 1] = bad
    before = weight.clone()
    with pytest.raises(ValueError, match=rf"^weight: expected finite values, got {bad} at \[16, {columns - 1}\]"):
        op(weight, 2, 4, column_scale=torch.zeros(columns), backend="cuda")
    assert torch.equal(weight.nan_to_num(), before.nan_to_num())


def test_a_bad_score_or_scale_is_named():
    weight, score = torch.ones(2, 8), torch.zeros(2, 8)
    score[1, 7] = -1
    with pytest.raises(ValueError, match=r"^score: expected values >= 0, got -1.0 at \[1, 7\]"):
        nm_mask(weight, 2, 4, score=score, backend="cuda")
    with pytest.raises(ValueError, match=r"^column_scale: expected values >= 0, got -1.0 at \[7\]"):
        nm_mask(weight, 2, 4, column_scale=score[1], backend="cuda")
    with pytest.raises(ValueError, match=r"^score: expected values >= 0, got -1.0 at \[1, 7\]"):
        nm_rank(weight, 4, score=score, backend="cuda")
