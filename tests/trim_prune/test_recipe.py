from __future__ import annotations

import pytest
from pydantic import ValidationError

from trim_prune import AlphaPruningOptions, DlpOptions, OwlOptions, Recipe, TableRule, TrimOptions, TrimPruneError


@pytest.fixture
def yaml_file(tmp_path):
    def write(content):
        file = tmp_path / "recipe.yaml"
        file.write_text(content, encoding="utf-8")
        return file

    return write


def test_a_yaml_file_gives_the_recipe(yaml_file):
    file = yaml_file("sparsity: 0.7\nscore: magnitude\nseqlen: 128\ntrim:\n  iterations: 3\n  learning_rates: [0.1]\n")
    recipe = Recipe.load(file)
    assert recipe == Recipe(
        sparsity=0.7, score="magnitude", seqlen=128, trim=TrimOptions(iterations=3, learning_rates=(0.1,))
    )


def test_a_dumped_recipe_builds_the_same_again():
    recipe = Recipe(
        sparsity=0.63, score="magnitude", recapture=True, trim=TrimOptions(layer_metric="snr", max_sparsity=0.9)
    )
    assert Recipe.build(recipe.model_dump()) == recipe
    assert Recipe.build(recipe.model_dump(mode="json")) == recipe


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "sparsity is missing"),
        ({"sparsity": 0.5, "smaples": 3}, "unknown key 'smaples' .did you mean 'samples'"),
        ({"sparsity": 0.5, "xyzzy": 3}, "unknown key 'xyzzy' .known: sparsity, preset, score"),
        ({"sparsity": 0.5, "trim": {"iteration": 3}}, r"unknown key 'trim\.iteration' .did you mean 'iterations'"),
        ({"sparsity": 1.5}, "sparsity: .*less than or equal to 1, got 1.5"),
        ({"sparsity": -0.5}, "sparsity: .*greater than or equal to 0, got -0.5"),
        ({"sparsity": float("nan")}, "sparsity: .*finite number, got nan"),
        ({"sparsity": "half"}, "sparsity: .*number.*, got 'half'"),
        ({"sparsity": True}, "sparsity: .*number, got True"),
        ({"sparsity": 0.5, "samples": True}, "samples: .*integer, got True"),
        ({"sparsity": 0.5, "recapture": "yes"}, "recapture: .*boolean, got 'yes'"),
        ({"sparsity": 0.5, "trim": {"learning_rates": [True]}}, r"trim\.learning_rates\.0: .*number, got True"),
        (
            {"sparsity": 0.5, "rows": "uniform", "trim": {"iterations": 3}},
            r"options of trim are given(.|\n)*rows: uniform(.|\n)*rows: trim",
        ),
        ({"sparsity": 0.5, "samples": 0}, "samples: .*greater than or equal to 1, got 0"),
        ({"sparsity": 0.5, "dtype": "int8"}, "dtype: .*'float16'.*got 'int8'"),
        ({"sparsity": 0.5, "trim": {"learning_rates": [0.1, -0.1]}}, r"trim\.learning_rates\.1: .*got -0\.1"),
        ({"sparsity": 0.5, "trim": {"layer_metric": "cosin"}}, r"trim\.layer_metric: .*'cosine'.*got 'cosin'"),
        (
            {"sparsity": 0.5, "score": "wnada"},
            r"unknown score 'wnada'(.|\n)*magnitude, obs, ria, wanda(.|\n)*did you mean 'wanda'",
        ),
        ({"sparsity": 0.5, "rows": "trimm"}, r"unknown row budget 'trimm'(.|\n)*did you mean 'trim'"),
        ({"sparsity": 0.5, "layers": "owls"}, r"unknown layer budget 'owls'(.|\n)*, owl, (.|\n)*did you mean 'owl'"),
        (
            {"sparsity": 0.5, "layers": "owl", "owl": {"lambda": 0.1}},
            r"unknown key 'owl\.lambda' .did you mean 'lamda'",
        ),
        (
            {"sparsity": 0.5, "layers": "owl", "owl": {"lamda": 0.6}},
            r"owl\.lamda: .*less than or equal to 0\.5, got 0\.6",
        ),
        ({"sparsity": 0.5, "layers": "owl", "owl": {"m": True}}, r"owl\.m: .*number, got True"),
        ({"sparsity": 0.5, "layers": "dlp", "dlp": {"alpha": -1}}, r"dlp\.alpha: .*greater than or equal to 0, got -1"),
        (
            {"sparsity": 0.5, "layers": "alphapruning", "alphapruning": {"epsilon": 1.5}},
            r"alphapruning\.epsilon: .*less than or equal to 1, got 1\.5",
        ),
        (
            {"sparsity": 0.5, "layers": "table", "table": [{"match": "*", "sparsty": 1}]},
            r"table\.0\.sparsity is missing; unknown key 'table\.0\.sparsty' .did you mean 'sparsity'",
        ),
        ({"sparsity": 0.5, "solver": "masc"}, r"unknown solver 'masc'(.|\n)*did you mean 'mask'"),
        ({"sparsity": 0.5, 3: 4}, "unknown key '3'|Keys should be strings"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_a_wrong_value_is_explained(values, message):
    with pytest.raises(TrimPruneError, match=message):
        Recipe.build(values)


# Of each group of options: the field that chooses its method, and values of it.
GROUPS = {
    "trim": ("rows", TrimOptions(iterations=3)),
    "owl": ("layers", OwlOptions(lamda=0.05, m=7.0)),
    "alphapruning": ("layers", AlphaPruningOptions(epsilon=0.1)),
    "dlp": ("layers", DlpOptions(alpha=0.1)),
    "table": ("layers", (TableRule(match="*.down_proj", sparsity=0.4),)),
}


@pytest.mark.parametrize("group", GROUPS)
def test_options_are_given_only_with_their_method(group):
    field, options = GROUPS[group]
    message = rf"options of {group} are given, (.|\n)*{field}: uniform(.|\n)*{field}: {group}"
    for given in (options, type(options)()):
        with pytest.raises(TrimPruneError, match=message):
            Recipe(sparsity=0.5, **{field: "uniform", group: given})


@pytest.mark.parametrize("group", GROUPS)
def test_a_dumped_recipe_holds_only_the_options_in_use(group):
    field, options = GROUPS[group]
    recipe = Recipe(**{"sparsity": 0.5, "rows": "uniform", field: group, group: options})
    for values in (recipe.model_dump(), recipe.model_dump(mode="json")):
        assert GROUPS.keys() & values.keys() == {group}
        assert Recipe.build(values) == recipe


@pytest.mark.parametrize(
    ("values", "name", "reader"),
    [
        ({"rows": "uniform", "tokens_per_sequence": 4}, "tokens_per_sequence", {"rows": "trim"}),
        ({"score": "magnitude", "rows": "uniform", "recapture": True}, "recapture", {"rows": "trim"}),
        ({"rows": "uniform", "damping": 0.1}, "damping", {"score": "obs"}),
        (
            {"layers": "msp", "pattern": "of 8", "msp": {"step": 0.1}},
            r"msp\.step",
            {"pattern": None, "rows": "uniform"},
        ),
        ({"layers": "msp", "msp": {"sensitivity": "none", "scale": "log"}}, r"msp\.scale", {"msp": {"scale": "log"}}),
        (
            {"layers": "msp", "msp": {"sensitivity": "none", "sequences": 3}},
            r"msp\.sequences",
            {"msp": {"sequences": 3}},
        ),
        (
            {"layers": "msp", "rows": "uniform", "damping": 0.1},
            "damping",
            {"msp": {"score": "obs"}},
        ),
        ({"solver": "alps", "alps": {"support": "score", "rho": 0.1}}, r"alps\.rho", {"alps": {"rho": 0.1}}),
        ({"solver": "alps", "alps": {"support": "score", "iterations": 9}}, r"alps\.iterations", {"alps": {}}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_nothing_reads_is_refused(values, name, reader):
    with pytest.raises(TrimPruneError, match=rf"{name} is given, and nothing reads it(.|\n)*remove it"):
        Recipe.build({"sparsity": 0.5} | values)
    recipe = Recipe.build({"sparsity": 0.5} | values | reader)
    assert Recipe.build(recipe.model_dump(mode="json")) == recipe


RIA = {"sparsity": 0.75, "preset": "msp", "score": "obs", "solver": "sparsegpt", "msp": {"score": "ria"}}


def test_the_score_of_a_search_has_its_options_too():
    recipe = Recipe.build(RIA | {"ria": {"a": 0.3}})
    assert recipe.ria.a == 0.3
    assert recipe.model_dump(mode="json")["ria"] == {"a": 0.3}
    assert Recipe.build(recipe.model_dump(mode="json")) == recipe
    assert (
        Recipe.build(RIA | {"score": "ria", "solver": "mask", "msp": {"score": "obs"}, "ria": {"a": 0.3}}).ria.a == 0.3
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"msp": {"score": "wanda"}}, "score: obs, msp.score: wanda\n"),
        ({"msp": {}}, "score: obs\n"),
        ({"preset": None, "layers": "uniform", "msp": {"score": "ria"}}, "layers: uniform\n"),
    ],
)
def test_options_of_ria_are_refused_if_neither_prune_nor_search_reads_them(changes, told):
    with pytest.raises(TrimPruneError, match=rf"options of (ria|msp) are given(.|\n)*got: +{told}"):
        Recipe.build(RIA | changes | {"ria": {"a": 0.3}})


def test_a_wrong_msp_is_told_alone_beside_options_of_ria():
    with pytest.raises(TrimPruneError, match=r"^recipe: msp\.reach: [^;]*$"):
        Recipe.build(RIA | {"msp": {"score": "ria", "reach": 0}, "ria": {"a": 0.3}})


def test_all_wrong_values_are_named_at_once():
    with pytest.raises(TrimPruneError, match=r"here: sparsity: .*; unknown key 'sed' \(did you mean 'seed'\?\)"):
        Recipe.build({"sparsity": 2, "sed": 1}, where="here")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- sparsity\n", "the recipe is not a table"),
        ("", "the recipe is not a table"),
        ("sparsity: [0.5\n", "not valid YAML"),
        ("a: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
        ("sparsty: 0.5\n", r"recipe\.yaml: .*unknown key 'sparsty' \(did you mean 'sparsity'"),
    ],
    ids=["list", "empty", "unclosed", "python object", "misspelt"],
)
def test_a_bad_file_is_refused_by_name(content, message, yaml_file):
    with pytest.raises(TrimPruneError, match=message) as error:
        Recipe.load(yaml_file(content))
    assert "recipe.yaml" in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(TrimPruneError, match=r"cannot read the recipe: No such file(.|\n)*none\.yaml"):
        Recipe.load(tmp_path / "none.yaml")


