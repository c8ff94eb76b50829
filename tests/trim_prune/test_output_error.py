"""The error of an output, against the outputs themselves."""

from __future__ import annotations

import pytest
import torch
from tiny_models import linears_of, make_model, save_model

from trim_prune import output_error, prune
from trim_prune.calibration.statistics import LinearStatistics

BASE = {"sparsity": 0.5, "samples": 4, "seqlen": 16}


def statistics_of(inputs, need, positions=(1, 5)):
    statistics = LinearStatistics()
    statistics.add(inputs, frozenset([need]), positions)
    return statistics


@pytest.mark.parametrize("need", ["gram", "search_inputs"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equals_the_energy_of_the_changed_outputs(need, dtype, monkeypatch):
    monkeypatch.setattr(output_error, "ROWS_AT_ONCE", 5)
    torch.manual_seed(0)
    inputs, dense = torch.randn(3, 7, 19).to(dtype), torch.randn(13, 19).to(dtype)
    pruned = torch.where(torch.rand(13, 19) < 0.4, 0, dense)
    seen = (inputs if need == "gram" else inputs[:, [1, 5]]).flatten(0, 1).double().t()
    expected = ((pruned - dense).double() @ seen).square().sum() / (dense.double() @ seen).square().sum()
    found = output_error.output_error(dense, pruned, statistics_of(inputs, need), need)
    assert found == pytest.approx(float(expected), rel=1e-4)
    assert output_error.output_error(dense, dense, statistics_of(inputs, need), need) == 0


def test_there_is_none_without_a_measurement_or_an_output():
    weight, statistics = torch.ones(2, 3), statistics_of(torch.zeros(1, 6, 3), "gram")
    assert output_error.output_error(weight, weight, statistics, None) is None
    assert output_error.output_error(weight, weight, statistics, "gram") is None


@pytest.mark.parametrize(
    ("choices", "inputs"),
    [
        ({"tokens_per_sequence": 3}, "search_inputs"),
        ({"score": "wanda", "rows": "uniform"}, None),
        ({"score": "obs", "rows": "whole", "solver": "sparsegpt", "correction": 0.3}, "gram"),
        ({"score": "ria", "rows": "uniform", "solver": "alps"}, "gram"),
    ],
    ids=["search", "nothing", "sparsegpt", "alps"],
)
def test_of_the_first_linear_of_a_run(choices, inputs, tokenizer, text):
    """Its inputs are those of the dense model, so that they can be had from outside."""
    dense, model = make_model("llama"), make_model("llama")
    result = prune(model, BASE | choices, [text], tokenizer=tokenizer)
    found = {linear.name: linear.output_error for linear in result.linears}
    if inputs is None:
        assert set(found.values()) == {None}
        return
    seen = []
    name = next(name for name in linears_of(dense, "llama") if name.endswith("0.self_attn.v_proj"))
    linear = dense.get_submodule(name)
    linear.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
    dense(input_ids=ids[: len(ids) // 16 * 16].view(-1, 16)[result.sample_ids])
    positions = slice(None) if inputs == "gram" else [4, 9, 15]
    x = seen[0][:, positions].flatten(0, 1).double()
    before, after = linear.weight.double(), model.get_submodule(name).weight.double()
    expected = ((x @ (after - before).t()).square().sum() / (x @ before.t()).square().sum()).detach()
    assert found[name] == pytest.approx(float(expected), rel=1e-4)
    assert all(0 < error < 1.5 for error in found.values())


def test_run_json_names_the_license_of_the_models_card(tokenizer, text, tmp_path):
    from trim_prune.models.license import card_data

    source = save_model(tmp_path / "source", make_model("llama"), tokenizer)
    card = source / "README.md"
    card.write_text("---\nlicense: apache-2.0\nlanguage: [en]\n---\n# A model\n---\n", encoding="utf-8")
    prune(source, BASE, [text], out=tmp_path / "out")
    assert '"license": "apache-2.0"' in (tmp_path / "out" / "run.json").read_text(encoding="utf-8")
    for content in ("# no head", "---\n: [\n---\n", "---\n- a\n---\n", "text\n---\nlicense: x\n---\n"):
        card.write_text(content, encoding="utf-8")
        assert card_data(card) == {}
