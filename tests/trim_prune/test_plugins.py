"""A score, a row budget, a layer budget and a solver of one's own, each in a few lines."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from tiny_models import linears_of, make_model, zeros

import trim_prune
from trim_kernels import pack_bits, row_mask, uniform_counts
from trim_prune import Importance, RowDecision, TrimPruneError, prune

BASE = {"sparsity": 0.5, "samples": 4, "seqlen": 16, "rows": "uniform"}


@pytest.fixture(autouse=True)
def forget_plugins(monkeypatch):
    """Entries registered by a test are gone after it."""
    from trim_prune.budgets.layers import LAYER_BUDGETS
    from trim_prune.budgets.rows import ROW_BUDGETS
    from trim_prune.scores import SCORES
    from trim_prune.solvers import SOLVERS

    for registry in (SCORES, ROW_BUDGETS, LAYER_BUDGETS, SOLVERS):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))


def test_a_score_with_a_value_for_every_weight():
    @trim_prune.register_score("first-columns-go")
    def by_column(request):
        columns = torch.arange(request.weight.shape[1]).float()
        return Importance(score=columns.expand_as(request.weight).contiguous())

    model = make_model("llama")
    prune(model, BASE | {"score": "first-columns-go"})
    for linear in linears_of(model, "llama").values():
        half = linear.in_features // 2
        assert not linear.weight[:, :half].any()
        assert linear.weight[:, half:].all()


def test_a_score_gets_the_statistics_it_declares(tokenizer, text):
    seen = []

    @trim_prune.register_score("energy", needs=["column_energy", "search_inputs"])
    def energy(request):
        statistics = request.statistics
        seen.append((statistics.column_energy.shape[0], tuple(statistics.search_inputs.shape)))
        return Importance(column_scale=statistics.column_energy.float())

    prune(make_model("llama"), BASE | {"score": "energy"}, [text], tokenizer=tokenizer)
    assert seen[0] == (32, (32, 4))


def test_a_row_budget_of_ones_own():
    @trim_prune.register_row_budget("top-first")
    def top_first(request):
        rows, columns = request.weight.shape
        filled = torch.arange(1, rows + 1) * columns
        counts = (request.prune_count - filled + columns).clamp(0, columns)
        return RowDecision(counts.to(torch.int32), quality=0.5, baseline_quality=0.25)

    model = make_model("llama")
    result = prune(model, BASE | {"score": "magnitude", "rows": "top-first"})
    for linear in linears_of(model, "llama").values():
        assert not linear.weight[: linear.out_features // 2].any()
    assert {linear.quality for linear in result.linears} == {0.5}


@pytest.mark.parametrize(
    "counts",
    [lambda r: uniform_counts(*r.weight.shape, r.prune_count - 1), lambda r: torch.zeros(3, dtype=torch.int32)],
    ids=["one weight short", "wrong shape"],
)
def test_a_row_budget_that_misses_its_total_is_refused_at_the_first_linear(counts):
    trim_prune.register_row_budget("wrong")(lambda request: RowDecision(counts(request)))
    with pytest.raises(TrimPruneError, match=r"'wrong' prunes \d+ weights in place of(.|\n)*block 0, .*q_proj"):
        prune(make_model("llama"), BASE | {"score": "magnitude", "rows": "wrong"})


def test_a_layer_budget_decides_per_linear():
    @trim_prune.register_layer_budget("blocks-apart")
    def blocks_apart(request):
        return [request.sparsity + (-0.2 if linear.block == 0 else 0.2) for linear in request.linears]

    model = make_model("llama")
    result = prune(model, BASE | {"score": "magnitude", "layers": "blocks-apart"})
    for linear in result.linears:
        assert abs(linear.sparsity - (0.3 if linear.block == 0 else 0.7)) < 0.001
    total = sum(m.weight.numel() for m in linears_of(model, "llama").values())
    assert result.sparsity.pruned == round(0.5 * total)


@pytest.mark.parametrize("share", [0.3, 1.4])
def test_a_layer_budget_that_misses_the_target_is_shifted_to_it(share):
    trim_prune.register_layer_budget("wrong")(lambda request: [share] * len(request.linears))
    result = prune(make_model("llama"), BASE | {"score": "magnitude", "layers": "wrong"})
    assert result.sparsity.pruned == round(0.5 * result.sparsity.prunable_weights)
    assert all(abs(linear.sparsity - 0.5) < 0.001 for linear in result.linears)


def test_a_layer_budget_of_nan_is_refused_before_any_work():
    trim_prune.register_layer_budget("wrong")(lambda request: [float("nan")] * len(request.linears))
    with pytest.raises(TrimPruneError, match="layer budget 'wrong': a sparsity of nan is not a number"):
        prune(make_model("llama"), BASE | {"score": "magnitude", "layers": "wrong"})


def test_a_layer_budget_reads_weights_of_a_model_on_the_disk_block_by_block(llama_folder, tmp_path):
    def means(request, on_device):
        found = {}
        for block, linears in request.blocks.items():
            with on_device(block):
                found |= {linear: float(linear.module.weight.abs().mean()) for linear in linears}
        return [found[linear] for linear in request.linears]

    recipe = BASE | {"score": "magnitude", "rows": "uniform"}
    trim_prune.register_layer_budget("means")(lambda request: means(request, request.on_device))
    trim_prune.register_layer_budget("careless")(lambda request: means(request, lambda _: nullcontext()))
    ours = prune(llama_folder, recipe | {"layers": "means"}, out=tmp_path / "out")
    theirs = prune(llama_folder, recipe | {"layers": "careless"})
    counts, expected = ([linear.prune_count for linear in result.linears] for result in (ours, theirs))
    assert counts == expected
    assert len(set(counts)) > 4
    message = r"layer budget 'careless' reads weights that are on the disk(.|\n)*with request\.on_device\(block\)"
    with pytest.raises(TrimPruneError, match=message):
        prune(llama_folder, recipe | {"layers": "careless"}, out=tmp_path / "other")


@pytest.mark.parametrize("count", [0, 1, 13, 15])
def test_a_layer_budget_that_does_not_know_every_linear_is_refused(count):
    trim_prune.register_layer_budget("wrong")(lambda request: [request.sparsity] * count)
    message = f"layer budget 'wrong': expected 14 sparsities, one for each linear, got {count}"
    with pytest.raises(TrimPruneError, match=message):
        prune(make_model("llama"), BASE | {"score": "magnitude", "layers": "wrong"})


def test_a_layer_budget_sees_the_dense_model(tokenizer, text):
    seen = {}

    @trim_prune.register_layer_budget("by-energy", needs=["column_energy"])
    def by_energy(request):
        seen.update({linear.name: found.column_energy for linear, found in request.statistics.items()})
        return [request.sparsity] * len(request.linears)

    recipe = BASE | {"score": "wanda", "sparsity": 0.0}
    prune(make_model("llama"), recipe | {"layers": "by-energy"}, [text], tokenizer=tokenizer)
    dense = dict(seen)
    prune(make_model("llama"), recipe | {"sparsity": 0.9, "layers": "by-energy"}, [text], tokenizer=tokenizer)
    assert len(dense) == 14
    assert all(torch.equal(energy, dense[name]) for name, energy in seen.items())


def test_a_solver_may_change_the_survivors():
    @trim_prune.register_solver("double")
    def double(request):
        order = request.weight.abs().argsort(dim=1, stable=True)
        kept = order.argsort(dim=1) >= request.prune_count[:, None]
        request.weight.mul_(2 * kept)
        return pack_bits(kept)

    model, plain = make_model("llama"), make_model("llama")
    prune(model, BASE | {"score": "magnitude", "solver": "double"})
    prune(plain, BASE | {"score": "magnitude"})
    for name, linear in linears_of(model, "llama").items():
        assert torch.equal(linear.weight, 2 * plain.get_submodule(name).weight)
        assert zeros(linear.weight) * 2 == linear.weight.numel()


def test_a_plugin_that_raises_value_error_is_reported_with_the_linear():
    @trim_prune.register_score("refuses")
    def refuses(request):
        raise ValueError("no such luck")

    with pytest.raises(TrimPruneError, match=r"no such luck(.|\n)*block 0, model\.layers\.0\.self_attn\.q_proj"):
        prune(make_model("llama"), BASE | {"score": "refuses"})


def test_a_solver_that_prunes_other_counts_is_refused_with_the_linear():
    @trim_prune.register_solver("too-few")
    def too_few(request):
        return pack_bits(torch.ones_like(request.weight, dtype=torch.bool))

    with pytest.raises(TrimPruneError, match=r"'too-few' prunes 0 weights in place of(.|\n)*block 0, .*q_proj"):
        prune(make_model("llama"), BASE | {"score": "magnitude", "solver": "too-few"})


@pytest.mark.parametrize("rows", ["uniform", "whole"])
@pytest.mark.parametrize(
    ("pruned", "message"),
    [(lambda weight, kept: weight, "512 weights"), (lambda weight, kept: weight[3:].mul_(kept[3:]), "48 weights")],
    ids=["all", "three rows"],
)
def test_a_solver_that_leaves_what_its_mask_prunes_is_refused_at_once(pruned, message, rows):
    @trim_prune.register_solver("lazy")
    def lazy(request):
        kept = torch.arange(32).expand(request.weight.shape) >= 16
        pruned(request.weight, kept)
        return pack_bits(kept)

    recipe = BASE | {"score": "magnitude", "solver": "lazy", "rows": rows}
    with pytest.raises(TrimPruneError, match=rf"'lazy': {message} that its mask prunes are not zero(.|\n)*q_proj"):
        prune(make_model("llama"), recipe)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_solver_that_leaves_what_is_not_finite_is_refused_at_once(value):
    @trim_prune.register_solver("wild")
    def wild(request):
        kept = row_mask(request.weight, request.prune_count)
        request.weight.masked_fill_(~kept, 0).masked_fill_(kept, value)
        return pack_bits(kept)

    with pytest.raises(TrimPruneError, match=r"'wild' leaves NaN or infinity(.|\n)*block 0, .*q_proj"):
        prune(make_model("llama"), BASE | {"score": "magnitude", "solver": "wild"})
