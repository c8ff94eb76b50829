from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from layer_requests import make_request, random_linears
from tiny_models import linears_of, make_model, zeros

from trim_prune import Recipe, TrimPruneError, prune
from trim_prune.budgets.layers import exact_counts
from trim_prune.budgets.layers.table import table
from trim_prune.models.output import Output

SHAPES = [(8, 6), (5, 7), (30, 3)]


def counts_of(request):
    sizes = [linear.size for linear in request.linears]
    return exact_counts(table(request), sizes, request.limits, request.prune_count)


def rules(**sparsities):
    return [{"match": f"*.{name}", "sparsity": sparsity} for name, sparsity in sparsities.items()]


def test_ruled_linears_keep_their_sparsity_and_the_others_share_the_rest():
    linears = random_linears(SHAPES, SHAPES)
    request = make_request(linears, sparsity=0.5, layers="table", table=rules(linear1=0.2))
    counts = counts_of(request)
    assert counts[1] == counts[4] == 7
    assert sum(counts) == request.prune_count == 173
    # 159 of 276 weights: 0.576 of each.
    assert [counts[0], counts[2], counts[3], counts[5]] == [28, 52, 27, 52]


@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60), st.none() | st.floats(0, 1)), min_size=1, max_size=12),
    st.floats(0, 1),
)
def test_every_ruled_linear_gets_its_count_whatever_the_sizes(linears, share):
    made = random_linears([(rows, columns) for rows, columns, _ in linears])
    given_rules = rules(**{f"linear{i}": sparsity for i, (*_, sparsity) in enumerate(linears) if sparsity is not None})
    ruled = {i: round(s * made[i].size) for i, (*_, s) in enumerate(linears) if s is not None}
    free = sum(linear.size for i, linear in enumerate(made) if i not in ruled)
    total = sum(linear.size for linear in made)
    sparsity = (sum(ruled.values()) + int(share * free)) / total
    assume(ruled and free)
    request = make_request(made, sparsity=sparsity, layers="table", table=given_rules)
    counts = counts_of(request)
    assert sum(counts) == request.prune_count
    assert {i: counts[i] for i in ruled} == ruled


def test_what_a_limit_holds_back_goes_to_the_linears_without_a_rule():
    linears = random_linears([(10, 10)] * 4)
    request = make_request(linears, sparsity=0.5, limits=[100, 100, 20, 100], layers="table", table=rules(linear0=0.3))
    assert counts_of(request) == [30, 75, 20, 75]


def test_two_rules_may_agree_on_a_linear_and_patterns_pass_over_dots():
    linears = random_linears(SHAPES, SHAPES)
    given = [{"match": "model.layers.0.*", "sparsity": 0.25}, {"match": "*linear[02]", "sparsity": 0.25}]
    request = make_request(linears, sparsity=0.3, layers="table", table=given)
    counts = counts_of(request)
    assert counts[:4] == [12, 9, 22, 12]
    assert counts[5] == 22
    assert sum(counts) == request.prune_count


def test_rules_for_all_linears_may_meet_the_sparsity_by_themselves():
    linears = random_linears([(10, 10), (20, 10)])
    request = make_request(linears, sparsity=0.5, layers="table", table=rules(linear0=0.7, linear1=0.4))
    assert counts_of(request) == [70, 80]


@pytest.mark.parametrize(
    ("sparsity", "given", "message"),
    [
        (0.5, rules(linear9=0.2), r"matches no linear(.|\n)*'\*\.linear9', sparsity: 0\.2(.|\n)*layers\.0\.linear0"),
        (0.5, rules(Linear0=0.2), "matches no linear"),
        (
            0.5,
            [*rules(linear0=0.2), {"match": "*.0.*", "sparsity": 0.3}],
            r"different sparsities(.|\n)*model\.layers\.0\.linear0(.|\n)*'\*\.linear0'.*'\*\.0\.\*', sparsity: 0\.3",
        ),
        (
            0.5,
            rules(linear0=0.4, linear1=0.5, linear2=0.5),
            r"miss the sparsity(.|\n)*weights of 0\.5\n(.|\n)*0\.4722(.|\n)*sparsity: 0\.4722",
        ),
        (
            0.2,
            rules(linear2=0.9),
            r"cannot have(.|\n)*0 to 166 of the 166 weights of the 4 linears(.|\n)*-93 \(-0\.5602\)(.|\n)*lower",
        ),
        (0.9, rules(linear2=0.1), r"cannot have(.|\n)*293 \(1\.7651\)(.|\n)*0\.9 in the whole(.|\n)*raise"),
    ],
    ids=["unused", "case", "contradiction", "covered", "too little left", "too much left"],
)
def test_rules_that_cannot_be_followed_are_named(sparsity, given, message):
    request = make_request(random_linears(SHAPES, SHAPES), sparsity=sparsity, layers="table", table=given)
    with pytest.raises(TrimPruneError, match=message):
        table(request)


