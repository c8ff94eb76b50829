from __future__ import annotations

import pytest
import torch

from trim_kernels import gram_, nm_mask, nm_rank, prune_nm_, testing


@pytest.mark.parametrize("dtype", testing.DTYPES)
@pytest.mark.parametrize(
    ("keep", "of", "scoring"),
    [(2, 4, "column_scale"), (4, 8, "score"), (0, 1, "magnitude"), (2, 5, "column_scale"), (9, 32, "magnitude")],
)
def test_groups_are_those_of_the_reference(keep, of, scoring, dtype, matrix):
    weight, _, scores = matrix("ties", dtype, scoring)
    of_first_rows = {name: tensor[:3] if tensor.dim() > 1 else tensor for name, tensor in scores.items()}
    testing.check_nm_rank("triton", weight[:3], of, **of_first_rows)
    testing.check_nm_mask("triton", weight[:3], keep, of, **of_first_rows)
    testing.check_prune_nm("triton", weight, keep, of, **scores)


@pytest.mark.parametrize("layout", testing.LAYOUTS)
def test_views_are_pruned_in_groups(layout, matrix):
    weight, _, scores = matrix("3x7", "float16", "column_scale", layout)
    testing.check_prune_nm("triton", weight, 2, 4, **scores, check_values=False)


@pytest.mark.parametrize("of", [1, 2, 6, 8, 16, 31])
def test_ranks_are_those_of_the_reference_in_a_shorter_last_group_too(of, matrix):
    weight, _, scores = matrix("17x129", "bfloat16", "column_scale", "transposed")
    testing.check_nm_rank("triton", weight[:2, :77], of, column_scale=scores["column_scale"][:77])


def test_a_bad_value_leaves_the_weight_as_it_was(device):
    weight = testing.nasty_matrix("3x7", torch.float32).to(device)
    weight[2, 6] = torch.nan
    before = weight.clone()
    for call in (nm_mask, prune_nm_):
        with pytest.raises(ValueError, match=r"^weight: expected finite values, got nan at \[2, 6\]"):
            call(weight, 2, 4, backend="triton")
    with pytest.raises(ValueError, match=r"^weight: expected finite values, got nan at \[2, 6\]"):
        nm_rank(weight, 4, backend="triton")
    assert torch.equal(weight.nan_to_num(7), before.nan_to_num(7))


@pytest.mark.parametrize("layout", ["contiguous", "transposed", "column_strided"])
@pytest.mark.parametrize("dtype", testing.DTYPES)
def test_activations_are_summed_like_plain_torch(dtype, layout, matrix, device):
    x, _, _ = matrix("17x129", dtype, "magnitude", layout)
    start = torch.rand(129, 129, generator=torch.Generator().manual_seed(6)).to(device)
    for mask in (None, (torch.arange(17) % 3 != 0).to(device)):
        testing.check_column_sqnorm("triton", start[0], x, mask)
        testing.check_column_sqnorm("triton", start[0].double(), x, mask)
        testing.check_gram("triton", start, x, mask)


def test_tokens_that_do_not_count_may_be_nan(device):
    x = testing.nasty_matrix("3x7", torch.float32).to(device)
    x[1] = torch.nan
    counts = torch.tensor([True, False, True], device=device)
    testing.check_column_sqnorm("triton", torch.zeros(7, device=device), x, counts)
    testing.check_gram("triton", torch.zeros(7, 7, device=device), x, counts)


def test_no_tokens_add_nothing(device):
    acc = torch.ones(5, 5, device=device)
    assert torch.equal(gram_(acc.clone(), torch.zeros(0, 5, device=device), backend="triton"), acc)
    testing.check_column_sqnorm("triton", acc[0], torch.zeros(0, 5, device=device))
