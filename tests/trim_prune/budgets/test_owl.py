from __future__ import annotations

import pytest
import torch
from layer_requests import joined_scores, make_linear, make_request, random_linears, random_statistics
from tiny_models import FAMILIES, make_model

from trim_prune import prune, tiles
from trim_prune.budgets.layers.owl import outlier_share, owl
from trim_prune.budgets.layers.ratios import keep_ratios

# Keep ratios published with TRIM (github.com/flobk/TRIM, folder OWL), rounded to six digits: 36 blocks with lambda 0.12
# and M 5, and 80 blocks with lambda 0.08 and M 7, both for a sparsity of 70 %.
QWEN_3B = """
0.343388 0.335148 0.496317 0.496863 0.451426 0.369748 0.337961 0.332499 0.300696 0.295206 0.278312 0.263607 0.264019
0.258506 0.256863 0.260768 0.257456 0.267603 0.265072 0.271248 0.277699 0.272567 0.268500 0.273128 0.269375 0.279521
0.274294 0.285665 0.277301 0.271809 0.276371 0.282789 0.272291 0.273089 0.261448 0.281448
"""
QWEN_72B = """
0.433149 0.432572 0.360216 0.319894 0.327286 0.320919 0.320469 0.324225 0.308808 0.324244 0.318163 0.323755 0.327402
0.315827 0.309151 0.322787 0.315271 0.309412 0.313144 0.309734 0.295219 0.305924 0.307603 0.301624 0.293692 0.299814
0.289934 0.288253 0.291499 0.290555 0.289262 0.287840 0.288227 0.286091 0.283651 0.286423 0.285858 0.285071 0.286587
0.283901 0.285878 0.286243 0.285806 0.286727 0.287964 0.289877 0.289191 0.287859 0.288416 0.290867 0.292438 0.291250
0.289420 0.289612 0.290638 0.290461 0.288434 0.289845 0.288312 0.287542 0.285563 0.285968 0.285705 0.285505 0.285452
0.285464 0.285009 0.284979 0.285075 0.284527 0.284789 0.285024 0.285118 0.285659 0.286933 0.289272 0.291941 0.297024
0.327604 0.273149
"""
PUBLISHED = {"Qwen2.5-3B": (QWEN_3B, 0.12, 36), "Qwen2.5-72B": (QWEN_72B, 0.08, 80)}


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_keep_ratios_follow_from_their_outlier_shares(model):
    published, lamda, blocks = PUBLISHED[model]
    ratios = [float(ratio) for ratio in published.split()]
    assert len(ratios) == blocks
    # All that is known of the shares: they are an affine map of the ratios.
    shares = [3 + 40 * ratio for ratio in ratios]
    assert keep_ratios(shares, 2 * lamda, 0.7) == pytest.approx(ratios, abs=2e-6)


def test_keep_ratios_have_the_width_and_the_mean_that_are_asked_for():
    ratios = keep_ratios([1.0, 5.0, 2.0], 0.16, 0.6)
    assert max(ratios) - min(ratios) == pytest.approx(0.16)
    assert sum(ratios) / 3 == pytest.approx(0.4)
    assert ratios[2] - ratios[0] == pytest.approx(0.04)


@pytest.mark.parametrize("importances", [[2.5], [0.0, 0.0], [7.0, 7.0, 7.0]])
def test_equal_importances_keep_equal_shares(importances):
    assert keep_ratios(importances, 0.16, 0.75) == [0.25] * len(importances)


