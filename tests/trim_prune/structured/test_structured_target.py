"""The target is met within one channel, nobody is emptied, and what cannot be met is refused."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import make_model

from trim_prune import TrimPruneError
from trim_prune.structured.parts import BlockParts, Part
from trim_prune.structured.plan import count_parameters, make_plan, outline
from trim_prune.structured.ratios import Share, by_cosine
from trim_prune.structured.recipe import StructuredRecipe
from trim_prune.structured.target import Limits, divide, divide_evenly, removed


def blocks_of(count, groups=4, channels=40, group_size=200, channel_size=30):
    return [
        BlockParts(
            Part("attention", None, "", (), "", groups, 8, 2, group_size),
            Part("feed-forward", None, "", (), "", channels, 1, 0, channel_size),
        )
        for _ in range(count)
    ]


def limits_of(blocks, *, cap=0.9, head_share=1.0, bias=0):
    whole = sum(part.units * part.unit_parameters for parts in blocks for part in parts)
    return Limits(cap, head_share, {part: bias for parts in blocks for part in parts}, whole)


def most(blocks, limits):
    return sum(limits.of(part) * part.unit_parameters - limits.bias[part] for parts in blocks for part in parts)


@given(
    st.lists(st.floats(-1, 1), min_size=1, max_size=8),
    st.floats(0, 12),
    st.floats(0, 1),
    st.sampled_from([0.5, 0.9, 0.97]),
    st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    st.sampled_from([0, 17]),
    st.sampled_from([2, 3, 7]),
)
def test_the_target_is_met_within_one_channel(cosines, temperature, share, cap, head_share, bias, groups):
    blocks = blocks_of(len(cosines), groups)
    limits = limits_of(blocks, cap=cap, head_share=head_share, bias=bias)
    wanted = round(share * most(blocks, limits))
    counts = divide(blocks, by_cosine(cosines, len(blocks), temperature), wanted, limits)
    assert all(0 <= counts[part] <= limits.of(part) < part.units for parts in blocks for part in parts)
    # A bias that comes with the first channel of a block may be in the way of the last step.
    assert abs(removed(counts, limits) - wanted) <= 30 + bias
    if not bias:
        assert abs(removed(counts, limits) - wanted) <= 15 or share > 0.98


def test_a_block_of_higher_weight_gives_more_and_one_without_weight_nothing():
    blocks = blocks_of(4)
    shares = by_cosine([0.9, 0.5, 0.95, 0.7], 3, 4.0)
    counts = divide(blocks, shares, 2000, limits_of(blocks))
    given_ = [counts[parts.feed_forward] for parts in blocks]
    assert given_[2] > given_[0] > given_[3] > 0
    assert (given_[1], counts[blocks[1].attention]) == (0, 0)


def test_what_a_clamped_block_keeps_is_taken_elsewhere():
    blocks = blocks_of(3)
    limits = limits_of(blocks, cap=0.5)
    counts = divide(blocks, [Share(20.0), Share(1.0), Share(1.0)], 2400, limits)
    assert counts[blocks[0].feed_forward] == 20
    assert counts[blocks[1].feed_forward] == pytest.approx(counts[blocks[2].feed_forward], abs=1)
    assert abs(removed(counts, limits) - 2400) <= 15


def test_few_heads_are_divided_among_blocks_by_what_is_left_over():
    blocks = blocks_of(8, groups=2)
    limits = limits_of(blocks)
    counts = divide(blocks, [Share(1.0)] * 8, round(0.25 * limits.parameters), limits)
    assert sum(counts[parts.attention] for parts in blocks) == 4
    assert {counts[parts.attention] for parts in blocks} == {0, 1}


def test_a_fixed_block_gives_what_its_rule_says():
    blocks = blocks_of(3)
    limits = limits_of(blocks)
    counts = divide(blocks, [Share(0.0, 0.0), Share(0.0, 0.5), Share(1.0)], 2000, limits)
    assert [counts[part] for part in blocks[0]] == [0, 0]
    assert [counts[part] for part in blocks[1]] == [2, 20]
    assert abs(removed(counts, limits) - 2000) <= 15
    with pytest.raises(TrimPruneError, match=r"rules of the table take more(.|\n)*at most 100 of 6000"):
        divide(blocks, [Share(0.0, 0.5), Share(1.0), Share(1.0)], 100, limits)


@given(st.integers(1, 5), st.floats(0, 1), st.sampled_from([1, 8, 13]), st.sampled_from([0, 17]))
def test_evenly_every_block_keeps_the_same_multiple(count, share, multiple, bias):
    blocks = blocks_of(count, channels=80)
    limits = limits_of(blocks, bias=bias)
    wanted = round(share * most(blocks, limits))
    counts = divide_evenly(blocks, wanted, limits, multiple)
    (groups,) = {counts[parts.attention] for parts in blocks}
    (kept,) = {80 - counts[parts.feed_forward] for parts in blocks}
    assert 0 <= groups <= 3
    assert 8 <= kept <= 80
    assert kept % multiple == 0 or kept == 80
    if 0.1 < share < 0.8 and not bias:
        assert abs(removed(counts, limits) - wanted) <= count * 30 * multiple / 2


def test_evenly_only_so_many_groups_stay_as_a_configuration_can_say():
    blocks = blocks_of(2, groups=8, channels=80)
    limits = limits_of(blocks)
    wanted = round(0.45 * most(blocks, limits))
    asked = []

    def can_stay(groups):
        asked.append(groups)
        return 8 % groups == 0

    free, bound = divide_evenly(blocks, wanted, limits, 1), divide_evenly(blocks, wanted, limits, 1, can_stay)
    attention = blocks[0].attention
    # 3 of 8 groups would go; the channels make up for the fourth.
    assert (free[attention], bound[attention]) == (3, 4)
    assert asked == [5, 4]
    for counts in (free, bound):
        assert abs(removed(counts, limits) - wanted) <= 2 * 15


def test_evenly_a_target_that_no_number_of_groups_meets_is_refused_with_the_numbers():
    # 9 of 10 channels may go, 270 parameters of a block; without groups no more than that.
    blocks = blocks_of(2, groups=4, channels=10)
    with pytest.raises(TrimPruneError, match="no number of KV groups") as error:
        divide_evenly(blocks, 1400, limits_of(blocks), 1, lambda _: False)
    assert (error.value.expected, error.value.got) == ("800 parameters stay", "1660 at best")
    # Of 10 channels no multiple of 16 stays but all of them: nothing would go.
    with pytest.raises(TrimPruneError, match=r"no number of KV groups(.|\n)*1900 parameters stay(.|\n)*2200 at best"):
        divide_evenly(blocks, 300, limits_of(blocks), 16, lambda _: False)
    with pytest.raises(TrimPruneError, match=r"no number of KV groups(.|\n)*900 parameters stay(.|\n)*1000 at best"):
        divide_evenly(blocks, 1300, limits_of(blocks), 16)


@pytest.mark.parametrize("evenly", [True, False])
def test_a_target_that_would_empty_a_block_is_refused_with_the_numbers(evenly):
    blocks, shares = blocks_of(2, groups=4, channels=40), [Share(1.0)] * 2
    limits = limits_of(blocks)
    ask = partial(divide_evenly, blocks, 3900, limits, 8) if evenly else partial(divide, blocks, shares, 3900, limits)
    with pytest.raises(TrimPruneError, match=r"out of reach") as error:
        ask()
    # 1 of 4 groups of 200 and 4 of 40 channels of 30 have to stay in both.
    assert error.value.expected == "at least 640 of 4000 parameters stay (0.1600)"
    assert error.value.got == "100 (0.0250)"


def test_a_whole_model_is_met_within_one_channel_of_all_its_parameters(family, prune_tiny):
    dense = count_parameters(make_model(family))
    for params in (0.9, 0.75):
        found = prune_tiny(family, {"params": params, "cap": 0.97}).parameters
        assert (found.dense, found.target) == (dense, round(params * dense))
        # 32 hidden: three linears of a channel and their biases, and half of that is what rounding leaves at most.
        assert abs(found.pruned - found.target) <= (3 * 32 + 2) / 2 + 32


def test_the_ratio_is_the_share_that_goes(prune_tiny):
    assert prune_tiny("llama", {"ratio": 0.2}).parameters == prune_tiny("llama", {"params": 0.8}).parameters


def test_tied_embeddings_are_counted_once(prune_tiny):
    tied, untied = (prune_tiny("llama", {"params": 0.9}, tie_word_embeddings=tied) for tied in (True, False))
    assert untied.parameters.dense - tied.parameters.dense == 258 * 32
    assert tied.parameters.share == pytest.approx(0.9, abs=0.003)


def test_sizes_may_be_given(prune_tiny):
    found = prune_tiny("llama", {"mode": "uniform", "sizes": {"kv_groups": 1, "channels": 13}})
    assert [len(part.kept) for part in found.parts] == [1, 13, 1, 13]
    assert found.parameters.target is None
    assert found.model.config.num_attention_heads == 2
    assert (found.model.config.num_key_value_heads, found.model.config.intermediate_size) == (1, 13)


@pytest.mark.parametrize(
    ("family", "sizes", "message"),
    [
        ("llama", {"kv_groups": 3, "channels": 8}, r"3 KV groups cannot stay(.|\n)*1 to 2"),
        ("llama", {"kv_groups": 1, "channels": 49}, r"49 channels cannot stay(.|\n)*1 to 48"),
        ("opt", {"kv_groups": 2, "channels": 8}, r"2 KV groups cannot stay(.|\n)*4: heads cannot go here"),
    ],
)
def test_sizes_that_cannot_be_are_refused(family, sizes, message):
    recipe = StructuredRecipe.build({"mode": "uniform", "sizes": sizes})
    with pytest.raises(TrimPruneError, match=message):
        make_plan(make_model(family), recipe)


def test_sizes_that_a_configuration_cannot_say_are_refused_before_the_work():
    # Llama's wants as many heads as divide the hidden size.
    model = make_model("llama", hidden_size=64, num_attention_heads=8, num_key_value_heads=8)
    recipe = StructuredRecipe.build({"mode": "uniform", "sizes": {"kv_groups": 3, "channels": 8}})
    with pytest.raises(TrimPruneError, match=r"LlamaConfig(.|\n)*3 KV groups, 8 channels: .*not a multiple"):
        make_plan(model, recipe)


def test_a_model_out_of_reach_is_refused_before_anything_is_measured():
    model = make_model("llama")
    with pytest.raises(TrimPruneError, match=r"out of reach(.|\n)*at least \d+ of 32032 parameters stay"):
        make_plan(model, StructuredRecipe.build({"params": 0.55, "layers": "cosine", "cosine": {"blocks": 0.5}}))
    found = make_plan(model, StructuredRecipe.build({"params": 0.65, "layers": "uniform"}))
    assert found.wanted == 32032 - 20821
    assert abs(removed(found.counts, found.limits) - found.wanted) <= 48
    with pytest.raises(TrimPruneError, match="matches no block"):
        make_plan(model, StructuredRecipe(params=0.9, layers="table", table=[{"match": "x", "ratio": 0.1}]))


RAISE = "keep more, or raise cap"
TABLE = {"params": 0.1, "layers": "table", "table": [{"match": "*", "ratio": 0.5}]}


@pytest.mark.parametrize(
    ("family", "options", "recipe", "fix"),
    [
        ("opt", {}, {"params": 0.6, "mode": "uniform"}, f"{RAISE}, or let heads go as well, in mode: ragged"),
        ("opt", {}, {"params": 0.1}, RAISE),
        ("llama", {}, {"params": 0.1, "mode": "uniform"}, RAISE),
        ("llama", {}, {"params": 0.1, "heads": "none"}, f"{RAISE}, or let heads go as well"),
        ("llama", {"num_key_value_heads": 1}, {"params": 0.1, "heads": "none"}, RAISE),
        ("llama", {}, {"params": 0.1, "layers": "cosine"}, f"{RAISE}, or raise cosine.blocks"),
        ("llama", {}, {"params": 0.1, "layers": "cosine", "cosine": {"blocks": 1.0}}, RAISE),
        ("llama", {}, TABLE, f"{RAISE}, or raise the ratios of the table"),
    ],
)
def test_only_what_would_let_more_go_is_advised(family, options, recipe, fix):
    with pytest.raises(TrimPruneError, match=r"out of reach") as error:
        outline(make_model(family, **options), StructuredRecipe.build(recipe))
    assert error.value.fix == fix


def test_the_mode_that_is_advised_reaches_the_target():
    assert outline(make_model("opt"), StructuredRecipe.build({"params": 0.6, "mode": "ragged"})).counts


@pytest.mark.parametrize(
    ("repair", "tokens", "needed"), [("full", 47, "at least 48 tokens"), ("affine", 2, "at least 3 tokens")]
)
def test_fewer_tokens_than_a_regression_needs_are_refused(repair, tokens, needed, tokenizer, text):
    from trim_prune import prune

    recipe = {"params": 0.8, "repair": repair, "samples": 1, "seqlen": tokens}
    model = make_model("llama")
    # Nothing can go from any part, so nothing is regressed.
    assert prune(model, recipe | {"params": 1.0, "cap": 0.01}, [text], tokenizer=tokenizer).parts == []
    with pytest.raises(TrimPruneError, match=rf"repair '{repair}' needs(.|\n)*{needed}(.|\n)*{tokens} tokens"):
        prune(model, recipe, [text], tokenizer=tokenizer)
    assert count_parameters(model) == 32032
