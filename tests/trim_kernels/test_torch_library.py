"""The operators are good citizens of torch: opcheck passes, and torch.compile traces the public functions."""

from __future__ import annotations

import shutil

import pytest
import torch

import trim_kernels
from trim_kernels import testing

WEIGHT, INPUTS, COLUMN_SCALE = testing.heavy_tailed(6, 21, 5)
ELIMINATION = testing.elimination(6, 21)
COUNTS = testing.mixed_counts(WEIGHT)
SCORE = WEIGHT.abs()
TOKENS = torch.tensor([True, False, True, True, False])
PACKED = trim_kernels.pack_bits(SCORE > 0.01)
GRAM = INPUTS @ INPUTS.t()
SEARCH = ([0.01, 0.02], [-0.01], 3, 0.95, "cosine", "cosine", "exact")
# The trace holds NaN for what was not tried, which opcheck takes for a difference: without steps there is none.
NO_STEPS = ([0.01], [], 0, 0.95, "cosine", "cosine", "exact")
CALLS = {
    "row_threshold": (WEIGHT, COUNTS, COLUMN_SCALE, None, True),
    "row_threshold with score": (WEIGHT, COUNTS, None, SCORE, False),
    "row_mask": (WEIGHT, COUNTS, None, None, False, True),
    "row_mask packed": (WEIGHT.bfloat16(), COUNTS, COLUMN_SCALE, None, True, False),
    "prune_rows_": (WEIGHT, COUNTS, COLUMN_SCALE, None, True),
    "prune_rows_ transposed": (WEIGHT.t().contiguous().t(), COUNTS, COLUMN_SCALE, None, True),
    "row_order": (WEIGHT.half(), COLUMN_SCALE, None, True),
    "row_order transposed": (WEIGHT.t().contiguous().t(), None, None, True),
    "row_quality": (WEIGHT, COUNTS, INPUTS, COLUMN_SCALE, None, True),
    "row_error_curve": (WEIGHT, GRAM, 4, 15, COLUMN_SCALE, None, True),
    "row_error_curve transposed": (WEIGHT.half().t().contiguous().t(), GRAM.t(), 0, 21, None, SCORE, False),
    "allocate_rows": (WEIGHT, INPUTS, 0.5, COLUMN_SCALE, None, *NO_STEPS),
    "nm_rank": (WEIGHT.half(), 8, COLUMN_SCALE, None, True),
    "nm_rank transposed": (WEIGHT.t().contiguous().t(), 5, None, SCORE, False),
    "nm_mask": (WEIGHT, 2, 4, None, None, False, True),
    "nm_mask packed": (WEIGHT.bfloat16(), 3, 5, COLUMN_SCALE, None, True, False),
    "prune_nm_": (WEIGHT, 2, 4, None, SCORE, True),
    "prune_nm_ transposed": (WEIGHT.t().contiguous().t(), 8, 16, COLUMN_SCALE, None, True),
    "column_sqnorm_": (torch.zeros(21), INPUTS.t(), None),
    "column_sqnorm_ with mask": (torch.zeros(42).double()[::2], INPUTS.t().half(), TOKENS),
    "gram_": (torch.zeros(21, 21), INPUTS.t().bfloat16(), None),
    "obs_update_": ELIMINATION,
    "obs_update_ transposed": (ELIMINATION[0].t().contiguous().t(), *ELIMINATION[1:]),
    "pack_values": (WEIGHT.bfloat16(), PACKED),
    "pack_values transposed": (WEIGHT.t().contiguous().t(), PACKED),
    "unpack_values": (WEIGHT[SCORE > 0.01], PACKED, 21),
    "gram_ with mask": (torch.zeros(21, 21).t(), INPUTS.t(), TOKENS),
}


@pytest.mark.parametrize("call", CALLS)
def test_opcheck_passes(call, backend):
    operator = getattr(torch.ops.trim_kernels, call.split()[0]).default
    arguments = tuple(a.clone() if isinstance(a, torch.Tensor) else a for a in CALLS[call])
    torch.library.opcheck(operator, (*arguments, backend))


