"""Structured recipes: one target, no option in vain, and which kind a recipe is."""

from __future__ import annotations

from importlib.resources import files

import pytest

from trim_prune import Recipe, StructuredRecipe, TrimPruneError, presets, prune
from trim_prune.recipes import build_recipe, load_recipe

NAMES = presets.names(presets.STRUCTURED)


def test_all_presets_are_known():
    assert NAMES == ["slimllm", "smaller"]
    assert not set(NAMES) & set(presets.names())


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_is_documented_and_gives_what_it_says(name):
    text = (files(presets) / presets.STRUCTURED / f"{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert max(map(len, text.splitlines())) <= 120
    values = StructuredRecipe.build({"params": 0.8, "preset": name}).model_dump(mode="json")
    assert values == values | presets.read(name, presets.STRUCTURED) | {"preset": name}


@pytest.mark.parametrize(
    "values",
    [
        {"params": 0.8},
        {"ratio": 0.5, "preset": "slimllm", "mode": "masked", "cosine": {"blocks": 0.5}, "head_share": 0.5},
        {"params": 0.8, "mode": "uniform", "multiple": 4, "full": {"damping": 0.1}},
        {"mode": "uniform", "sizes": {"kv_groups": 1, "channels": 8}},
        {"params": 0.8, "layers": "table", "table": [{"match": "*", "ratio": 0.2}], "heads": "none", "cap": 0.5},
        {"params": 0.8, "feature": {"keep_lowest": 0.01}, "pearson": {"swaps": False}},
    ],
)
def test_a_dumped_recipe_builds_itself_again(values):
    recipe = build_recipe(values)
    assert isinstance(recipe, StructuredRecipe)
    assert build_recipe(recipe.model_dump(mode="json")) == recipe


def test_uniform_mode_takes_the_layers_of_a_preset_away():
    recipe = StructuredRecipe.build({"params": 0.8, "preset": "slimllm", "mode": "uniform"})
    assert (recipe.layers, recipe.heads, recipe.repair) == ("uniform", "pearson", "affine")
    assert "cosine" not in recipe.model_dump()


def test_options_of_a_preset_go_with_its_method():
    recipe = StructuredRecipe(params=0.8, preset="slimllm", heads="magnitude", channels="wanda")
    assert not {"pearson", "feature"} & recipe.model_dump().keys()


BAD = {
    "no target": ({}, "nothing says how much goes"),
    "two targets": ({"params": 0.8, "ratio": 0.2}, r"one number says how much goes(.|\n)*params: 0.8, ratio: 0.2"),
    "params 0": ({"params": 0.0}, "greater than 0"),
    "ratio 1": ({"ratio": 1.0}, "less than 1"),
    "true": ({"params": True}, "params"),
    "nan": ({"params": float("nan")}, "params"),
    "unknown key": ({"params": 0.8, "rapair": "full"}, r"unknown key 'rapair' \(did you mean 'repair'"),
    "unknown mode": ({"params": 0.8, "mode": "even"}, "'ragged', 'uniform' or 'masked'"),
    "uniform by cosine": (
        {"params": 0.8, "mode": "uniform", "layers": "cosine"},
        r"in mode 'uniform' every block keeps the same(.|\n)*mode: ragged",
    ),
    "multiple in vain": ({"params": 0.8, "multiple": 8}, r"in mode 'ragged' blocks differ(.|\n)*multiple: 8"),
    "sizes in vain": ({"sizes": {"kv_groups": 1, "channels": 8}}, r"in mode 'ragged' blocks differ"),
    "multiple beside sizes": (
        {"mode": "uniform", "sizes": {"kv_groups": 1, "channels": 8}, "multiple": 8},
        "multiple is given, and nothing reads it",
    ),
    "cosine in vain": ({"params": 0.8, "cosine": {"blocks": 0.5}}, r"options of cosine(.|\n)*layers: uniform"),
    "pearson in vain": ({"params": 0.8, "heads": "none", "pearson": {"swaps": True}}, "options of pearson"),
    "feature in vain": ({"params": 0.8, "channels": "obs", "feature": {"normalise": True}}, "options of feature"),
    "full in vain": (
        {"params": 0.8, "repair": "affine", "full": {"damping": 0.1}},
        r"options of full(.|\n)*repair: affine",
    ),
    "head_share in vain": ({"params": 0.8, "heads": "none", "head_share": 2.0}, "head_share is given, and nothing"),
    "no rules": ({"params": 0.8, "layers": "table"}, "layers: table has no rules"),
    "rules in vain": ({"params": 0.8, "table": [{"match": "*", "ratio": 0.1}]}, "options of table"),
    "unknown preset": ({"params": 0.8, "preset": "slim"}, r"unknown preset 'slim'(.|\n)*slimllm"),
    "sparsity with a structured preset": (
        {"sparsity": 0.5, "preset": "slimllm"},
        r"zeros are asked for at once(.|\n)*got: +sparsity: 0.5, preset: slimllm",
    ),
    "a preset of single weights": (
        {"ratio": 0.2, "preset": "wanda"},
        r"zeros are asked for at once(.|\n)*with preset slimllm, smaller(.|\n)*got: +ratio: 0.2, preset: wanda",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_values_are_refused(case):
    values, message = BAD[case]
    build = build_recipe if "preset" in values else StructuredRecipe.build
    with pytest.raises(TrimPruneError, match=message):
        build(values)


def test_the_kind_of_a_recipe_is_told_by_its_target_or_its_preset(tmp_path):
    assert isinstance(build_recipe({"sparsity": 0.5}), Recipe)
    file = tmp_path / "recipe.yaml"
    file.write_text("preset: slimllm\nrepair: none\n", encoding="utf-8")
    recipe = load_recipe(file, {"params": 0.9})
    assert (recipe.params, recipe.repair, recipe.preset) == (0.9, "none", "slimllm")
    file.write_text("ratio: 0.1\n", encoding="utf-8")
    with pytest.raises(TrimPruneError, match=r"ratio is given twice, with different values"):
        load_recipe(file, {"ratio": 0.2})
    assert isinstance(load_recipe(file), StructuredRecipe)


def test_what_needs_no_text_runs_without_any(prune_tiny):
    from tiny_models import make_model

    plain = {"params": 0.8, "heads": "magnitude", "channels": "magnitude", "repair": "none"}
    result = prune(make_model("llama"), StructuredRecipe.build(plain))
    assert result.sample_ids == []
    assert {part.error for part in result.parts} == {None}
    measured = prune_tiny("llama", plain)
    assert [part.kept for part in measured.parts] == [part.kept for part in result.parts]
    with pytest.raises(TrimPruneError, match=r"text is missing(.|\n)*repair 'affine'(.|\n)*repair none needs none"):
        prune(make_model("llama"), plain | {"repair": "affine"})
