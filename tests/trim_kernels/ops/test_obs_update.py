from __future__ import annotations

import hypothesis
import pytest
import torch
from hypothesis import strategies as st

from benchmarks.baselines.sparsegpt_paper import update
from trim_kernels import inverse_factor, obs_update_, testing
from trim_kernels.ops.obs_update import blocks, native

SHAPES = [(1, 1), (1, 9), (9, 1), (0, 5), (3, 7), (33, 15), (17, 127), (70, 128), (31, 129), (5, 300), (3, 1025)]


def brute_force(weight, kept, hessian):
    """Each pruned weight is removed for itself, by the optimal-brain-surgeon formulas of a second-order expansion.

    Columns left of j are frozen when column j is removed: what may still change is ``w[j:]``, whose Hessian is the
    submatrix ``H[j:, j:]``. With G its inverse, the change that makes w_j zero at the least cost is
    ``-w_j / G_00 * G[:, 0]``, and it costs ``w_j^2 / G_00`` (half of it where the loss is half a square). G is computed
    anew for every column; no Cholesky factor is involved.
    """
    weight, costs = weight.double().clone(), torch.zeros(weight.shape, dtype=torch.float64)
    for row in range(weight.shape[0]):
        for j in range(weight.shape[1]):
            if not kept[row, j]:
                inverse = torch.linalg.inv(hessian[j:, j:])
                costs[row, j] = weight[row, j] ** 2 / inverse[0, 0]
                weight[row, j:] -= weight[row, j] / inverse[0, 0] * inverse[:, 0]
                weight[row, j] = 0
    return weight, costs


def hessian_of(columns, seed=0):
    inputs = testing.heavy_tailed(1, columns, 3 * columns, seed)[1].double()
    return inputs @ inputs.t() / inputs.shape[1]


@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_optimal_brain_surgeon_on_the_columns_that_follow(seed, backend):
    hessian = hessian_of(8, seed)
    weight, kept, _ = testing.elimination(8, 8, 0.5, seed)
    expected, costs = brute_force(weight, kept, hessian)
    errors = obs_update_(weight, kept, inverse_factor(hessian).float(), backend=backend)
    torch.testing.assert_close(weight.double(), expected, rtol=1e-4, atol=1e-5)
    # The cost is the squared error: w_j^2 / U_jj^2. The diagonal of the *inverse Hessian* would come unsquared.
    torch.testing.assert_close(errors.double().square(), costs, rtol=1e-4, atol=1e-9)


def test_the_errors_add_up_to_what_the_output_loses(backend):
    hessian = hessian_of(40)
    weight, kept, _ = testing.elimination(6, 40, 0.5)
    dense = weight.double()
    errors = obs_update_(weight, kept, inverse_factor(hessian).float(), backend=backend)
    change = weight.double() - dense
    lost = (change @ hessian * change).sum(1)
    torch.testing.assert_close(errors.double().square().sum(1), lost, rtol=1e-4, atol=0)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_as_exact_as_plain_float32(shape, backend):
    for sparsity in (0.0, 0.3, 0.9, 1.0):
        testing.check_obs_update(backend, *testing.elimination(*shape, sparsity))


@pytest.mark.usefixtures("instruction_set", "poisoned_memory")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_instruction_set_is_as_exact_as_plain_float32(shape):
    testing.check_obs_update("cpu", *testing.elimination(*shape))


@pytest.mark.parametrize("layout", testing.LAYOUTS)
def test_every_argument_may_lie_in_memory_in_any_way(layout, backend):
    weight, kept, factor = testing.elimination(19, 150)
    lay = testing.LAYOUTS[layout]
    testing.check_obs_update(backend, lay(weight), lay(kept.half()).bool(), factor)
    testing.check_obs_update(backend, weight, kept.t().contiguous().t(), lay(factor))