def test_opcheck_passes_on_a_search_but_for_comparing_values(backend):
    torch.library.opcheck(
        torch.ops.trim_kernels.allocate_rows.default,
        (WEIGHT, INPUTS, 0.5, COLUMN_SCALE, None, *SEARCH, backend),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )


def test_every_operator_is_checked():
    from trim_kernels import library

    assert {call.split()[0] for call in CALLS} == set(library._SCHEMAS)


def prune(weight, prune_count, column_scale, backend):
    mask = trim_kernels.row_mask(weight, prune_count, column_scale=column_scale, backend=backend)
    trim_kernels.prune_rows_(weight, prune_count, column_scale=column_scale, backend=backend)
    return mask, weight.float().abs().sum() + mask.sum()


def require_same_when_compiled(compiler, count, backend):
    torch._dynamo.reset()
    compiled = torch.compile(prune, fullgraph=True, backend=compiler)
    eager_weight, weight = WEIGHT.clone(), WEIGHT.clone()
    eager_mask, eager_sum = prune(eager_weight, count, COLUMN_SCALE, backend)
    mask, total = compiled(weight, count, COLUMN_SCALE, backend)
    assert torch.equal(mask, eager_mask)
    assert torch.equal(weight, eager_weight)
    torch.testing.assert_close(total, eager_sum)


@pytest.mark.parametrize("count", [7, COUNTS], ids=["int", "tensor"])
def test_traced_pruning_equals_eager(count, backend):
    require_same_when_compiled("aot_eager", count, backend)


def collect(x, token_mask, backend):
    norms = trim_kernels.column_sqnorm_(torch.zeros(21), x, token_mask=token_mask, backend=backend)
    products = trim_kernels.gram_(torch.zeros(21, 21), x, token_mask=token_mask, backend=backend)
    mask = trim_kernels.nm_mask(products, 2, 4, column_scale=norms, backend=backend)
    rank = trim_kernels.nm_rank(products, 4, column_scale=norms, backend=backend)
    return trim_kernels.prune_nm_(products, 2, 4, column_scale=norms, backend=backend), mask, rank < 1


def test_traced_sums_over_tokens_equal_eager(backend):
    torch._dynamo.reset()
    compiled = torch.compile(collect, fullgraph=True, backend="aot_eager")
    for got, expected in zip(compiled(INPUTS.t(), TOKENS, backend), collect(INPUTS.t(), TOKENS, backend), strict=True):
        assert torch.equal(got, expected)


def zero_the_rest(weight, kept, columns, backend):
    values = trim_kernels.pack_values(weight, kept, backend=backend)
    return trim_kernels.unpack_values(2 * values, kept, columns, backend=backend)


def test_traced_packing_equals_eager(backend):
    torch._dynamo.reset()
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = torch.compile(zero_the_rest, fullgraph=True, backend="aot_eager")
        got = compiled(WEIGHT, PACKED, 21, backend)
    assert torch.equal(got, (2 * WEIGHT).masked_fill(SCORE <= 0.01, 0))


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="inductor needs a C++ compiler")
@pytest.mark.filterwarnings("default")  # what inductor warns about is not ours
def test_compiled_pruning_equals_eager():
    require_same_when_compiled("inductor", COUNTS, "auto")


@pytest.mark.parametrize("packed", [False, True])
def test_a_meta_weight_gives_the_shapes_of_the_results(packed):
    weight = torch.empty(5, 9, device="meta", dtype=torch.bfloat16)
    for mask in (trim_kernels.row_mask(weight, 3, packed=packed), trim_kernels.nm_mask(weight, 2, 4, packed=packed)):
        assert (mask.device.type, mask.dtype) == ("meta", torch.uint8 if packed else torch.bool)
        assert mask.shape == ((5, 2) if packed else (5, 9))


def test_a_meta_weight_gives_the_shape_of_its_ranks():
    rank = trim_kernels.nm_rank(torch.empty(5, 9, device="meta", dtype=torch.bfloat16), 4)
    assert (rank.device.type, rank.dtype, rank.shape) == ("meta", torch.uint8, (5, 9))
