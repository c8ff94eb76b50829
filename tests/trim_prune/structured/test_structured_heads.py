"""KV groups are chosen as the paper chooses heads, whose formulas are written out here over whole outputs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trim_prune.structured.heads import Similarity, least_error, most_similar, unit_gram


def outputs_of(inputs, weight, units):
    """[U, T, D]: what each unit adds to the output."""
    width = weight.shape[1] // units
    pairs = zip(inputs.split(width, dim=1), weight.split(width, dim=1), strict=True)
    return torch.stack([part @ own.mT for part, own in pairs])


def paper_similarity(outputs, kept):
    """Sum over output dimensions of the absolute Pearson correlation over tokens."""
    whole, part = outputs.sum(dim=0), outputs[kept].sum(dim=0)
    whole, part = whole - whole.mean(dim=0), part - part.mean(dim=0)
    covariance, spread = (whole * part).mean(dim=0), whole.std(dim=0, correction=0) * part.std(dim=0, correction=0)
    return float((covariance / spread).nan_to_num().abs().sum())


def paper_selection(outputs, count, swaps):
    units = range(len(outputs))
    scores = [paper_similarity(outputs, [k for k in units if k != unit]) for unit in units]
    order = sorted(units, key=lambda unit: (-scores[unit], unit))
    gone, kept = order[:count], sorted(order[count:])
    for unit in gone if swaps else ():
        best, place = paper_similarity(outputs, kept), None
        for index in range(len(kept)):
            candidate = [*kept[:index], unit, *kept[index + 1 :]]
            if paper_similarity(outputs, candidate) > best:
                best, place = paper_similarity(outputs, candidate), index
        if place is not None:
            kept[place] = unit
    return sorted(kept)


def problem(tokens, units, width, outputs, seed):
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(units * width, units * width, generator=generator, dtype=torch.float64)
    inputs = torch.randn(tokens, units * width, generator=generator, dtype=torch.float64) @ mixed + 2
    return inputs, torch.randn(outputs, units * width, generator=generator, dtype=torch.float64)


def gram_of(inputs, weight, units):
    return unit_gram(weight, torch.cov(inputs.mT, correction=0).reshape(weight.shape[1], -1), units)


SIZES = (st.integers(5, 40), st.integers(2, 7), st.integers(1, 4), st.integers(1, 9), st.integers(0, 10**6))


@given(*SIZES)
def test_the_moments_are_those_of_the_outputs(tokens, units, width, outputs, seed):
    inputs, weight = problem(tokens, units, width, outputs, seed)
    own = outputs_of(inputs, weight, units)
    own = own - own.mean(dim=1, keepdim=True)
    wanted = torch.einsum("utd,vtd->duv", own, own) / tokens
    torch.testing.assert_close(gram_of(inputs, weight, units), wanted, rtol=1e-9, atol=1e-9)


@given(*SIZES)
def test_similarities_are_those_of_the_paper(tokens, units, width, outputs, seed):
    inputs, weight = problem(tokens, units, width, outputs, seed)
    own, similarity = outputs_of(inputs, weight, units), Similarity.of(gram_of(inputs, weight, units))
    left_out = [paper_similarity(own, [k for k in range(units) if k != unit]) for unit in range(units)]
    torch.testing.assert_close(similarity.without_one(), torch.tensor(left_out).double(), rtol=1e-6, atol=1e-6)
    kept = list(range(units - 1))
    assert similarity.kept(torch.tensor(kept)) == pytest.approx(paper_similarity(own, kept), rel=1e-6, abs=1e-6)
    swapped = [paper_similarity(own, [*kept[:i], units - 1, *kept[i + 1 :]]) for i in range(len(kept))]
    found = similarity.swapped(torch.tensor(kept), units - 1)
    torch.testing.assert_close(found, torch.tensor(swapped).double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("swaps", [True, False])
@given(*SIZES, st.data())
def test_selections_are_identical_to_those_of_the_paper(swaps, tokens, units, width, outputs, seed, data):
    count = data.draw(st.integers(0, units - 1))
    inputs, weight = problem(tokens, units, width, outputs, seed)
    found = most_similar(gram_of(inputs, weight, units), count, swaps=swaps)
    assert found == paper_selection(outputs_of(inputs, weight, units), count, swaps)


def test_swaps_better_what_single_scores_choose():
    better = 0
    for seed in range(30):
        inputs, weight = problem(40, 6, 2, 4, seed)
        gram = gram_of(inputs, weight, 6)
        plain, swapped = (most_similar(gram, 3, swaps=swaps) for swaps in (False, True))
        similarity = Similarity.of(gram)
        gain = similarity.kept(torch.tensor(swapped)) - similarity.kept(torch.tensor(plain))
        assert gain >= 0
        better += gain > 0
    assert better > 3


def test_outputs_that_do_not_vary_count_for_nothing():
    inputs, weight = problem(20, 4, 2, 5, 0)
    weight[2] = 0
    weight[:, 2:4] = 0  # a unit that puts out nothing
    gram = gram_of(inputs, weight, 4)
    similarity = Similarity.of(gram)
    assert similarity.without_one()[1] == pytest.approx(4)
    assert similarity.kept(torch.tensor([1])) == 0
    assert 1 not in most_similar(gram, 1, swaps=True)
    assert most_similar(torch.zeros(3, 4, 4), 2, swaps=True) == [2, 3]


@given(st.integers(2, 6), st.integers(1, 3), st.integers(0, 10**6))
def test_least_error_takes_the_unit_whose_loss_is_least_when_all_others_make_up_for_it(units, width, seed):
    inputs, weight = problem(60, units, width, 5, seed)
    covariance = torch.cov(inputs.mT, correction=0).reshape(units * width, -1) + 1e-3 * torch.eye(units * width)
    losses = []
    for unit in range(units):
        others = torch.tensor([c for c in range(units * width) if c // width != unit])
        cross = weight @ covariance[:, others]
        best = torch.linalg.solve(covariance[others][:, others], cross.mT).mT
        losses.append(float((weight @ covariance * weight).sum() - (best * cross).sum()))
    kept = least_error(weight, torch.linalg.inv(covariance), units, 1)
    (gone,) = set(range(units)) - set(kept)
    assert losses[gone] == pytest.approx(min(losses), rel=1e-6)


def test_least_error_sees_that_a_unit_twice_is_not_needed_twice():
    inputs, weight = problem(60, 4, 2, 5, 1)
    inputs[:, 4:6] = inputs[:, :2] + 1e-3 * torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    kept = least_error(weight, torch.linalg.inv(torch.cov(inputs.mT)), 4, 1)
    assert kept in ([0, 1, 3], [1, 2, 3])
