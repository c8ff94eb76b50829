"""The score of channels, written out from the paper, and which of them go."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trim_prune.structured.channels import direction_weights, feature_score, keep_channels


def problem(seed, channels=9, hidden=5, tokens=30):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return draw(tokens, hidden), draw(tokens, channels) + 1, draw(hidden, channels), draw(channels, hidden)


def paper(x, a, down, producers, weighting):
    y = a @ down.mT
    centred = y - y.mean(dim=0)
    values, q = torch.linalg.eigh(centred.mT @ centred)
    c = torch.sigmoid(values.abs() / values.abs().mean()) if weighting else torch.ones_like(values)
    score = []
    for j in range(down.shape[1]):
        own = ((down[:, j] @ q).abs() * c).norm() * a[:, j].norm()
        score.append(own + sum((p[j] * x.norm(dim=0)).norm() for p in producers))
    return torch.stack(score)


@pytest.mark.parametrize("weighting", [True, False])
@given(st.integers(0, 10**6))
def test_the_score_is_that_of_the_paper(weighting, seed):
    x, a, down, gate = problem(seed)
    covariance = torch.cov((a @ down.mT).mT, correction=0)
    directions = direction_weights(covariance) if weighting else None
    found = feature_score(down, [gate, 2 * gate], x.norm(dim=0), a.norm(dim=0), directions, normalise=False)
    torch.testing.assert_close(found, paper(x, a, down, [gate, 2 * gate], weighting))


def test_normalised_terms_count_alike():
    x, a, down, gate = problem(0)

    def score(scale):
        return feature_score(down, [gate], scale * x.norm(dim=0), a.norm(dim=0), None, normalise=True)

    torch.testing.assert_close(score(1), score(1000))
    assert float(score(1).mean()) == pytest.approx(2)


def test_directions_in_which_nothing_varies_count_half():
    vectors, weights = direction_weights(torch.diag(torch.tensor([0.0, 0.0, 3.0])))
    assert weights.tolist() == pytest.approx([0.5, 0.5, float(torch.sigmoid(torch.tensor(3.0)))])
    assert torch.equal(vectors.abs(), torch.eye(3))
    assert direction_weights(torch.zeros(2, 2))[1].tolist() == [0.5, 0.5]


@given(st.lists(st.integers(0, 4), min_size=2, max_size=30), st.sampled_from([0.0, 0.1, 0.5]), st.data())
def test_the_lowest_go_but_for_a_share_that_stays(values, keep_lowest, data):
    count = data.draw(st.integers(0, len(values) - 1))
    kept = keep_channels(torch.tensor(values).float(), count, keep_lowest).tolist()
    order = sorted(range(len(values)), key=lambda index: (values[index], index))
    spared = min(round(keep_lowest * len(values)), len(values) - count)
    assert kept == sorted(order[:spared] + order[spared + count :])
    assert len(kept) == len(values) - count
