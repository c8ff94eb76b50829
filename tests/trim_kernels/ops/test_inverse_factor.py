from __future__ import annotations

import hypothesis
import pytest
import torch
from hypothesis import strategies as st

from benchmarks.baselines.sparsegpt_paper import DAMPING, factorise
from trim_kernels import gram_, inverse_factor, testing

nan, inf = float("nan"), float("inf")
DTYPES = [torch.float32, torch.float64]


def hessian_of(columns, dtype=torch.float64, seed=0):
    inputs = testing.heavy_tailed(1, columns, 2 * columns + 3, seed)[1].double()
    hessian = inputs @ inputs.t() / inputs.shape[1]
    hessian.diagonal().add_(DAMPING * hessian.diagonal().mean())
    return hessian.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("columns", [1, 2, 3, 127, 128, 129, 257, 700])
def test_it_is_the_upper_factor_of_the_inverse(columns, dtype):
    hessian = hessian_of(columns, dtype)
    before = hessian.clone()
    factor = inverse_factor(hessian)
    assert (factor.dtype, factor.shape, factor.is_contiguous()) == (dtype, hessian.shape, True)
    assert torch.equal(factor, factor.triu())
    assert (factor.diagonal() > 0).all()
    assert torch.equal(hessian, before)
    expected = torch.linalg.cholesky(torch.linalg.inv(hessian.double()), upper=True)
    error = (factor.double() - expected).norm() / expected.norm()
    assert error < 2000 * torch.finfo(dtype).eps


@pytest.mark.parametrize("columns", [64, 400])
def test_it_is_as_exact_as_the_published_way(columns):
    hessian = hessian_of(columns, torch.float32)
    damped = hessian.clone()
    damped.diagonal().add_(DAMPING * hessian.diagonal().mean())
    truth = inverse_factor(damped.double())
    published = (factorise(hessian)[0].double() - truth).norm()
    assert (inverse_factor(damped).double() - truth).norm() <= 1.5 * published


def test_only_the_triangle_that_gram_fills_is_read():
    x = testing.heavy_tailed(1, 150, 300)[1].t()
    lower = gram_(torch.full((150, 150), nan).triu(1), x)
    lower.diagonal().add_(1)
    whole = lower.tril() + lower.tril(-1).t()
    assert torch.equal(inverse_factor(lower), inverse_factor(whole))


@pytest.mark.parametrize("layout", testing.LAYOUTS)
def test_a_matrix_may_lie_in_memory_in_any_way(layout):
    hessian = hessian_of(200, torch.float32)
    assert torch.equal(inverse_factor(testing.LAYOUTS[layout](hessian)), inverse_factor(hessian))


@pytest.mark.parametrize("strip", [1, 2, 3, 7])
def test_the_width_of_strips_does_not_matter(strip, monkeypatch):
    import sys

    monkeypatch.setattr(sys.modules["trim_kernels.inverse_factor"], "_STRIP", strip)
    for columns in range(1, 12):
        hessian = hessian_of(columns)
        expected = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
        torch.testing.assert_close(inverse_factor(hessian), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_not_positive_definite_is_refused(dtype):
    singular = torch.eye(300, dtype=dtype)
    singular[150, 150] = 0
    name = str(dtype).removeprefix("torch.")
    message = (
        rf"^hessian: expected a positive definite matrix in {name}, got one that is not from its last 150 columns on"
    )
    with pytest.raises(ValueError, match=message):
        inverse_factor(singular)
    with pytest.raises(ValueError, match="positive definite"):
        inverse_factor(-hessian_of(20, dtype))


@pytest.mark.parametrize("bad", [nan, inf, -inf], ids=str)
@pytest.mark.parametrize("position", [(0, 0), (199, 199), (150, 3)], ids=str)
def test_what_is_not_finite_is_named(bad, position):
    hessian = hessian_of(200, torch.float32)
    hessian[position] = bad
    with pytest.raises(ValueError, match=rf"^hessian: expected finite values, got {bad} at \[{position[0]}, "):
        inverse_factor(hessian)


WRONG = {
    "half": torch.eye(3).half(),
    "vector": torch.ones(3),
    "not square": torch.ones(3, 4),
    "empty": torch.ones(0, 0),
    "integers": torch.eye(3).int(),
    "list": [[1.0]],
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_no_hessian_is_refused(wrong):
    with pytest.raises(ValueError, match=r"^hessian: expected a float32 or float64 matrix \[C, C\] with C >= 1, got "):
        inverse_factor(WRONG[wrong])


def test_a_gradient_is_not_asked_for():
    assert not inverse_factor(hessian_of(5).requires_grad_()).requires_grad


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(columns=st.integers(1, 300), seed=st.integers(0, 2**30))
def test_factor_and_hessian_multiply_to_one(columns, seed):
    hessian = hessian_of(columns, torch.float64, seed)
    factor = inverse_factor(hessian)
    torch.testing.assert_close(factor @ hessian @ factor.t(), torch.eye(columns).double(), rtol=0, atol=1e-8)