def test_options_complete_the_file(yaml_file):
    recipe = Recipe.load(yaml_file("sparsity: 0.7\ntrim: {iterations: 3}\n"), {"seed": 4, "sparsity": 0.7})
    assert (recipe.seed, recipe.sparsity, recipe.trim.iterations) == (4, 0.7, 3)


def test_an_option_of_a_group_that_contradicts_the_file_is_named_with_its_group(yaml_file):
    file = yaml_file("sparsity: 0.7\nlayers: owl\nowl: {m: 5}\n")
    with pytest.raises(TrimPruneError, match=r"owl\.m is given twice"):
        Recipe.load(file, {"owl": {"m": 4}})


def test_an_unknown_method_in_a_file_is_an_error_that_names_the_file(yaml_file):
    with pytest.raises(TrimPruneError, match=r"unknown score 'wnda'\n +where: +.*recipe\.yaml"):
        Recipe.load(yaml_file("sparsity: 0.7\nscore: wnda\n"))


def test_an_option_that_contradicts_the_file_is_an_error(yaml_file):
    with pytest.raises(TrimPruneError, match=r"sparsity is given twice(.|\n)*0\.5, and 0\.7 in .*recipe\.yaml"):
        Recipe.load(yaml_file("sparsity: 0.7\n"), {"sparsity": 0.5})


def test_a_recipe_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        Recipe(sparsity=0.5).sparsity = 0.6


@pytest.mark.parametrize(
    ("score", "rows", "needs"),
    [
        ("magnitude", "uniform", set()),
        ("magnitude", "trim", {"search_inputs"}),
        ("wanda", "uniform", {"column_energy"}),
        ("wanda", "trim", {"column_energy", "search_inputs"}),
        ("ria", "whole", {"column_energy"}),
        ("obs", "uniform", {"gram"}),
    ],
)
def test_needs_are_those_of_the_chosen_parts(score, rows, needs):
    assert Recipe(sparsity=0.5, score=score, rows=rows).needs == needs
