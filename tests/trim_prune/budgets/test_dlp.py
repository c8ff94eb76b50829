from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from layer_requests import joined_scores, make_linear, make_request, random_linears, random_statistics
from tiny_models import make_model

from trim_prune import prune, tiles
from trim_prune.budgets.layers.dlp import dlp, lower_median


@given(
    st.lists(
        st.lists(st.floats(0, width=32) | st.sampled_from([0.0, 1.0, 2.0**-149, 3e38]), min_size=1, max_size=30),
        min_size=1,
        max_size=6,
    )
)
def test_the_median_is_that_of_all_values_joined(values):
    tiles = [torch.tensor(tile, dtype=torch.float32) for tile in values]
    joined = torch.cat(tiles)
    assert lower_median(lambda: iter(tiles), joined.numel()) == float(joined.median())


@pytest.mark.parametrize("size", [1, 2, 3, 1000, 1001])
def test_medians_of_values_that_lie_close(size):
    values = 1 + torch.arange(size).flip(0) * 2.0**-23
    assert lower_median(lambda: values.split(7), size) == float(values.median())


@pytest.mark.parametrize("tile", [20, 1 << 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sparsities_follow_from_the_medians_of_the_joined_scores(dtype, tile, monkeypatch):
    monkeypatch.setattr(tiles, "TILE", tile)
    linears = random_linears([(7, 5), (1, 40)], [(9, 9)], [(30, 1), (2, 2), (6, 6)], dtype=dtype)
    request = make_request(linears, random_statistics(linears), layers="dlp", dlp={"alpha": 0.1})
    medians = torch.stack([joined_scores(request, block).median() for block in range(3)]).double()
    importance = 1 - medians / medians.sum()
    scaled = (importance - importance.min()) / (importance.max() - importance.min()) * 0.2
    keep = scaled - scaled.mean() + 0.3
    expected = [1 - keep[linear.block].item() for linear in linears]
    assert dlp(request) == pytest.approx(expected, abs=1e-12)


def test_blocks_with_a_smaller_median_keep_more():
    linears = [make_linear(block, "a", torch.full((4, 4), size)) for block, size in enumerate([3.0, 1.0, 2.0])]
    statistics = random_statistics(linears)
    for found in statistics.values():
        found.column_energy.fill_(1.0)
    assert dlp(make_request(linears, statistics, layers="dlp")) == pytest.approx([0.85, 0.55, 0.7])


@pytest.mark.parametrize("blocks", [1, 3])
def test_blocks_with_equal_medians_are_pruned_alike(blocks):
    # Medians of zero: models that were pruned before.
    linears = [make_linear(block, "a", torch.zeros(4, 4)) for block in range(blocks)]
    assert dlp(make_request(linears, random_statistics(linears), layers="dlp")) == pytest.approx([0.7] * blocks)


def test_a_model_is_pruned_to_the_weight_in_the_order_of_its_medians(tokenizer, text):
    model = make_model("llama", num_hidden_layers=3)
    with torch.no_grad():
        for block, factor in ((0, 2.0), (1, 1.0), (2, 4.0)):
            for linear in model.model.layers[block].modules():
                if isinstance(linear, torch.nn.Linear):
                    linear.weight.mul_(factor)
    recipe = {"sparsity": 0.6, "score": "magnitude", "rows": "uniform", "layers": "dlp", "samples": 4, "seqlen": 16}
    result = prune(model, recipe, [text], tokenizer=tokenizer)
    assert result.sparsity.pruned == round(0.6 * result.sparsity.prunable_weights)
    first = {linear.block: linear.sparsity for linear in reversed(result.linears)}
    assert first[1] < first[0] < first[2]
    assert first[2] - first[1] == pytest.approx(0.3, abs=0.005)
