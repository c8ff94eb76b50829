"""Linears make up for what pruned blocks before them changed."""

from __future__ import annotations

import pytest
import torch
from tiny_models import linears_of, make_model, zeros

from trim_kernels import unpack_bits
from trim_prune import Importance, Recipe, TrimPruneError, prune, prune_linears, score_linear
from trim_prune.calibration.statistics import LinearStatistics
from trim_prune.calibration.text import open_text
from trim_prune.calibration.tokens import calibration_tokens
from trim_prune.correction import corrected
from trim_prune.factor import Factor
from trim_prune.scores import SCORES
from trim_prune.scores.base import Score
from trim_prune.states import PairedStates

NEEDS = frozenset({"gram", "drift"})
RECIPE = {"sparsity": 0.5, "samples": 6, "seqlen": 16, "rows": "uniform", "device": "cpu"}


@pytest.fixture
def drifted():
    """A weight [R, C], inputs, and what they were in the dense model: [sequences, tokens, C] both."""

    def make(tokens=400, dtype=torch.float32):
        generator = torch.Generator().manual_seed(0)

        def normal(*shape):
            return torch.randn(*shape, generator=generator)

        dense = normal(4, tokens // 4, 24) @ normal(24, 24) / 24**0.5
        inputs = dense @ (torch.eye(24) + 0.3 * normal(24, 24) / 24**0.5) + 0.2 * normal(4, tokens // 4, 24)
        return normal(10, 24).to(dtype), inputs, dense

    return make


def measured(inputs, dense, batches=1):
    statistics = LinearStatistics()
    for part, wanted in zip(inputs.chunk(batches), dense.chunk(batches), strict=True):
        statistics.add(part, NEEDS, [], wanted)
    return statistics


def distance(weight, inputs, target, dense):
    """Between the outputs of a weight on the inputs and of the target on the dense model's, float64."""
    return float((inputs.double() @ weight.double().t() - dense.double() @ target.double().t()).square().sum())


def test_the_drift_is_the_float64_sum(drifted):
    _, inputs, dense = drifted()
    x, wanted = inputs.double().flatten(0, 1), dense.double().flatten(0, 1)
    torch.testing.assert_close(measured(inputs, dense).drift.double(), (wanted - x).t() @ x, rtol=1e-4, atol=1e-3)


def test_a_plug_in_may_ask_for_the_drift_without_a_correction(tokenizer, text, monkeypatch):
    found = []

    def score(request):
        found.append(request.statistics.drift)
        return Importance()

    monkeypatch.setitem(SCORES._entries, "drifting", Score(score, frozenset({"drift"})))
    prune(make_model("llama"), RECIPE | {"score": "drifting"}, [text], tokenizer=tokenizer)
    assert not found[0].any()
    assert found[-1].any()
    recipe = Recipe.build({"sparsity": 0.5, "score": "drifting"})
    score_linear(recipe, torch.ones(2, 3), torch.ones(1, 4, 3))
    assert torch.equal(found[-1], torch.zeros(3, 3))


@pytest.mark.parametrize("batches", [2, 4])
def test_the_drift_does_not_depend_on_the_batches(drifted, batches):
    _, inputs, dense = drifted()
    assert torch.equal(measured(inputs, dense, batches).drift, measured(inputs, dense).drift)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_drift_of_half_inputs_is_summed_in_float32(drifted, dtype):
    _, inputs, dense = (tensor.to(dtype) for tensor in drifted())
    drift = measured(inputs, dense).drift
    assert drift.dtype == torch.float32
    assert torch.equal(drift, measured(inputs.float(), dense.float()).drift)


def test_a_drift_that_was_not_collected_is_a_programming_error(drifted):
    _, inputs, _ = drifted()
    statistics = LinearStatistics()
    statistics.add(inputs, NEEDS, [])
    with pytest.raises(RuntimeError, match="drift was not collected"):
        _ = statistics.drift


def test_infinity_in_the_drift_is_noticed(drifted):
    _, inputs, dense = drifted()
    dense[0, 0, 0] = torch.inf
    assert not measured(inputs, dense).is_finite()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_nothing_of_it_changes_nothing(drifted, dtype):
    weight, inputs, dense = drifted(dtype=dtype)
    assert torch.equal(corrected(weight, measured(inputs, dense), 0.0, 0.01), weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_inputs_that_did_not_change_change_nothing(drifted, dtype, share):
    weight, inputs, _ = drifted(dtype=dtype)
    assert torch.equal(corrected(weight, measured(inputs, inputs), share, 0.01), weight)


@pytest.mark.parametrize("tokens", [12, 40, 400])
def test_all_of_it_is_ridge_least_squares(drifted, tokens):
    weight, inputs, dense = drifted(tokens)
    before = weight.clone()
    found = corrected(weight, measured(inputs, dense), 1.0, 0.01)
    x, wanted, wide = inputs.double().flatten(0, 1), dense.double().flatten(0, 1), weight.double()
    gram = x.t() @ x
    ridge = 0.01 * gram.diagonal().mean() * torch.eye(24, dtype=torch.float64)
    # Ridge toward the weights as they are: min ||W' x - W x_dense||^2 + ridge ||W' - W||^2.
    expected = torch.linalg.solve(gram + ridge, (x.t() @ wanted + ridge) @ wide.t()).t()
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(weight, before)


def test_the_more_of_it_the_nearer_the_outputs(drifted):
    weight, inputs, dense = drifted()
    statistics = measured(inputs, dense)
    distances = [
        distance(corrected(weight, statistics, share, 0.01), inputs, weight, dense) for share in (0.0, 0.25, 0.5, 1.0)
    ]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] == distance(weight, inputs, weight, dense)
    assert distances[-1] < 0.5 * distances[0]


def test_half_weights_are_corrected_in_float32_and_rounded(drifted):
    weight, inputs, dense = drifted(dtype=torch.bfloat16)
    statistics = measured(inputs, dense)
    found = corrected(weight, statistics, 0.5, 0.01)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, corrected(weight.float(), statistics, 0.5, 0.01).to(torch.bfloat16))


def test_without_a_factor_nothing_changes(drifted):
    weight, inputs, dense = drifted()
    statistics = measured(inputs, dense)
    statistics.factor = lambda damping: Factor(None, ("mask only",))
    assert corrected(weight, statistics, 1.0, 0.01) is weight


@pytest.fixture
def seen(monkeypatch):
    """For each linear, in order: its block, whether its drift was zero, and how large beside its Gram matrix."""
    found = []

    def record(weight, statistics, share, damping):
        found.append((statistics.drift, statistics.gram, share))
        return corrected(weight, statistics, share, damping)

    monkeypatch.setattr(prune_linears, "corrected", record)
    return found


def test_the_drift_of_the_first_block_is_zero_and_of_the_next_is_not(seen, tokenizer, text):
    prune(make_model("llama"), RECIPE | {"correction": 0.3}, [text], tokenizer=tokenizer)
    assert [bool(drift.any()) for drift, _, _ in seen] == 7 * [False] + 7 * [True]
    assert {share for _, _, share in seen} == {0.3}


def test_the_drift_is_that_to_the_dense_model(seen, tokenizer, text):
    """Of the second block's queries: by running the dense and the pruned model as they are."""
    dense, pruned = make_model("llama"), make_model("llama")
    inputs = {"dense": [], "pruned": []}
    result = prune(pruned, RECIPE | {"correction": 0.5}, [text], tokenizer=tokenizer)
    tokens = calibration_tokens(tokenizer, open_text([text]), samples=6, seqlen=16, seed=0).token_ids
    for name, model in (("dense", dense), ("pruned", pruned)):
        query = model.model.layers[1].self_attn.q_proj
        query.register_forward_pre_hook(lambda _, args, name=name: inputs[name].append(args[0].double()))
        with torch.no_grad():
            for sequence in tokens:
                model(input_ids=sequence[None])
    x, wanted = (torch.cat(inputs[name]).flatten(0, 1) for name in ("pruned", "dense"))
    place = [linear.name for linear in result.linears].index("model.layers.1.self_attn.q_proj")
    torch.testing.assert_close(seen[place][0].double(), (wanted - x).t() @ x, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(seen[place][1].double(), x.t() @ x, rtol=1e-3, atol=1e-3)


def test_the_first_block_is_pruned_as_without_correction(tokenizer, text):
    plain, other = make_model("llama"), make_model("llama")
    prune(plain, RECIPE, [text], tokenizer=tokenizer)
    prune(other, RECIPE | {"correction": 1.0}, [text], tokenizer=tokenizer)
    same = [
        torch.equal(linear.weight, other.get_submodule(name).weight)
        for name, linear in linears_of(plain, "llama").items()
    ]
    assert same == 7 * [True] + 7 * [False]


def test_the_outputs_of_a_corrected_model_are_nearer_to_the_dense_one(tokenizer, text):
    recipe = RECIPE | {"samples": 40, "seqlen": 48}
    tokens = calibration_tokens(tokenizer, open_text([text]), samples=40, seqlen=48, seed=0).token_ids
    with torch.no_grad():
        wanted, distances = make_model("llama")(input_ids=tokens).logits, []
        for correction in ({}, {"correction": 0.5, "damping": 0.01}, {"correction": 1.0, "damping": 0.01}):
            model = make_model("llama")
            prune(model, recipe | correction, [text], tokenizer=tokenizer)
            distances.append(float((model(input_ids=tokens).logits - wanted).square().mean()))
    assert max(distances[1:]) < distances[0]


@pytest.mark.parametrize("recapture", [False, True])
def test_the_count_is_exact_and_the_model_is_left_clean(family, recapture, tokenizer, text):
    model = make_model(family)
    modules = [name for name, _ in model.named_modules()]
    recipe = RECIPE | {"correction": 0.5, "recapture": recapture, "solver": "sparsegpt"}
    result = prune(model, recipe, [text], tokenizer=tokenizer)
    pruned = sum(zeros(linear.weight) for linear in linears_of(model, family).values())
    assert pruned == result.sparsity.pruned == round(0.5 * result.sparsity.prunable_weights)
    for name, mask in result.masks.items():
        weight = model.get_parameter(name)
        assert not weight[~unpack_bits(mask, weight.shape[1])].any()
    assert [name for name, _ in model.named_modules()] == modules
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("recapture", [False, True])
def test_the_batch_size_does_not_change_the_masks(recapture, tokenizer, text):
    recipe = RECIPE | {"correction": 0.5, "recapture": recapture}
    first, *others = (
        prune(make_model("llama"), recipe | {"batch_size": size}, [text], tokenizer=tokenizer).masks
        for size in (1, 4, 6)
    )
    for masks in others:
        assert all(torch.equal(mask, first[name]) for name, mask in masks.items())


def test_the_dense_copy_of_a_block_is_let_go(monkeypatch, tokenizer, text):
    """One block of the dense model is held at a time, whatever is recaptured."""
    kept, propagate = [], PairedStates.propagate

    def watch(self, block, collector=None):
        kept.append(self._module)
        propagate(self, block, collector)
        kept.append(self._module)

    monkeypatch.setattr(PairedStates, "propagate", watch)
    model = make_model("llama")
    prune(model, RECIPE | {"correction": 0.5, "recapture": True}, [text], tokenizer=tokenizer)
    before, after = kept
    assert after is None
    assert before is not model.model.layers[0]
    original = make_model("llama").model.layers[0].state_dict()
    assert all(torch.equal(tensor, original[name]) for name, tensor in before.state_dict().items())


@pytest.mark.parametrize("layers", ["owl", "dlp"])
def test_layers_that_measure_the_dense_model_go_with_it(layers, tokenizer, text):
    result, plain = (
        prune(make_model("llama"), RECIPE | {"layers": layers, "correction": share}, [text], tokenizer=tokenizer)
        for share in (0.5, 0.0)
    )
    assert [linear.prune_count for linear in result.linears] == [linear.prune_count for linear in plain.linears]
    assert result.sparsity.pruned == round(0.5 * result.sparsity.prunable_weights)


def test_it_needs_text_and_says_so():
    recipe = {"sparsity": 0.5, "score": "magnitude", "rows": "uniform", "correction": 0.5}
    with pytest.raises(TrimPruneError, match=r"calibration text is missing(.|\n)*correction 0\.5"):
        prune(make_model("llama"), recipe)


@pytest.mark.parametrize("share", [-0.1, 1.5, True, "half"])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(TrimPruneError, match="correction: "):
        Recipe.build({"sparsity": 0.5, "correction": share})
