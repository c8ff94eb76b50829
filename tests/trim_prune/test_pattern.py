"""N:M patterns: what they are called, what each linear keeps, and that every group has it."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import linears_of, make_model, zeros

from trim_prune import Recipe, TrimPruneError, prune
from trim_prune.budgets.layers import keep_counts
from trim_prune.pattern import Keep, Pattern

TINY = {"samples": 4, "seqlen": 16}


@pytest.mark.parametrize(
    ("text", "keep", "of", "shown"),
    [
        ("keep 2 of 4", 2, 4, "keep 2 of 4"),
        (" keep  0 of 3 ", 0, 3, "keep 0 of 3"),
        ("keep 32 of 32", 32, 32, "keep 32 of 32"),
        ("2:4", 2, 4, "keep 2 of 4"),
        ("4 : 8", 4, 8, "keep 4 of 8"),
        ("of 8", None, 8, "of 8"),
    ],
)
def test_patterns_are_words(text, keep, of, shown):
    pattern = Pattern.parse(text)
    assert (pattern.keep, pattern.of, str(pattern)) == (keep, of, shown)
    assert Pattern.parse(str(pattern)) == pattern


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3:4", "keeping 3 of 4 and as pruning 3 of 4.*'keep 3 of 4' or 'keep 1 of 4'"),
        ("keep 5 of 4", "keeps 0 to 4 of 4, got 5"),
        ("4:2", "keeps 0 to 2 of 2, got 4"),
        ("3:40", "1 to 32 columns, got 40"),
        ("of 33", "1 to 32 columns, got 33"),
        ("of 0", "1 to 32 columns, got 0"),
        ("keep two of four", "words such as 'keep 2 of 4', got 'keep two of four'"),
        ("", "words such as"),
    ],
)
def test_what_is_no_pattern_is_refused(text, message):
    with pytest.raises(TrimPruneError, match=message):
        Recipe.build({"sparsity": 0.5, "pattern": text})


@given(st.integers(1, 200), st.integers(0, 32), st.integers(1, 32))
def test_the_last_group_keeps_its_share_rounded_up(columns, keep, of):
    keep = min(keep, of)
    groups = [min(of, columns - first) for first in range(0, columns, of)]
    assert Keep(keep, of).of_row(columns) == sum(-(-keep * size // of) for size in groups)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(1, 50)), min_size=1, max_size=12),
    st.integers(1, 32),
    st.floats(0, 1),
)
def test_counts_never_exceed_the_budget_and_leave_nothing_that_fits(units, of, share):
    sparsities, sizes = [sparsity for sparsity, _ in units], [size for _, size in units]
    total = int(share * sum(sizes))
    counts = keep_counts(sparsities, sizes, of, total)
    left = of * (sum(sizes) - total) - sum(size * count for size, count in zip(sizes, counts, strict=True))
    assert all(0 <= count <= of for count in counts)
    assert left >= 0
    assert all(count == of or size > left for size, count in zip(sizes, counts, strict=True))


@given(st.lists(st.integers(0, 8), min_size=1, max_size=40), st.integers(1, 1000))
def test_counts_of_sparsities_that_are_patterns_already_are_those(counts, size):
    sparsities = [1 - count / 8 for count in counts]
    total = sum(size * (8 - count) for count in counts)
    assert keep_counts(sparsities, [8 * size] * len(counts), 8, total) == counts


@pytest.mark.parametrize("sparsity", [float("nan"), float("inf")])
def test_a_sparsity_that_is_no_number_is_refused(sparsity):
    with pytest.raises(ValueError, match="is not a number"):
        keep_counts([0.5, sparsity], [4, 4], 4, 4)


def test_one_sparsity_for_each_linear_is_asked_for_with_a_pattern_too():
    with pytest.raises(ValueError, match="expected 2 sparsities, one for each linear, got 1"):
        keep_counts([0.5], [4, 4], 4, 4)


def test_a_pattern_has_its_sparsity_and_takes_the_place_of_rows():
    recipe = Recipe.build({"pattern": "keep 2 of 8"})
    assert (recipe.sparsity, recipe.rows, str(recipe.pattern)) == (0.75, "uniform", "keep 2 of 8")
    assert Recipe.build(recipe.model_dump(mode="json")) == recipe
    assert Recipe.build({"pattern": "keep 2 of 8", "preset": "sparsegpt"}).rows == "uniform"
    assert Recipe.build({"pattern": "of 8", "sparsity": 0.7, "layers": "owl"}).sparsity == 0.7


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pattern": "keep 2 of 4", "sparsity": 0.4}, r"contradict(.|\n)*0\.5, which is keep 2 of 4(.|\n)*of 4"),
        ({"pattern": "of 8"}, "sparsity is missing"),
        ({"pattern": "keep 2 of 4", "rows": "trim"}, r"nothing to a row budget(.|\n)*rows: trim"),
        ({"pattern": "keep 2 of 4", "solver": "swaps"}, r"knows no patterns(.|\n)*one of alps, mask, sparsegpt"),
        ({"pattern": 4, "sparsity": 0.5}, "pattern: .*got 4"),
    ],
    ids=str,
)
def test_what_a_pattern_does_not_go_with_is_refused(given, message):
    with pytest.raises(TrimPruneError, match=message):
        Recipe.build(given)


def groups_of(kept, of):
    """How many weights each group of a mask [R, C] keeps, with the size of the group."""
    for first in range(0, kept.shape[1], of):
        group = kept[:, first : first + of]
        yield group.shape[1], group.sum(dim=1).unique().tolist()


CHOICES = {
    "mask": {},
    "magnitude": {"score": "magnitude"},
    "ria": {"score": "ria"},
    "obs": {"score": "obs"},
    "fixed": {"solver": "sparsegpt"},
    "sparsegpt": {"preset": "sparsegpt"},
    "alps": {"solver": "alps"},
    "best": {"preset": "best"},
}


@pytest.mark.parametrize("pattern", ["keep 2 of 4", "keep 3 of 7", "keep 0 of 5", "keep 32 of 32"])
@pytest.mark.parametrize("choice", CHOICES)
def test_every_group_keeps_what_the_pattern_says(choice, pattern, tokenizer, text):
    model, keep = make_model("llama"), Pattern.parse(pattern)
    result = prune(model, CHOICES[choice] | {"pattern": pattern, **TINY}, [text], tokenizer=tokenizer)
    for name, linear in linears_of(model, "llama").items():
        for size, counts in groups_of(linear.weight != 0, keep.of):
            assert counts == [-(-keep.keep * size // keep.of)], name
    assert {linear.pattern for linear in result.linears} == {pattern}
    assert sum(zeros(linear.weight) for linear in linears_of(model, "llama").values()) == result.sparsity.pruned


def test_layers_say_how_many_each_block_keeps(tokenizer, text):
    recipe = {"pattern": "of 8", "sparsity": 0.75, "layers": "owl", "owl": {"lamda": 0.2}, "preset": "wanda", **TINY}
    result = prune(make_model("llama"), recipe, [text], tokenizer=tokenizer)
    of_blocks = [{linear.pattern for linear in result.linears if linear.block == block} for block in (0, 1)]
    assert sorted(map(sorted, of_blocks)) == [["keep 0 of 8"], ["keep 4 of 8"]]
    assert result.sparsity.of_prunable == 0.75


def test_a_linear_narrower_than_a_group_is_refused_before_any_work(tokenizer, text):
    model = make_model("llama", hidden_size=16, intermediate_size=20, num_attention_heads=2, num_key_value_heads=1)
    before = {name: linear.weight.clone() for name, linear in linears_of(model, "llama").items()}
    with pytest.raises(TrimPruneError, match=r"narrower than a group(.|\n)*at least 32 columns(.|\n)*16"):
        prune(model, {"pattern": "keep 2 of 32", "score": "magnitude"}, [text], tokenizer=tokenizer)
    assert all(torch.equal(linear.weight, before[name]) for name, linear in linears_of(model, "llama").items())


@pytest.mark.parametrize("options", [["--keep", 2, "--of", 4], ["--of", 4, "--sparsity", 0.5]], ids=str)
def test_the_command_line_says_the_pattern_in_words(options, trim_prune_command, llama_folder, tmp_path):
    out = tmp_path / "out"
    done = trim_prune_command("prune", llama_folder, "--score", "magnitude", *options, "--out", out)
    assert done.returncode == 0, done.stderr
    shown = "keep 2 of 4" if "--keep" in options else "of 4"
    assert f"pattern  {shown}\n" in done.stdout
    assert json.loads((out / "run.json").read_text())["recipe"]["pattern"] == shown


def test_keep_without_of_is_refused(trim_prune_command, llama_folder, tmp_path):
    done = trim_prune_command("prune", llama_folder, "--keep", 2, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "a pattern needs both numbers" in done.stderr