def test_a_table_without_rules_is_refused_with_the_recipe():
    with pytest.raises(TrimPruneError, match="'table' has no rules"):
        Recipe.build({"sparsity": 0.5, "layers": "table"})


def test_a_rule_above_what_the_row_budget_takes_is_refused():
    linears = random_linears([(10, 10)] * 2)
    request = make_request(linears, limits=[90, 90], layers="table", table=rules(linear0=0.95))
    with pytest.raises(TrimPruneError, match=r"out of reach of row budget 'uniform'(.|\n)*at most 90 of 100 weights"):
        table(request)


@pytest.mark.parametrize("rows", ["uniform", "trim"])
def test_a_model_is_pruned_by_the_table(rows, tokenizer, text):
    model = make_model("llama")
    recipe = {
        "sparsity": 0.6,
        "rows": rows,
        "layers": "table",
        "table": [{"match": "*.mlp.down_proj", "sparsity": 0.3}, {"match": "model.layers.0.*.q_proj", "sparsity": 0.1}],
        "samples": 4,
        "seqlen": 16,
    }
    result = prune(model, recipe, [text], tokenizer=tokenizer)
    assert result.sparsity.pruned == round(0.6 * result.sparsity.prunable_weights)
    linears = linears_of(model, "llama")
    for block in (0, 1):
        weight = linears[f"model.layers.{block}.mlp.down_proj"].weight
        assert zeros(weight) == round(0.3 * weight.numel())
    query = linears["model.layers.0.self_attn.q_proj"].weight
    assert zeros(query) == round(0.1 * query.numel())
    others = [
        r.sparsity for r in result.linears if "down_proj" not in r.name and r.name != "model.layers.0.self_attn.q_proj"
    ]
    assert max(others) - min(others) < 0.005


@pytest.mark.parametrize(("of", "sparsity"), [(4, 0.5), (3, 1 - 1 / 3), (3, 0.667)])
def test_with_a_pattern_ruled_linears_keep_theirs_and_the_others_share_the_rest(of, sparsity):
    # A small ruled linear, in which what is left over would fit.
    model = make_model("llama", num_hidden_layers=3)
    recipe = {"sparsity": 0.6, "pattern": f"of {of}", "score": "magnitude", "layers": "table"}
    result = prune(model, recipe | {"table": [{"match": "*.k_proj", "sparsity": sparsity}]})
    keeps = {linear.name: int(linear.pattern.split()[1]) for linear in result.linears}
    assert {keep for name, keep in keeps.items() if name.endswith("k_proj")} == {round(of * (1 - sparsity))}
    others = {linear.name: linear for linear in result.linears if not linear.name.endswith("k_proj")}
    assert max(keeps[name] for name in others) - min(keeps[name] for name in others) <= 1
    left = sum(linear.shape[0] * linear.shape[1] * (of * 0.4 - keeps[linear.name]) for linear in result.linears)
    assert 0 <= left < max(linear.shape[0] * linear.shape[1] for linear in others.values())


def test_rules_for_all_linears_with_a_pattern_meet_the_sparsity_by_themselves():
    linears, given_rules = random_linears([(6, 6), (6, 6)]), rules(linear0=0.667, linear1=0.667)
    request = make_request(linears, sparsity=2 / 3, pattern="of 3", layers="table", table=given_rules)
    assert [round(3 * (1 - share)) for share in table(request)] == [1, 1]
    request = make_request(
        random_linears([(60, 60), (60, 60)]), sparsity=0.667, pattern="of 3", layers="table", table=given_rules
    )
    with pytest.raises(TrimPruneError, match=r"cover every linear and miss(.|\n)*0\.667\n(.|\n)*0\.66666"):
        table(request)


def test_a_rule_between_two_patterns_is_refused_with_both():
    request = make_request(
        random_linears([(8, 8), (8, 8)]), sparsity=0.5, pattern="of 4", layers="table", table=rules(linear0=0.6)
    )
    with pytest.raises(TrimPruneError, match=r"0\.5 \(keep 2 of 4\) or 0\.75 \(keep 1 of 4\)(.|\n)*0\.6"):
        table(request)


def test_a_wrong_rule_is_refused_before_the_model_runs_and_before_anything_is_written(
    tokenizer, text, tmp_path, leftovers, monkeypatch
):
    model, events = make_model("llama"), []
    monkeypatch.setattr(Output, "prepare", lambda *_: pytest.fail("the output is laid out"))
    recipe = {"sparsity": 0.6, "layers": "table", "table": [{"match": "*.fc1", "sparsity": 0.3}]}
    recipe |= {"samples": 4, "seqlen": 16}
    with pytest.raises(TrimPruneError, match=r"matches no linear(.|\n)*\*\.fc1"):
        prune(model, recipe, [text], tokenizer=tokenizer, out=tmp_path / "out", on_event=events.append)
    assert leftovers(tmp_path) == []
    assert not any(event.kind == "calibration" for event in events)