@pytest.mark.parametrize("columns", [96, 300])
def test_some_columns_after_others_are_all_columns(columns, backend):
    weight, kept, factor = testing.elimination(9, columns)
    whole, cut = weight.clone(), columns // 3
    whole_errors = obs_update_(whole, kept, factor, backend=backend)
    left, right = slice(0, cut), slice(cut, columns)
    first = obs_update_(weight[:, left], kept[:, left], factor[left, left], backend=backend)
    weight[:, right] -= first @ factor[left, right]
    second = obs_update_(weight[:, right], kept[:, right], factor[right, right], backend=backend)
    torch.testing.assert_close(weight, whole, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(torch.cat([first, second], 1), whole_errors, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("block", "panel"), [(128, 1024), (4, 12), (5, 5), (1, 3)])
@pytest.mark.parametrize("columns", [11, 12, 13, 127, 129])
def test_the_widths_of_blocks_and_panels_do_not_matter(columns, block, panel, backend, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", block)
    monkeypatch.setattr(blocks, "PANEL", panel)
    testing.check_obs_update(backend, *testing.elimination(5, columns))


@pytest.mark.usefixtures("instruction_set", "poisoned_memory")
@pytest.mark.parametrize("columns", [300, 2047, 2049])
def test_wide_blocks_of_many_rows(columns):
    for rows in (native.MANY_ROWS - 1, native.MANY_ROWS, native.MANY_ROWS + 1):
        testing.check_obs_update("cpu", *testing.elimination(rows, columns))


def test_several_wide_blocks():
    testing.check_obs_update("cpu", *testing.elimination(native.MANY_ROWS + 2, 2 * native.WIDE_BLOCK + 100))


@pytest.mark.parametrize("columns", [15, 16, 17, 40])
def test_the_width_of_wide_blocks_does_not_matter(columns, monkeypatch):
    monkeypatch.setattr(native, "WIDE_BLOCK", 16)
    monkeypatch.setattr(blocks, "PANEL", 8)
    testing.check_obs_update("cpu", *testing.elimination(native.MANY_ROWS, columns))


@pytest.mark.parametrize("shape", [(40, 300), (7, 1100), (300, 160)], ids=str)
def test_it_is_the_published_update(shape, backend):
    weight, kept, factor = testing.elimination(*shape)
    expected = weight.clone()
    expected_errors = update(expected, factor, 0.6, kept)
    errors = obs_update_(weight, kept, factor, backend=backend)
    torch.testing.assert_close(weight, expected, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(errors, expected_errors, rtol=1e-3, atol=1e-5)
    assert torch.equal(weight == 0, ~kept)


def test_what_is_all_kept_stays_and_what_is_all_pruned_goes(backend):
    weight, _, factor = testing.elimination(20, 140)
    before = weight.clone()
    errors = obs_update_(weight, torch.ones(20, 140, dtype=torch.bool), factor, backend=backend)
    assert torch.equal(weight, before)
    assert not errors.any()
    obs_update_(weight, torch.zeros(20, 140, dtype=torch.bool), factor, backend=backend)
    assert not weight.any()


def test_with_inputs_that_are_not_correlated_it_only_prunes(backend):
    weight, kept, _ = testing.elimination(6, 200)
    expected = weight * kept
    errors = obs_update_(weight, kept, 2 * torch.eye(200), backend=backend)
    assert torch.equal(weight, expected)
    assert torch.equal(errors, errors.masked_fill(kept, 0))


def test_below_the_diagonal_nothing_is_read(backend):
    weight, kept, factor = testing.elimination(6, 200)
    expected = weight.clone()
    obs_update_(expected, kept, factor, backend=backend)
    below = torch.ones(200, 200, dtype=torch.bool).tril(-1)
    obs_update_(weight, kept, factor.masked_fill(below, torch.nan), backend=backend)
    assert torch.equal(weight, expected)


def test_tensors_that_require_grad_are_taken_as_numbers(backend):
    weight, kept, factor = testing.elimination(4, 30)
    expected = weight.clone()
    obs_update_(expected, kept, factor, backend=backend)
    errors = obs_update_(weight.requires_grad_(), kept, factor.requires_grad_(), backend=backend)
    assert not errors.requires_grad
    assert torch.equal(weight, expected)


def test_the_factor_may_be_a_view_of_the_weight(backend):
    _, kept, factor = testing.elimination(30, 30)
    expected = factor.clone()
    obs_update_(expected, kept, factor.clone(), backend=backend)
    obs_update_(factor, kept, factor, backend=backend)
    assert torch.equal(factor, expected)


@pytest.fixture(params=["high", "medium"])
def fast_products(request):
    """As if the user preferred speed to accuracy."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield request.param
    torch.set_float32_matmul_precision(before)


def test_products_are_full_float32_and_what_was_set_stays(fast_products, backend):
    arguments = testing.elimination(5, 300)
    with torch.autocast("cpu", torch.bfloat16):
        testing.check_obs_update(backend, *arguments)
    assert torch.get_float32_matmul_precision() == fast_products


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
    rows=st.integers(0, 40),
    columns=st.integers(1, 140),
    sparsity=st.floats(0, 1),
    seed=st.integers(0, 2**30),
    layout=st.sampled_from(list(testing.LAYOUTS)),
)
def test_any_elimination_is_as_exact_as_plain_float32(rows, columns, sparsity, seed, layout):
    weight, kept, factor = testing.elimination(rows, columns, sparsity, seed)
    testing.check_obs_update("auto", testing.LAYOUTS[layout](weight), kept, factor)