@pytest.mark.parametrize("tile", [1, 30, 1 << 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_outlier_share_is_that_of_all_scores_of_the_block_joined(dtype, tile, monkeypatch):
    monkeypatch.setattr(tiles, "TILE", tile)
    linears = random_linears([(7, 5), (1, 40), (30, 1)], [(9, 9)], dtype=dtype)
    request = make_request(linears, random_statistics(linears))
    scores = joined_scores(request, 0)
    outliers = int((scores > 2.0 * scores.mean()).sum())
    assert 0 < outliers < scores.numel()
    assert outlier_share(request, linears[:3], 2.0) == 100 * outliers / scores.numel()


def test_blocks_with_more_outliers_keep_more():
    plain, some, many = torch.ones(20, 10), torch.ones(20, 10), torch.ones(20, 10)
    some[0, :4] = 50
    many[0, :8] = 50
    linears = [make_linear(block, "a", weight) for block, weight in enumerate([plain, some, many])]
    statistics = random_statistics(linears)
    for found in statistics.values():
        found.column_energy.fill_(2.0)
    request = make_request(linears, statistics, layers="owl", owl={"lamda": 0.1})
    # Shares of 0, 2 and 4 percent.
    assert owl(request) == pytest.approx([0.8, 0.7, 0.6])


def test_all_linears_of_a_block_get_one_sparsity_and_blocks_may_differ_in_theirs():
    linears = random_linears([(8, 6)] * 4, [(30, 7)], [(5, 5), (200, 3)])
    sparsities = owl(make_request(linears, random_statistics(linears), layers="owl", owl={"m": 2.0}))
    assert len(set(sparsities[:4])) == 1
    assert sparsities[5] == sparsities[6]
    assert max(sparsities) - min(sparsities) == pytest.approx(0.16)


@pytest.mark.parametrize("weight", [torch.zeros(4, 4), torch.ones(4, 4)], ids=["zeros", "ones"])
def test_blocks_without_outliers_are_pruned_alike(weight):
    linears = [make_linear(block, "a", weight.clone()) for block in range(3)]
    assert owl(make_request(linears, random_statistics(linears), layers="owl")) == pytest.approx([0.7] * 3)


def test_a_column_scale_beyond_float32_is_refused_by_name():
    linears = random_linears([(4, 4)])
    statistics = random_statistics(linears)
    statistics[linears[0]].column_energy.fill_(1e80)
    with pytest.raises(ValueError, match=r"model\.layers\.0\.linear0: expected finite values, got an overflow"):
        owl(make_request(linears, statistics, layers="owl"))


@pytest.mark.parametrize("score", ["wanda", "magnitude"])
def test_a_model_is_pruned_to_the_weight_in_the_order_of_its_outliers(score, tokenizer, text):
    model = make_model("llama", num_hidden_layers=3)
    # Blocks 2, 0, 1 in the order of their outliers.
    with torch.no_grad():
        for block, outliers in ((0, 8), (1, 0), (2, 16)):
            model.model.layers[block].mlp.up_proj.weight[:outliers, :] *= 30
    recipe = {"sparsity": 0.6, "score": score, "rows": "uniform", "layers": "owl", "samples": 4, "seqlen": 16}
    result = prune(model, recipe, [text], tokenizer=tokenizer)
    assert result.sparsity.pruned == round(0.6 * result.sparsity.prunable_weights)
    first = {linear.block: linear.sparsity for linear in reversed(result.linears)}
    assert first[2] < first[0] < first[1]
    assert first[1] - first[2] == pytest.approx(0.16, abs=0.005)
    per_block = len(FAMILIES["llama"].linears)
    assert all(abs(linear.sparsity - first[linear.block]) < 0.005 for linear in result.linears)
    assert len(result.linears) == 3 * per_block


def test_a_model_whose_blocks_differ_in_their_linears(tokenizer, text):
    model = make_model("llama", num_hidden_layers=3)
    layer = model.model.layers[1]
    weight = layer.mlp.down_proj.weight
    # Two linears in the place of one.
    layer.mlp.down_proj = torch.nn.Sequential(
        torch.nn.Linear(weight.shape[1], 8, bias=False), torch.nn.Linear(8, weight.shape[0], bias=False)
    )
    recipe = {"sparsity": 0.55, "rows": "trim", "layers": "owl", "samples": 4, "seqlen": 16, "owl": {"m": 2.0}}
    result = prune(model, recipe, [text], tokenizer=tokenizer)
    assert len(result.linears) == 22
    assert result.sparsity.pruned == round(0.55 * result.sparsity.prunable_weights)
    assert len({round(linear.sparsity, 2) for linear in result.linears}) > 1
