"""The ladder that a failed factorisation climbs, rung by rung."""

from __future__ import annotations

import pytest
import torch

import trim_kernels
from trim_prune.factor import factorise as factorise_by

DAMPINGS = [f"damping times {times}" for times in (10, 100, 1000, 10000, 100000)]


def factorise(gram):
    """With SparseGPT's damping, for which the number of tokens does not matter."""
    return factorise_by(gram, 1, 0.01)


def gram_of(tokens, columns, seed=0):
    inputs = torch.randn(tokens, columns, generator=torch.Generator().manual_seed(seed))
    return inputs.t() @ inputs


def damped(gram, share):
    """float64, with a share of its mean added to the diagonal."""
    wide = gram.double()
    return wide + share * wide.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)


def coupled(excess, columns=6):
    """A unit diagonal and one pair of columns whose product is larger than it can be: -excess is an eigenvalue."""
    gram = torch.eye(columns)
    gram[0, 1] = gram[1, 0] = 1 + excess
    return gram


def is_inverse_factor(upper, hessian):
    assert upper.dtype == torch.float32
    assert upper.isfinite().all()
    assert torch.equal(upper, upper.triu())
    assert (upper.diagonal() > 0).all()
    wide = upper.double()
    torch.testing.assert_close(
        wide.t() @ wide @ hessian, torch.eye(len(hessian), dtype=torch.float64), rtol=0, atol=1e-3
    )


@pytest.mark.parametrize("columns", [1, 2, 37, 300])
def test_a_good_matrix_needs_no_step(columns):
    gram = gram_of(4 * columns, columns)
    before = gram.clone()
    factor = factorise(gram)
    assert factor.steps == ()
    is_inverse_factor(factor.upper, damped(gram, 0.01))
    assert torch.equal(gram, before)


@pytest.mark.parametrize("tokens", [1, 3, 63])
def test_fewer_tokens_than_columns_need_no_step(tokens):
    gram = gram_of(tokens, 64)
    factor = factorise(gram)
    assert factor.steps == ()
    is_inverse_factor(factor.upper, damped(gram, 0.01))


def test_some_columns_of_zeros_need_no_step_as_they_are_damped_too():
    gram = gram_of(40, 8)
    gram[3], gram[:, 3] = 0, 0
    factor = factorise(gram)
    assert factor.steps == ()
    is_inverse_factor(factor.upper, damped(gram, 0.01))


@pytest.mark.parametrize("columns", [1, 5])
def test_of_a_zero_matrix_all_columns_are_dead(columns):
    factor = factorise(torch.zeros(columns, columns))
    assert factor.steps == (f"{columns} dead columns",)
    is_inverse_factor(factor.upper, 1.01 * torch.eye(columns, dtype=torch.float64))


@pytest.mark.parametrize("diagonal", [-1.0, -100.0])
def test_a_column_with_a_diagonal_below_zero_is_dead(diagonal):
    gram = torch.eye(6)
    gram[0, 0] = diagonal
    before = gram.clone()
    factor = factorise(gram)
    assert factor.steps == ("1 dead columns",)
    is_inverse_factor(factor.upper, 1.01 * torch.eye(6, dtype=torch.float64))
    assert torch.equal(gram, before)


@pytest.mark.parametrize(
    ("excess", "rungs"), [(0.005, 0), (0.02, 1), (0.5, 2), (5.0, 3), (50.0, 4), (500.0, 5)], ids=str
)
def test_the_damping_grows_tenfold_until_it_outweighs_the_worst_eigenvalue(excess, rungs):
    factor = factorise(coupled(excess))
    assert factor.steps == tuple(DAMPINGS[:rungs])
    is_inverse_factor(factor.upper, damped(coupled(excess), 0.01 * 10**rungs))


def test_the_damping_starts_from_the_dead_columns():
    gram = torch.eye(6)
    gram[0, 0], gram[0, 1], gram[1, 0] = 0, 3, 3
    assert factorise(gram).steps == ("1 dead columns", *DAMPINGS[:3])


def test_float64_follows_where_the_mean_leaves_float32():
    gram = 1e38 * torch.eye(6)
    factor = factorise(gram)
    assert factor.steps == (*DAMPINGS, "float64")
    is_inverse_factor(factor.upper, damped(gram, 0.01))


