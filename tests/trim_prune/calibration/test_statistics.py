from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from tiny_models import make_model, random_tokens
from torch import nn

from trim_prune import Recipe, TrimPruneError, score_linear
from trim_prune.calibration.statistics import Collector, LinearStatistics, search_positions
from trim_prune.models.discover import Linear, find_blocks

NEEDS = frozenset({"column_energy", "search_inputs"})


class Attention(nn.Module):
    """Query and key get the very same tensor, the output another one."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.output = (nn.Linear(6, 6) for _ in range(3))

    def forward(self, hidden):
        return self.output(torch.tanh(self.query(hidden)) * self.key(hidden))


def collector_of(module, needs=NEEDS, tokens_per_sequence=1):
    linears = [Linear(name, 0, m) for name, m in module.named_modules() if isinstance(m, nn.Linear)]
    return Collector(linears, needs, tokens_per_sequence, nullcontext), {linear.name: linear for linear in linears}


def collect(inputs, batch_size, **options):
    torch.manual_seed(0)
    module = Attention()
    collector, linears = collector_of(module, **options)
    for batch in inputs.split(batch_size):
        with collector.batch(*batch.shape[:2]):
            module(batch)
    return module, collector, linears


@pytest.fixture
def inputs():
    return torch.randn(5, 8, 6, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_column_energy_is_the_float64_sum_of_squares_over_all_tokens(inputs):
    module, collector, linears = collect(inputs, 2)
    found = collector.statistics(linears["query"])
    expected = inputs.double().square().sum((0, 1))
    assert found.column_energy.dtype == torch.float64
    torch.testing.assert_close(found.column_energy, expected, rtol=1e-14, atol=0)
    assert found.sequences == 5
    hidden = torch.tanh(module.query(inputs)) * module.key(inputs)
    energy = collector.statistics(linears["output"]).column_energy
    torch.testing.assert_close(energy, hidden.double().square().sum((0, 1)), rtol=1e-6, atol=0)


@torch.no_grad()
@pytest.mark.parametrize(
    ("count", "positions"), [(1, [7]), (2, [3, 7]), (3, [1, 4, 7]), (8, list(range(8)))], ids=lambda value: str(value)
)
def test_search_inputs_are_the_last_token_or_evenly_spaced_ones(inputs, count, positions):
    assert search_positions(8, count) == positions
    _, collector, linears = collect(inputs, 2, tokens_per_sequence=count)
    found = collector.statistics(linears["query"]).search_inputs
    assert torch.equal(found, inputs[:, positions].reshape(-1, 6).t())
    assert found.is_contiguous()


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_search_inputs_keep_the_dtype_of_the_model_and_energies_are_float64(inputs, dtype):
    statistics = LinearStatistics()
    for batch in inputs.to(dtype).split(2):
        statistics.add(batch, NEEDS, [7])
    assert torch.equal(statistics.search_inputs, inputs[:, 7].t().to(dtype))
    assert statistics.search_inputs.dtype == dtype
    expected = inputs.to(dtype).double().square().sum((0, 1))
    torch.testing.assert_close(statistics.column_energy, expected, rtol=1e-14, atol=0)


@torch.no_grad()
def test_a_batch_that_is_a_strided_view_counts_as_its_copy(inputs):
    of_view, of_copy = LinearStatistics(), LinearStatistics()
    view = inputs.transpose(1, 2).contiguous().transpose(1, 2)
    of_view.add(view, NEEDS, [3, 7])
    of_copy.add(inputs, NEEDS, [3, 7])
    assert torch.equal(of_view.column_energy, of_copy.column_energy)
    assert torch.equal(of_view.search_inputs, of_copy.search_inputs)


@torch.no_grad()
def test_the_batch_size_does_not_change_a_bit(inputs):
    def statistics(batch_size):
        _, collector, linears = collect(inputs, batch_size)
        return collector.statistics(linears["query"])

    one, many = statistics(1), statistics(5)
    assert torch.equal(one.column_energy, many.column_energy)
    assert torch.equal(one.search_inputs, many.search_inputs)


@torch.no_grad()
def test_linears_with_the_same_input_share_their_statistics(inputs):
    _, collector, linears = collect(inputs, 2)
    query, key, output = (collector.statistics(linears[name]) for name in ("query", "key", "output"))
    assert query is key
    assert output is not query
    assert [[linear.name for linear in group] for group in collector.groups()] == [["query", "key"], ["output"]]


@torch.no_grad()
def test_flattened_inputs_are_taken_apart_again(inputs):
    linear = nn.Linear(6, 2)
    collector, linears = collector_of(nn.ModuleDict({"expert": linear}))
    with collector.batch(5, 8):
        linear(inputs.flatten(0, 1))
    assert torch.equal(collector.statistics(linears["expert"]).search_inputs, inputs[:, -1].t())


@torch.no_grad()
def test_a_linear_that_sees_some_of_the_tokens_counts_those(inputs):
    linear = nn.Linear(6, 2)
    collector, linears = collector_of(nn.ModuleDict({"expert": linear}), tokens_per_sequence=2)
    seen = inputs[:3].flatten(0, 1)
    with collector.batch(5, 8):
        linear(seen)
    found = collector.statistics(linears["expert"])
    assert found.tokens == 24
    torch.testing.assert_close(found.column_energy, seen.double().square().sum(0), rtol=1e-14, atol=0)
    assert torch.equal(found.search_inputs, seen[[11, 23]].t())


@torch.no_grad()
def test_of_some_of_the_tokens_of_padded_sequences_nobody_knows_which_are_padding(inputs):
    linear = nn.Linear(6, 2)
    collector, _ = collector_of(nn.ModuleDict({"expert": linear}))
    mask = torch.ones(5, 8, dtype=torch.bool)
    with (
        pytest.raises(TrimPruneError, match=r"only some of the tokens(.|\n)*block 0, expert"),
        collector.batch(5, 8, token_mask=mask),
    ):
        linear(inputs[:3].flatten(0, 1))


@torch.no_grad()
@pytest.mark.parametrize("padded", ["left", "right"])
def test_a_batch_of_padded_sequences_counts_as_the_sequences_one_by_one(inputs, padded):
    needs, lengths = NEEDS | {"gram"}, [8, 3, 1, 0, 5]
    places = torch.arange(8)
    real = torch.stack([places < n if padded == "right" else places >= 8 - n for n in lengths])
    together, linears = collector_of(Attention(), needs=needs, tokens_per_sequence=2)
    alone, others = collector_of(Attention(), needs=needs, tokens_per_sequence=2)
    with together.batch(5, 8, token_mask=real):
        linears["query"].module(inputs.masked_fill(~real[..., None], 1e4))
    for sequence, mask in zip(inputs, real, strict=True):
        if mask.any():
            with alone.batch(1, int(mask.sum())):
                others["query"].module(sequence[mask][None])
    found, expected = together.statistics(linears["query"]), alone.statistics(others["query"])
    assert torch.equal(found.column_energy, expected.column_energy)
    assert torch.equal(found.gram, expected.gram)
    assert torch.equal(found.search_inputs, expected.search_inputs)
    assert (found.sequences, found.tokens) == (expected.sequences, expected.tokens) == (4, 17)


@torch.no_grad()
def test_a_model_that_runs_padded_sequences_shows_the_statistics_of_each_alone():
    model, ids, lengths = make_model("llama"), random_tokens(3, 12), [12, 7, 4]
    real = torch.stack([torch.arange(12) < n for n in lengths])
    block = find_blocks(model)[1]
    together, alone = (Collector(block.linears, NEEDS | {"gram"}, 1, nullcontext) for _ in range(2))
    with together.batch(3, 12, token_mask=real):
        model(input_ids=ids.masked_fill(~real, 7), attention_mask=real.long())
    for sequence, n in zip(ids, lengths, strict=True):
        with alone.batch(1, n):
            model(input_ids=sequence[None, :n])
    for linear in block.linears:
        found, expected = together.statistics(linear), alone.statistics(linear)
        assert (found.sequences, found.tokens) == (3, 23)
        torch.testing.assert_close(found.column_energy, expected.column_energy, rtol=1e-4, atol=0)
        torch.testing.assert_close(found.gram, expected.gram, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(found.search_inputs, expected.search_inputs, rtol=1e-3, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("score", ["wanda", "ria", "obs"])
def test_padding_changes_no_score_of_a_single_linear(inputs, score):
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(3))
    real = torch.rand(5, 8, generator=torch.Generator().manual_seed(4)) < 0.6
    recipe = Recipe(sparsity=0.5, score=score)
    found = score_linear(recipe, weight, inputs, real)
    expected = score_linear(recipe, weight, inputs.masked_fill(~real[..., None], -3e3), real)
    for part, other in zip(vars(found).values(), vars(expected).values(), strict=True):
        assert (part is None and other is None) or torch.equal(part, other)
    padded = score_linear(recipe, weight, inputs)
    assert not all(
        part is None or torch.equal(part, other)
        for part, other in zip(vars(found).values(), vars(padded).values(), strict=True)
    )


def test_a_linear_that_never_ran_is_named():
    collector, linears = collector_of(Attention())
    with pytest.raises(TrimPruneError, match=r"got no calibration input(.|\n)*block 0, key"):
        collector.statistics(linears["key"])


@torch.no_grad()
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("need", sorted(NEEDS))
def test_inputs_that_are_not_finite_are_refused_with_the_linear(inputs, value, need):
    inputs[3, 7, 2] = value
    _, collector, linears = collect(inputs, 2, needs=frozenset({need}))
    with pytest.raises(
        TrimPruneError, match=r"NaN or infinity in the inputs(.|\n)*block 0, key(.|\n)*--dtype bfloat16"
    ):
        collector.statistics(linears["key"])


@torch.no_grad()
def test_hooks_are_gone_after_an_exception(inputs):
    module = Attention()
    collector, _ = collector_of(module)
    with pytest.raises(RuntimeError), collector.batch(5, 8):
        module(inputs[..., :4])
    assert not any(m._forward_pre_hooks for m in module.modules())


def test_statistics_that_were_not_asked_for_are_a_programming_error():
    statistics = LinearStatistics()
    statistics.add(torch.ones(1, 2, 3), frozenset(), [1])
    with pytest.raises(RuntimeError, match="declare it in needs"):
        _ = statistics.column_energy
    with pytest.raises(RuntimeError, match="declare it in needs"):
        _ = statistics.search_inputs


@torch.no_grad()
def test_half_precision_energies_do_not_overflow():
    statistics = LinearStatistics()
    statistics.add(torch.full((1, 2, 3), 60_000.0, dtype=torch.float16), NEEDS, [1])
    assert statistics.column_energy.tolist() == [2 * float(torch.tensor(60_000.0).half()) ** 2] * 3
    assert statistics.is_finite()
