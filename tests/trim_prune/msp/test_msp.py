"""Layers by MSP: from a recipe to a pruned model, and everything in between that can go wrong."""

from __future__ import annotations

import json
import math

import pytest
import torch
from tiny_models import make_model

import trim_kernels
from trim_prune import Recipe, TrimPruneError, prune
from trim_prune.msp import search

LAYERS = 6
SHORT = {"stages": [16, 48], "population": 8, "offspring": 8, "parents": 4, "generations": 3, "sequences": 4}
RECIPE = {"preset": "msp", "sparsity": 0.75, "samples": 4, "seqlen": 16, "msp": SHORT}


@pytest.fixture
def pruned(tokenizer, text):
    """Prune a tiny model of six blocks; returns the result and the events."""

    def run(options=None, *, out=None, listener=None, model=None):
        events = []

        def listen(event):
            events.append(event)
            if listener is not None:
                listener(event)

        model = model or make_model("llama", num_hidden_layers=LAYERS)
        recipe = RECIPE | (options or {})
        result = prune(model, recipe, [text], tokenizer=tokenizer, out=out, on_event=listen)
        return result, events

    return run


def keeps(result):
    """The pattern of each block, which all its linears share."""
    of_blocks = [{linear.pattern for linear in result.linears if linear.block == block} for block in range(LAYERS)]
    assert all(len(patterns) == 1 for patterns in of_blocks)
    return [int(patterns.pop().split()[1]) for patterns in of_blocks]


def searches(events):
    return [event.data for event in events if event.kind == "search"]


def test_blocks_keep_their_own_numbers_and_together_exactly_what_was_asked(pruned):
    result, events = pruned()
    kept = keeps(result)
    assert sum(kept) == 2 * LAYERS
    assert min(kept) >= 1
    assert result.sparsity.pruned == round(0.75 * result.sparsity.prunable_weights)
    told = searches(events)
    for number in {event["round"] for event in told}:
        of_round = [event for event in told if event["round"] == number]
        assert [event["generation"] for event in of_round] == list(range(len(of_round)))
        assert of_round[-1]["best"] <= of_round[-1]["uniform"]
        assert len({event["uniform"] for event in of_round}) == 1
    assert [e.data["sequence"] for e in events if e.kind == "sensitivity"] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "changes",
    [
        {"unit": "linear"},
        {"sensitivity": "weighted", "scale": "log"},
        {"sensitivity": "none", "sequences": 32},
        {"fitness": "perplexity"},
    ],
)
def test_every_way_to_search_stays_in_the_budget(pruned, changes):
    result, events = pruned({"msp": SHORT | changes})
    cost = sum(int(linear.pattern.split()[1]) * linear.shape[0] * linear.shape[1] for linear in result.linears)
    assert cost <= 2 * result.sparsity.prunable_weights
    assert bool([e for e in events if e.kind == "sensitivity"]) == (changes.get("sensitivity") != "none")
    assert searches(events)[0]["fitness"] == changes.get("fitness", "kl")