@pytest.mark.parametrize("excess", [5e3, 2e5])
def test_eigenvalues_are_clipped_where_no_damping_helps(excess):
    factor = factorise(coupled(excess))
    assert factor.steps == (*DAMPINGS, "float64", "eigenvalues clipped")
    values, vectors = torch.linalg.eigh(damped(coupled(excess), 0.01))
    clipped = values.clamp(min=values.clamp(min=0).mean().item() / 100)
    is_inverse_factor(factor.upper, (vectors * clipped) @ vectors.t())


@pytest.mark.parametrize("place", [(2, 2), (2, 3)])
@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
def test_what_is_not_finite_ends_in_a_mask(value, place):
    gram = torch.eye(6)
    gram[place], gram[place[::-1]] = value, value
    factor = factorise(gram)
    assert factor.upper is None
    assert factor.steps == (*DAMPINGS, "float64", "mask only")


@pytest.mark.parametrize("tokens", [1, 3, 63, 640])
def test_without_a_damping_each_entry_grows_by_what_the_tokens_leave_unknown(tokens):
    gram = gram_of(tokens, 64)
    factor = factorise_by(gram, tokens, None)
    wide = gram.double()
    assert factor.steps == ()
    is_inverse_factor(factor.upper, wide + 2 * 64 / tokens * wide.diagonal().diag())


def test_without_a_damping_a_column_of_zeros_needs_no_step_either():
    gram = gram_of(40, 8)
    gram[3], gram[:, 3] = 0, 0
    factor = factorise_by(gram, 40, None)
    assert factor.steps == ()
    diagonal = gram.double().diagonal()
    damped = gram.double() + 2 * 8 / 40 * diagonal.diag()
    damped[3, 3] = diagonal.mean()
    is_inverse_factor(factor.upper, damped)


def test_no_damping_at_all_ends_in_clipped_eigenvalues_if_tokens_are_missing():
    gram = torch.ones(6, 6)
    factor = factorise_by(gram, 1, 0.0)
    assert factor.steps == ("float64", "eigenvalues clipped")
    values, vectors = torch.linalg.eigh(gram.double())
    is_inverse_factor(factor.upper, (vectors * values.clamp(min=0.01)) @ vectors.t())


def test_every_rung_is_tried_in_order_and_recorded(monkeypatch):
    tried = []

    def refuse(hessian):
        tried.append(hessian.dtype)
        raise ValueError("not positive definite")

    monkeypatch.setattr(trim_kernels, "inverse_factor", refuse)
    gram = torch.eye(4)
    gram[0, 0] = 0
    factor = factorise(gram)
    assert factor.upper is None
    assert factor.steps == ("1 dead columns", *DAMPINGS, "float64", "eigenvalues clipped", "mask only")
    assert tried == 7 * [torch.float32] + 2 * [torch.float64]


def test_no_damping_at_all_is_not_multiplied():
    gram = torch.eye(6)
    gram[0, 0], gram[1, 2], gram[2, 1] = 0, 3, 3
    assert factorise_by(gram, 1, 0.0).steps == ("1 dead columns", "float64", "eigenvalues clipped")


def test_eigenvalues_that_are_not_found_end_in_a_mask(monkeypatch):
    def diverge(hessian):
        raise torch.linalg.LinAlgError("the algorithm failed to converge")

    monkeypatch.setattr(torch.linalg, "eigh", diverge)
    factor = factorise(coupled(5e3))
    assert factor.upper is None
    assert factor.steps == (*DAMPINGS, "float64", "eigenvalues clipped", "mask only")


@pytest.mark.parametrize("damping", [None, 0.01])
def test_a_matrix_that_needs_no_step_is_not_kept(damping):
    assert factorise_by(gram_of(40, 8), 40, damping).hessian is None


@pytest.mark.parametrize(
    ("gram", "rung"),
    [
        (torch.zeros(6, 6), "6 dead columns"),
        (coupled(0.3), "damping times 100"),
        (1e38 * torch.eye(6), "float64"),
        (coupled(5e3), "eigenvalues clipped"),
    ],
    ids=["dead", "damping", "float64", "clipped"],
)
def test_the_matrix_of_the_last_rung_is_kept(gram, rung):
    factor = factorise(gram)
    assert factor.steps[-1] == rung
    is_inverse_factor(factor.upper, factor.hessian.double())


def test_no_matrix_is_kept_where_none_was_factored():
    assert factorise(torch.full((3, 3), torch.nan)).hessian is None


@pytest.mark.parametrize("tokens", [2, 30, 600])
def test_the_same_matrix_gives_the_same_factor(tokens):
    first, second = (factorise(gram_of(tokens, 50)) for _ in range(2))
    assert torch.equal(first.upper, second.upper)
    assert first.steps == second.steps
