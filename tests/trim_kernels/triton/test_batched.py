"""All learning rates at once, and early stopping afterwards, give what the sequential search gives."""

from __future__ import annotations

import math

import pytest
import torch

from trim_kernels import testing
from trim_kernels.ops.allocate_rows import metrics
from trim_kernels.ops.allocate_rows.batched import BATCHED_ROUNDINGS, Chains, replay
from trim_kernels.ops.allocate_rows.rounding import ROUNDINGS
from trim_kernels.ops.allocate_rows.search import search_rows
from trim_kernels.scoring import scores

POSITIVE, NEGATIVE, ITERATIONS = [0.01, 0.02, 0.04, 0.08, 0.12, 0.16], [-0.01, -0.02, -0.04], 10


class Layer:
    """A matrix, and its row statistics in plain torch for any number of chains."""

    def __init__(self, shape, seed, sparsity):
        self.weight, self.inputs, scale = testing.heavy_tailed(*shape, seed)
        rows, columns, self.tokens = shape
        order = torch.sort(scores(self.weight, scale, None), dim=1, stable=True).indices
        position = torch.arange(columns).expand_as(order)
        self.rank = torch.empty_like(order).scatter_(1, order, position)
        self.dense = (self.weight @ self.inputs).double()
        self.limits = (rows, columns, sparsity, 0.95, torch.device("cpu"))

    def dropped(self, counts):
        return (self.weight.masked_fill(self.rank >= counts[:, None], 0) @ self.inputs).double()

    def statistics(self, counts):
        dropped = torch.stack([self.dropped(chain) for chain in counts])
        return dropped.square().sum(2), (dropped * self.dense).sum(2)

    def one_by_one(self, rounding, layer_metric, row_metric):
        def evaluate(counts):
            quality = metrics.quality_of_outputs(self.dense, self.dense - self.dropped(counts))
            return metrics.STATISTIC_METRICS[layer_metric](quality), metrics.ROW_METRICS[row_metric](quality)

        return search_rows(evaluate, ROUNDINGS[rounding](*self.limits), POSITIVE, NEGATIVE, ITERATIONS)

    def all_at_once(self, rounding, layer_metric, row_metric):
        chains = Chains(
            self.statistics,
            self.dense.square().sum(1),
            self.dense.square().amax(1),
            self.tokens,
            BATCHED_ROUNDINGS[rounding](*self.limits),
            POSITIVE + NEGATIVE,
            ITERATIONS,
            layer_metric,
            row_metric,
        )
        for _ in range(ITERATIONS):
            chains.round()
        trace, winner = replay(chains.trace, len(POSITIVE), len(NEGATIVE))
        best = ROUNDINGS[rounding](*self.limits)
        return best.finish(best.uniform() if winner is None else chains.best_shares[winner]), trace, winner


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("row_metric", metrics.ROW_METRICS)
@pytest.mark.parametrize("layer_metric", metrics.STATISTIC_METRICS)
def test_chains_take_the_path_of_the_search(layer_metric, row_metric, rounding):
    layer = Layer((48, 80, 24), seed=3, sparsity=0.6)
    counts, trace = layer.one_by_one(rounding, layer_metric, row_metric)
    found, found_trace, _ = layer.all_at_once(rounding, layer_metric, row_metric)
    assert torch.equal(found, counts)
    torch.testing.assert_close(found_trace, trace, rtol=1e-9, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize(("seed", "rounding"), [(0, "exact"), (1, "exact"), (0, "floor"), (1, "floor"), (2, "floor")])
def test_negative_rates_win_where_only_they_do(seed, rounding):
    layer = Layer((64, 96, 32), seed, sparsity=0.3)
    counts, trace = layer.one_by_one(rounding, "psnr_rows", "psnr")
    found, found_trace, winner = layer.all_at_once(rounding, "psnr_rows", "psnr")
    assert winner >= len(POSITIVE)
    assert torch.equal(found, counts)
    assert torch.equal(found_trace.isnan(), trace.isnan())


@pytest.mark.parametrize("sparsity", [0.0, 0.013, 0.94])
def test_exact_counts_of_every_round_sum_to_the_total(sparsity):
    layer = Layer((37, 53, 5), seed=1, sparsity=sparsity)
    sums = []

    def statistics(counts):
        assert counts.dtype == torch.int32
        assert (counts >= 0).all()
        sums.extend(counts.sum(1).tolist())
        return Layer.statistics(layer, counts)

    layer.statistics = statistics
    layer.all_at_once("exact", "mse", "mse")
    assert set(sums) == {int(layer.one_by_one("exact", "mse", "mse")[0].sum())}


NAN = math.nan


@pytest.mark.parametrize(
    ("qualities", "positive", "winner", "tried"),
    [
        ([[0], [1], [2], [1.5], [9]], 4, 1, [1, 1, 1, 0]),
        ([[0], [-1], [-1], [3], [4]], 2, 3, [1, 1, 1, 1]),
        ([[0], [-1], [0], [0], [-2]], 2, None, [1, 1, 1, 1]),
        ([[0], [1], [1], [7], [9]], 2, 0, [1, 1, 0, 0]),
        ([[0], [1], [1], [NAN], [9]], 2, 0, [1, 1, 0, 0]),
    ],
    ids=["stops when worse", "negative wins", "uniform wins", "stops when equal", "an overflow that nobody saw"],
)
def test_replay_stops_where_the_search_stops(qualities, positive, winner, tried):
    # Every trial starts from the quality of uniform shares.
    trace = torch.tensor([[0.0, *row] for row in qualities], dtype=torch.float64)
    found, chain = replay(trace, positive, 4 - positive)
    assert chain == winner
    assert (~found[1:, 0].isnan()).int().tolist() == tried
    assert found[0, 0] == 0
    assert torch.isnan(found[0, 1:]).all()


def test_replay_raises_for_an_overflow_that_the_search_meets():
    with pytest.raises(ValueError, match="expected outputs within float32"):
        replay(torch.tensor([[1.0, 1.0], [1.0, NAN]], dtype=torch.float64), 1, 0)
