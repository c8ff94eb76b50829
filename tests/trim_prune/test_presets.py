"""Recipes with a name: each is documented, runs, and means what it says wherever it is given."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest
from tiny_models import linears_of, make_model, zeros

from trim_prune import Recipe, SparseGPTOptions, TrimPruneError, presets, prune
from trim_prune.options import AlpsOptions

TINY = {"samples": 4, "seqlen": 16}
EXPECTED = {
    "wanda": {"score": "wanda", "layers": "uniform", "rows": "uniform", "solver": "mask"},
    "trim": {"score": "wanda", "layers": "uniform", "rows": "trim", "solver": "mask"},
    "sparsegpt": {
        "score": "obs",
        "layers": "uniform",
        "rows": "whole",
        "solver": "sparsegpt",
        "sparsegpt": {"mask": "blocks", "refine": 0},
    },
    "best": {"score": "obs", "layers": "owl", "rows": "whole", "solver": "alps", "correction": 0.4},
    "msp": {"score": "wanda", "layers": "msp", "solver": "mask", "pattern": "of 8"},
}


def holds(values, part):
    """Whether values have all of a part, groups of options value by value."""
    return all(
        holds(values[key], value) if isinstance(value, dict) else values[key] == value for key, value in part.items()
    )


def test_all_are_known():
    assert presets.names() == sorted(EXPECTED)


@pytest.mark.parametrize("name", presets.names())
def test_it_is_documented(name):
    text = (files(presets) / f"{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert text.endswith("\n")
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("name", presets.names())
def test_it_gives_what_it_says(name):
    recipe = Recipe.build({"sparsity": 0.7, "preset": name})
    assert recipe.preset == name
    values = recipe.model_dump(mode="json")
    assert values == values | EXPECTED[name]
    assert holds(values, presets.read(name))


@pytest.mark.parametrize("name", presets.names())
def test_it_prunes_to_the_weight_and_its_run_file_builds_it_again(name, tokenizer, text, tmp_path):
    model, out = make_model("llama"), tmp_path / "out"
    quick = {"msp": {"stages": [16], "generations": 1}} if name == "msp" else {}
    recipe = {"sparsity": 0.625, "preset": name, **TINY, **quick}
    result = prune(model, recipe, [text], tokenizer=tokenizer, out=out)
    assert result.sparsity.pruned == round(0.625 * result.sparsity.prunable_weights)
    assert sum(zeros(linear.weight) for linear in linears_of(model, "llama").values()) == result.sparsity.pruned
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert run["recipe"]["preset"] == name
    assert Recipe.build(run["recipe"]) == result.recipe


def test_a_recipe_made_in_python_begins_with_its_preset_too():
    assert Recipe(sparsity=0.7, preset="best") == Recipe.build({"sparsity": 0.7, "preset": "best"})
    assert Recipe(sparsity=0.7, preset="sparsegpt", sparsegpt=SparseGPTOptions(refine=4)).sparsegpt == SparseGPTOptions(
        mask="blocks", refine=4
    )


def test_a_preset_in_a_file_is_completed_by_file_and_options(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text("preset: sparsegpt\nsparsegpt: {refine: 2}\nsamples: 7\n", encoding="utf-8")
    recipe = Recipe.load(file, {"sparsity": 0.5, "preset": "sparsegpt"})
    assert (recipe.solver, recipe.samples, recipe.sparsity) == ("sparsegpt", 7, 0.5)
    assert recipe.sparsegpt == SparseGPTOptions(mask="blocks", refine=2)


def test_a_preset_on_the_command_line_completes_a_file(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text("sparsity: 0.5\nseed: 3\n", encoding="utf-8")
    recipe = Recipe.load(file, {"preset": "wanda"})
    assert (recipe.rows, recipe.seed) == ("uniform", 3)


def test_what_is_given_beside_a_preset_takes_the_place_of_what_it_says():
    recipe = Recipe.build({"sparsity": 0.5, "preset": "best", "correction": 0.1, "layers": "dlp", "alps": {"rho": 0.2}})
    assert (recipe.correction, recipe.layers, recipe.rows) == (0.1, "dlp", "whole")
    assert recipe.alps == AlpsOptions(rho=0.2)
    recipe = Recipe.build({"sparsity": 0.5, "preset": "sparsegpt", "sparsegpt": {"refine": 10}})
    assert recipe.sparsegpt == SparseGPTOptions(mask="blocks", refine=10)


@pytest.mark.parametrize(
    ("given", "layers"), [({"pattern": "keep 2 of 4"}, "uniform"), ({"pattern": "of 4", "sparsity": 0.5}, "owl")]
)
def test_a_whole_pattern_takes_the_place_of_the_layers_of_a_preset(given, layers):
    recipe = Recipe.build({"preset": "best"} | given)
    assert (recipe.layers, recipe.rows, recipe.solver, recipe.sparsity) == (layers, "uniform", "alps", 0.5)


def test_the_options_of_a_method_that_is_not_chosen_any_more_go_with_it():
    recipe = Recipe.build({"sparsity": 0.5, "preset": "sparsegpt", "solver": "alps", "alps": {"rho": 0.1}})
    assert (recipe.solver, recipe.alps.rho, recipe.sparsegpt) == ("alps", 0.1, SparseGPTOptions())


@pytest.mark.parametrize(
    ("given", "damping"),
    [
        ({"solver": "mask", "score": "wanda"}, None),
        ({"solver": "mask"}, 0.01),
        ({"score": "wanda"}, 0.01),
        ({"solver": "mask", "score": "wanda", "correction": 0.5}, 0.01),
        ({"solver": "mask", "score": "wanda", "layers": "msp", "msp": {"score": "obs"}}, 0.01),
    ],
)
def test_what_only_the_preset_says_goes_if_nothing_reads_it_any_more(given, damping):
    recipe = Recipe.build({"sparsity": 0.7, "preset": "sparsegpt"} | given)
    assert recipe.damping == damping
    assert Recipe.build(recipe.model_dump(mode="json")) == recipe
    assert Recipe(**{"sparsity": 0.7, "preset": "sparsegpt"} | given) == recipe


def test_what_is_given_beside_a_preset_is_refused_if_nothing_reads_it_though_the_preset_says_the_same():
    given = {"sparsity": 0.7, "preset": "sparsegpt", "solver": "mask", "score": "wanda"}
    with pytest.raises(TrimPruneError, match="damping is given, and nothing reads it"):
        Recipe.build(given | {"damping": 0.01})


def test_what_is_wrong_is_told_as_ever_where_the_preset_may_say_what_nothing_reads():
    given = {"preset": "sparsegpt", "solver": "mask", "score": "wanda"}
    with pytest.raises(TrimPruneError, match=r"^recipe: sparsity: [^;]*, got 3$"):
        Recipe.build(given | {"sparsity": 3})
    with pytest.raises(TrimPruneError, match="unknown score 'wnda'"):
        Recipe.build(given | {"sparsity": 0.5, "score": "wnda"})


def test_a_whole_recipe_builds_itself_whatever_its_preset_says_by_now(monkeypatch):
    written = Recipe.build({"sparsity": 0.5, "preset": "best"}).model_dump(mode="json")
    monkeypatch.setattr(presets, "read", lambda name: {"score": "ria", "solver": "swaps", "swaps": {"rounds": 3}})
    assert Recipe.build(written).model_dump(mode="json") == written


@pytest.mark.parametrize("layers", ["owl", "alphapruning"])
def test_trim_takes_the_layers_that_its_file_advises(layers):
    assert Recipe.build({"sparsity": 0.7, "preset": "trim", "layers": layers}).layers == layers


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sparsegpt": {"refine": 1}}, r"options of sparsegpt are given(.|\n)*solver: alps"),
        ({"solver": "mask", "alps": {"rho": 0.1}}, r"options of alps are given(.|\n)*solver: mask"),
        ({"scroe": "obs"}, "unknown key 'scroe'"),
    ],
    ids=str,
)
def test_what_is_wrong_without_the_preset_is_wrong_with_it(given, message):
    with pytest.raises(TrimPruneError, match=message):
        Recipe.build({"sparsity": 0.5, "preset": "best", **given})


def test_another_preset_than_in_the_file_is_refused(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text("preset: wanda\nsparsity: 0.5\n", encoding="utf-8")
    with pytest.raises(TrimPruneError, match=r"preset is given twice(.|\n)*'trim', and 'wanda' in (.|\n)*recipe\.yaml"):
        Recipe.load(file, {"preset": "trim"})


@pytest.mark.parametrize("name", ["", "bset", "Best", "best.yaml", "../presets/best", "sparsgpt"])
def test_an_unknown_preset_names_the_known_ones(name):
    with pytest.raises(TrimPruneError, match=r"unknown preset(.|\n)*one of best, msp, sparsegpt, trim, wanda"):
        Recipe.build({"sparsity": 0.5, "preset": name})


def test_a_misspelt_preset_is_guessed():
    with pytest.raises(TrimPruneError, match="did you mean 'sparsegpt'"):
        Recipe.build({"sparsity": 0.5, "preset": "sparsgpt"})


def test_a_preset_that_is_no_name_is_refused():
    with pytest.raises(TrimPruneError, match=r"preset: .*string, got 3"):
        Recipe.build({"sparsity": 0.5, "preset": 3})


def test_a_preset_from_the_command_line(invoke, llama_folder, text_file, tmp_path):
    data = ["--data", text_file, "--samples", 4, "--seqlen", 16, "--sparsity", 0.6]
    code, *told = invoke("prune", llama_folder, *data, "--preset", "best", "--out", tmp_path / "out")
    assert code == 0, told
    recipe = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))["recipe"]
    assert holds(recipe, presets.read("best") | {"preset": "best", "sparsity": 0.6})


def test_layers_rows_and_solver_from_the_command_line(invoke, llama_folder, text_file, tmp_path):
    data = ["--data", text_file, "--samples", 4, "--seqlen", 16, "--sparsity", 0.6]
    choices = {"score": "ria", "layers": "owl", "rows": "optimal", "solver": "alps"}
    options = [part for name, value in choices.items() for part in (f"--{name}", value)]
    code, *told = invoke("prune", llama_folder, *data, *options, "--out", tmp_path / "out")
    assert code == 0, told
    recipe = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))["recipe"]
    assert recipe == recipe | choices
    assert recipe["preset"] is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--preset", "bset"], "did you mean 'best'"),
        (["--preset", "wanda", "--damping", "0.1"], "nothing reads it"),
        (["--layers", "owls"], "did you mean 'owl'"),
        (["--solver", "sparsgpt"], "did you mean 'sparsegpt'"),
    ],
    ids=str,
)
def test_a_wrong_choice_is_refused_before_anything_is_written(invoke, llama_folder, tmp_path, options, words):
    code, *told = invoke("prune", llama_folder, "--sparsity", 0.5, *options, "--out", tmp_path / "out")
    assert code == 2
    assert words in "".join(told)
    assert not (tmp_path / "out").exists()