def test_of_the_best_vectors_of_all_rounds_it_takes_the_one_that_its_own_prune_makes_best(pruned, tmp_path):
    result, events = pruned({"msp": SHORT | {"rounds": 4}}, out=tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out" / search.HISTORY_FILE).read_text().splitlines()]
    leaders = [line for line in lines if "loss" in line]
    assert 1 < len(leaders) <= 4
    assert keeps(result) == min(leaders, key=lambda line: line["loss"])["levels"]
    assert [event.data["loss"] for event in events if event.kind == "round"] == [line["loss"] for line in leaders]


@torch.no_grad()
@pytest.mark.parametrize("score", ["wanda", "ria", "magnitude"])
def test_the_ranks_of_a_later_round_give_the_masks_of_the_prune_that_follows(tokenizer, text, score):
    from trim_prune.calibration.text import open_text
    from trim_prune.calibration.tokens import calibration_tokens
    from trim_prune.dense import DenseModel
    from trim_prune.events import Events
    from trim_prune.models.capture import Capture
    from trim_prune.models.discover import find_blocks
    from trim_prune.msp.levels import Scale
    from trim_prune.msp.ranks import measure_ranks
    from trim_prune.states import States
    from trim_prune.timing import Timings

    model, levels, cpu = make_model("llama", num_hidden_layers=3), (3, 1, 2), torch.device("cpu")
    rules = [{"match": f"model.layers.{i}.*", "sparsity": 1 - level / 8} for i, level in enumerate(levels)]
    choices = {"pattern": "of 8", "sparsity": 0.75, "samples": 4, "seqlen": 16, "batch_size": 4}
    recipe = Recipe.build({"score": score} | choices)
    calibration = calibration_tokens(tokenizer, open_text([text]), samples=4, seqlen=16, seed=recipe.seed)
    capture = Capture(model, find_blocks(model), calibration.token_ids)
    batches = torch.split(calibration.token_ids, recipe.batch_size)
    states = States([capture(batch) for batch in batches], cpu)
    dense = DenseModel(capture, states, calibration, recipe.batch_size, cpu, Events(), Timings(), None)
    by_linear = {linear: level for block, level in zip(dense.blocks, levels, strict=True) for linear in block.linears}
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    ranks, _ = measure_ranks(dense, recipe, Scale((0.5,)), by_linear)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    following = prune(
        model,
        {"score": score, "pattern": "of 8", "sparsity": 0.75, "samples": 4, "seqlen": 16}
        | {"layers": "table", "table": rules},
        [text],
        tokenizer=tokenizer,
    )
    for linear, rank in ranks.items():
        assert torch.equal(linear.module.weight == 0, rank >= by_linear[linear]), linear.name
    assert following.sparsity.pruned == sum(int((rank >= by_linear[linear]).sum()) for linear, rank in ranks.items())


@pytest.mark.parametrize("rows", ["uniform", "trim", "optimal", "whole"])
def test_without_a_pattern_it_searches_sparsities_for_any_row_budget(pruned, rows):
    recipe = {"preset": None, "sparsity": 0.6, "score": "wanda", "layers": "msp", "rows": rows}
    result, events = pruned(recipe | {"msp": SHORT | {"step": 0.1, "reach": 2}})
    assert result.sparsity.pruned == round(0.6 * result.sparsity.prunable_weights)
    shares = {round(linear.sparsity, 2) for linear in result.linears}
    assert shares <= {0.4, 0.5, 0.6, 0.7, 0.8}
    assert searches(events)


@pytest.mark.parametrize("solver", ["sparsegpt", "mask"])
def test_the_search_is_the_same_whatever_prunes_afterwards(pruned, solver):
    first, _ = pruned()
    other, events = pruned({"score": "obs", "solver": solver, "samples": 4, "correction": 0.5})
    assert keeps(other) == keeps(first)
    assert searches(events) == []


def test_the_layers_are_written_as_a_recipe_that_prunes_so_again(pruned, tokenizer, text, tmp_path):
    result, _ = pruned(out=tmp_path / "out")
    recipe = Recipe.load(tmp_path / "out" / "layers.yaml", {"score": "magnitude", "solver": "mask"})
    again = prune(make_model("llama", num_hidden_layers=LAYERS), recipe, tokenizer=tokenizer)
    assert keeps(again) == keeps(result)
    assert again.sparsity.pruned == result.sparsity.pruned
    assert len(recipe.table) == LAYERS


@pytest.mark.parametrize(("width", "rows"), [(48, "uniform"), (44, None)])
def test_layers_are_written_for_every_layer_budget(tokenizer, text, tmp_path, width, rows):
    """44 columns leave a shorter group of each row."""
    model = make_model("llama", num_hidden_layers=3, intermediate_size=width)
    base = {"sparsity": 0.6, "score": "wanda", "layers": "owl", "samples": 4, "seqlen": 16}
    result = prune(
        model,
        base | ({"pattern": "of 8"} if rows is None else {"rows": rows}),
        [text],
        tokenizer=tokenizer,
        out=tmp_path / "out",
    )
    rest = {} if rows is None else {"rows": rows}
    recipe = Recipe.load(tmp_path / "out" / "layers.yaml", {"score": "magnitude"} | rest)
    again = prune(make_model("llama", num_hidden_layers=3, intermediate_size=width), recipe, tokenizer=tokenizer)
    assert [linear.prune_count for linear in again.linears] == [linear.prune_count for linear in result.linears]
    told = [warning for warning in result.warnings if "4 left of 44 (3 linears)" in warning]
    assert len(told) == (width == 44)


def test_the_search_is_told_in_a_file_and_a_plot(pruned, tmp_path):
    _, events = pruned(out=tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out" / search.HISTORY_FILE).read_text().splitlines()]
    told = [(event["round"], event["generation"]) for event in searches(events)]
    assert [(line["round"], line["generation"]) for line in lines if "generation" in line] == told
    last = [line for line in lines if line.get("round") == told[-1][0]]
    best = min(c["losses"][1] for line in last for c in line.get("candidates", []) if len(c["losses"]) == 2)
    assert best == searches(events)[-1]["best"]
    assert len(lines[0]["sensitivity"]) == LAYERS
    assert "<svg" in (tmp_path / "out" / search.PLOT_FILE).read_text()


def test_without_matplotlib_the_plot_is_missing_and_nothing_else(pruned, tmp_path, monkeypatch):
    monkeypatch.setattr(search, "find_spec", lambda name: None)
    result, _ = pruned(out=tmp_path / "out")
    assert (tmp_path / "out" / search.HISTORY_FILE).is_file()
    assert not (tmp_path / "out" / search.PLOT_FILE).exists()
    assert any("trim-kernels[plot]" in warning for warning in result.warnings)


class InterruptionError(Exception):
    pass


@pytest.mark.parametrize(
    ("kind", "number"), [("sensitivity", 1), ("search", 0), ("search", 2), ("search", 5), ("round", 0), ("round", 1)]
)
def test_an_interrupted_search_goes_on_where_it_stopped(pruned, cache_folder, monkeypatch, tmp_path, kind, number):
    """At the ``number``-th event of a kind: generations are counted over all rounds."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    whole, told = pruned()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    seen = []

    def interrupt(event):
        seen.append(event)
        if len([event for event in seen if event.kind == kind]) == number + 1:
            raise InterruptionError

    with pytest.raises(InterruptionError):
        pruned(listener=interrupt)
    (journal,) = cache_folder.glob("fisher-*.jsonl" if kind == "sensitivity" else "msp-*.jsonl")
    with journal.open("a") as file:
        file.write('{"generation": 99, "candid')
    again, rest = pruned()
    assert keeps(again) == keeps(whole)

    def facts(events):
        return [{key: value for key, value in data.items() if key != "seconds"} for data in searches(events)]

    assert facts(rest) == facts(told)[len(searches(seen)) :]
    measured = [event.data["sequence"] for event in rest if event.kind == "sensitivity"]
    assert measured == ([3, 4] if kind == "sensitivity" else [])


def test_a_search_may_go_on_for_more_rounds(pruned, monkeypatch, tmp_path):
    _, told = pruned({"msp": SHORT | {"rounds": 1}})
    long, rest = pruned({"msp": SHORT | {"rounds": 3}})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    anew, every = pruned({"msp": SHORT | {"rounds": 3}})
    assert keeps(long) == keeps(anew)
    assert len(searches(told)) + len(searches(rest)) == len(searches(every))
    assert searches(rest)[0]["round"] == 1


@pytest.mark.parametrize("sparsity", [0.875, 0.0])
def test_with_one_vector_alone_there_is_no_search(pruned, sparsity):
    result, events = pruned({"sparsity": sparsity})
    assert keeps(result) == [round(8 * (1 - sparsity))] * LAYERS
    assert not [event for event in events if event.kind in {"search", "sensitivity"}]
    assert any("nothing to search" in warning for warning in result.warnings)


@pytest.mark.parametrize(
    ("rows", "sparsity", "reason", "step"),
    [
        ("whole", 0.97, "0.97 one msp.step of 0.05 more would be above 1, the most that rows 'whole' take", 0.03),
        ("trim", 0.93, "0.93 one msp.step of 0.05 more would be above 0.9375, the most that rows 'trim' take", 0.0075),
        ("uniform", 0.01, "0.01 one msp.step of 0.05 less would be below 0;", 0.01),
    ],
)
def test_a_step_that_leaves_no_other_level_is_told_with_one_that_does(pruned, rows, sparsity, reason, step):
    recipe = {"preset": None, "sparsity": sparsity, "score": "magnitude", "layers": "msp", "rows": rows}
    short = SHORT | {"rounds": 1, "generations": 1}
    result, events = pruned(recipe | {"msp": short})
    assert searches(events) == []
    (told,) = [warning for warning in result.warnings if "nothing to search" in warning]
    assert f"from sparsity {reason}" in told
    assert told.endswith(f"; give at most msp.step: {step:g}")
    result, events = pruned(recipe | {"msp": short | {"step": step}})
    assert searches(events)
    assert result.sparsity.pruned == round(sparsity * result.sparsity.prunable_weights)


@pytest.mark.parametrize("sparsity", [0.0, 1.0])
def test_with_nothing_or_everything_to_go_no_step_is_advised(pruned, sparsity):
    recipe = {"preset": None, "sparsity": sparsity, "score": "magnitude", "layers": "msp", "rows": "uniform"}
    result, events = pruned(recipe | {"msp": SHORT})
    assert searches(events) == []
    assert result.warnings == [f"nothing to search: at sparsity {sparsity:g} all units have the same level"]


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_losses_that_are_not_finite_do_not_end_a_search(pruned, monkeypatch, tmp_path, loss):
    from trim_prune.msp.fitness import Fitness

    judged = Fitness.__call__

    def some_not_finite(self, candidates, stage):
        losses = zip(candidates, judged(self, candidates, stage), strict=True)
        return [value if sum(levels[:3]) == 6 else loss for levels, value in losses]

    monkeypatch.setattr(Fitness, "__call__", some_not_finite)
    first, _ = pruned(out=tmp_path / "out")
    again, events = pruned(out=tmp_path / "again")
    assert keeps(again) == keeps(first)
    assert sum(keeps(first)[:3]) == 6
    assert searches(events) == []


def test_optimal_rows_are_ranked_as_the_prune_will_take_them(tokenizer, text):
    from trim_prune.calibration.statistics import LinearStatistics
    from trim_prune.models.discover import Linear
    from trim_prune.msp.levels import Scale, rank_linear

    torch.manual_seed(0)
    module = torch.nn.Linear(12, 8)
    statistics = LinearStatistics()
    statistics.tokens = 100
    statistics.gram = torch.diag(torch.rand(12) + 0.1)
    choices = {"sparsity": 0.5, "score": "magnitude", "layers": "msp", "rows": "optimal"}
    recipe = Recipe.build(choices | {"optimal": {"leave_out": ["*.q_proj"]}})
    uniform = Recipe.build({"sparsity": 0.5, "score": "magnitude", "layers": "msp", "rows": "uniform"})
    scale = Scale((0.75, 0.5, 0.25))
    ranks = {name: rank_linear(recipe, scale, Linear(name, 0, module), statistics) for name in ("b.q_proj", "b.o_proj")}
    assert torch.equal(ranks["b.q_proj"], rank_linear(uniform, scale, Linear("b.q_proj", 0, module), statistics))
    assert not torch.equal(ranks["b.o_proj"], ranks["b.q_proj"])


def test_a_finished_search_is_not_run_again_unless_something_differs(pruned, monkeypatch):
    first, _ = pruned()
    again, events = pruned()
    assert keeps(again) == keeps(first)
    assert searches(events) == []
    for changes in ({"seed": 1}, {"sparsity": 0.7}, {"msp": SHORT | {"reach": 1}}, {"score": "magnitude"}):
        assert searches(pruned(changes)[1]), changes
    other = make_model("llama", num_hidden_layers=LAYERS, seed=1)
    assert searches(pruned(model=other)[1])
    assert not searches(pruned()[1])
    monkeypatch.setattr("trim_prune.runs.fingerprint._sources", lambda: "changed")
    assert searches(pruned()[1])


def test_without_a_cache_folder_the_search_runs_and_warns(pruned, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    result, events = pruned()
    assert searches(events)
    assert any("is not kept for another run" in warning for warning in result.warnings)


def test_two_processes_do_not_write_one_journal(tmp_path):
    from trim_prune.msp.journal import SearchJournal

    first = SearchJournal("one.jsonl")
    second = SearchJournal("one.jsonl")
    assert first.problem is None
    assert second.problem is not None
    first.close()
    third = SearchJournal("one.jsonl")
    assert third.problem is None
    third.close()


def test_the_ranks_of_a_pattern_with_a_shorter_group_are_its_masks():
    from trim_prune.calibration.statistics import LinearStatistics
    from trim_prune.models.discover import Linear
    from trim_prune.msp.levels import Scale, rank_linear

    torch.manual_seed(0)
    module = torch.nn.Linear(21, 7)
    recipe = Recipe.build({"sparsity": 0.75, "score": "magnitude", "layers": "msp", "pattern": "of 8"})
    rank = rank_linear(recipe, Scale((0.5,)), Linear("linear", 0, module), LinearStatistics())
    for keep in range(9):
        assert torch.equal(rank < keep, trim_kernels.nm_mask(module.weight.data, keep, 8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sparsity": 0.9}, "out of reach of layer budget 'msp'(.|\n)*at most 0.875"),
        ({"pattern": "of 32", "sparsity": 0.75}, "narrower than a group"),
        ({"pattern": "keep 2 of 8"}, "says otherwise(.|\n)*of 8 and sparsity: 0.75"),
        ({"msp": {"unit": "head"}}, "msp.unit"),
        ({"msp": {"score": "wandas"}}, "unknown score 'wandas'(.|\n)*wanda"),
        ({"msp": {"stages": [64, 64]}}, "more tokens than the one before"),
        ({"msp": {"stages": [100_000]}}, "too little calibration text(.|\n)*to judge a search by"),
        ({"layers": "owl"}, "the options of msp are given, and nothing reads them"),
    ],
)
def test_bad_requests_are_refused_before_any_work(tokenizer, text, changes, message):
    model = make_model("llama", hidden_size=24, intermediate_size=48)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    events = []
    with pytest.raises(TrimPruneError, match=message):
        prune(model, RECIPE | changes, [text], tokenizer=tokenizer, on_event=events.append)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not [event for event in events if event.kind in {"calibration", "sensitivity", "search"}]


def test_every_family_can_be_searched(family, tokenizer, text):
    recipe = RECIPE | {"msp": SHORT | {"generations": 1}}
    result = prune(make_model(family), recipe, [text], tokenizer=tokenizer)
    assert result.sparsity.pruned == round(0.75 * result.sparsity.prunable_weights)
