"""Nothing is silently degraded: what a failed factorisation falls back to is recorded, counted, or refused."""

from __future__ import annotations

import json

import pytest
import torch
from tiny_models import linears_of, make_model, zeros

import trim_kernels
from trim_kernels import unpack_bits
from trim_prune import Recipe, TrimPruneError, prune
from trim_prune.calibration import statistics
from trim_prune.cli import main
from trim_prune.factor import Factor, factorise

RECIPE = {"sparsity": 0.5, "samples": 4, "seqlen": 16, "rows": "uniform", "solver": "sparsegpt", "device": "cpu"}
LADDER = [f"damping times {times}" for times in (10, 100, 1000, 10000, 100000)]
LADDER += ["float64", "eigenvalues clipped", "mask only"]


@pytest.fixture
def no_factors(monkeypatch):
    """No factorisation succeeds."""

    def refuse(hessian):
        raise ValueError("not positive definite")

    monkeypatch.setattr(trim_kernels, "inverse_factor", refuse)


@pytest.fixture
def wide_factors_fail(monkeypatch):
    """Linears with as many columns as the tiny Llama's down_proj need float64; one per block."""

    def some(gram, *damping):
        factor = factorise(gram, *damping)
        return Factor(factor.upper, ("damping times 10", "float64")) if len(gram) == 48 else factor

    monkeypatch.setattr(statistics, "factorise", some)


def test_steps_are_in_the_result_and_in_the_run_file(no_factors, tokenizer, text, tmp_path):
    result = prune(make_model("llama"), RECIPE, [text], tokenizer=tokenizer, out=tmp_path / "out")
    assert all(linear.steps == tuple(LADDER) for linear in result.linears)
    run = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))
    assert [linear["steps"] for linear in run["linears"]] == len(result.linears) * [LADDER]
    assert run["warnings"] == result.warnings


def test_one_warning_at_the_end_counts_them(no_factors, tokenizer, text):
    events = []
    result = prune(make_model("llama"), RECIPE, [text], tokenizer=tokenizer, on_event=events.append)
    assert result.warnings == [
        "14 of 14 linears needed a fallback, the last of which was: mask only (14); run.json names them"
    ]
    kinds = [event.kind for event in events]
    assert kinds.count("warning") == 1
    assert kinds.index("warning") > max(place for place, kind in enumerate(kinds) if kind == "block")
    assert all(event.data["steps"] for event in events if event.kind == "linear")


def test_only_linears_that_needed_steps_are_counted(wide_factors_fail, tokenizer, text):
    result = prune(make_model("llama"), RECIPE, [text], tokenizer=tokenizer)
    assert {linear.name.rsplit(".")[-1] for linear in result.linears if linear.steps} == {"down_proj"}
    assert result.warnings == [
        "2 of 14 linears needed a fallback, the last of which was: float64 (2); run.json names them"
    ]


def test_the_warning_stays_short_where_numbers_differ(tokenizer, text, monkeypatch):
    """As on a model of many linears: no two of them need the very same step."""
    made = []

    def some(gram, *damping):
        made.append(len(gram))
        step = f"{len(made)} dead columns" if len(made) % 4 else "float64"
        return Factor(factorise(gram, *damping).upper, (step,))

    monkeypatch.setattr(statistics, "factorise", some)
    result = prune(make_model("llama"), RECIPE, [text], tokenizer=tokenizer)
    assert len({linear.steps for linear in result.linears}) > 4
    assert result.warnings == [
        "14 of 14 linears needed a fallback, the last of which was: N dead columns (12), float64 (2); "
        "run.json names them"
    ]


def test_a_run_without_a_fallback_warns_of_none(tokenizer, text):
    result = prune(make_model("llama"), RECIPE, [text], tokenizer=tokenizer)
    assert result.warnings == []
    assert all(linear.steps == () for linear in result.linears)


@pytest.mark.parametrize("rows", ["uniform", "whole"])
@pytest.mark.parametrize("mask", ["fixed", "inside", "blocks"])
def test_mask_only_is_exact_and_is_the_mask_of_the_scores(mask, rows, no_factors, tokenizer, text):
    fallen, plain = make_model("llama"), make_model("llama")
    recipe = RECIPE | {"rows": rows}
    result = prune(fallen, recipe | {"sparsegpt": {"mask": mask, "refine": 3}}, [text], tokenizer=tokenizer)
    prune(plain, recipe | {"solver": "mask"}, [text], tokenizer=tokenizer)
    assert result.sparsity.pruned == round(0.5 * result.sparsity.prunable_weights)
    for name, linear in linears_of(fallen, "llama").items():
        assert torch.equal(linear.weight, plain.get_submodule(name).weight)
        assert zeros(linear.weight) == int((~unpack_bits(result.masks[f"{name}.weight"], linear.weight.shape[1])).sum())


def test_correction_without_a_factor_leaves_the_weights_as_they_are(no_factors, tokenizer, text):
    corrected, plain = make_model("llama"), make_model("llama")
    recipe = RECIPE | {"solver": "mask"}
    result = prune(corrected, recipe | {"correction": 1.0}, [text], tokenizer=tokenizer)
    prune(plain, recipe, [text], tokenizer=tokenizer)
    assert all(linear.steps == tuple(LADDER) for linear in result.linears)
    for name, linear in linears_of(corrected, "llama").items():
        assert torch.equal(linear.weight, plain.get_submodule(name).weight)


def test_strict_refuses_and_names_block_and_linear(wide_factors_fail, tokenizer, text):
    message = (
        r"a linear needs a fallback\n  where:    block 0, model\.layers\.0\.mlp\.down_proj\n"
        r"  expected: none \(strict\)\n  got: +damping times 10, then float64\n  fix: +go without strict"
    )
    with pytest.raises(TrimPruneError, match=message):
        prune(make_model("llama"), RECIPE | {"strict": True}, [text], tokenizer=tokenizer)


def test_strict_refuses_what_a_solver_falls_back_to(tokenizer, text):
    alps = {"solver": "alps", "alps": {"iterations": 3, "cg_steps": 0}}
    result = prune(make_model("llama"), RECIPE | alps, [text], tokenizer=tokenizer)
    fallen = next(linear for linear in result.linears if linear.steps)
    with pytest.raises(
        TrimPruneError,
        match=f"block {fallen.block}, {fallen.name}\n  expected: none(.|\n)*alps: kept the mask's weights",
    ):
        prune(make_model("llama"), RECIPE | alps | {"strict": True}, [text], tokenizer=tokenizer)


def test_strict_changes_nothing_where_nothing_fails(tokenizer, text):
    first, second = make_model("llama"), make_model("llama")
    prune(first, RECIPE, [text], tokenizer=tokenizer)
    prune(second, RECIPE | {"strict": True}, [text], tokenizer=tokenizer)
    assert all(torch.equal(tensor, second.state_dict()[name]) for name, tensor in first.state_dict().items())


@pytest.mark.parametrize("damping", [None, 0.01])
def test_columns_without_input_are_no_failure(damping, tokenizer, text, monkeypatch):
    dead = []

    def watch(gram, *options):
        dead.append(int((gram.diagonal() == 0).sum()))
        return factorise(gram, *options)

    monkeypatch.setattr(statistics, "factorise", watch)
    recipe = RECIPE | {"samples": 2, "seqlen": 4, "strict": True, "damping": damping}
    result = prune(make_model("opt"), recipe, [text], tokenizer=tokenizer)
    assert sum(dead) > 0
    assert all(linear.steps == () for linear in result.linears)


MSP = {"score": "obs", "population": 4, "offspring": 3, "parents": 2, "rounds": 2, "generations": 2}
MSP |= {"stages": [16, 32], "sequences": 4}
BEFORE = {
    "msp": {"preset": "msp", "sparsity": 0.75, "damping": 0.0, "samples": 1, "seqlen": 4, "msp": MSP},
    "optimal": {"sparsity": 0.5, "score": "obs", "rows": "uniform", "layers": "optimal"},
}


@pytest.mark.parametrize("layers", BEFORE)
def test_what_layers_fall_back_to_is_counted(layers, no_factors, tokenizer, text, tmp_path):
    recipe = {"samples": 4, "seqlen": 16} | BEFORE[layers]
    result = prune(make_model("llama"), recipe, [text], tokenizer=tokenizer)
    told = f"for layers {layers!r}, 14 of 14 linears needed a fallback, the last of which was: mask only (14)"
    assert result.warnings[0] == told
    assert all(bool(linear.steps) == (layers == "optimal") for linear in result.linears)
    # A search of an earlier run that is taken as it is had the same.
    again = prune(make_model("llama"), recipe, [text], tokenizer=tokenizer, out=tmp_path / "out")
    assert again.warnings == result.warnings
    if layers == "msp":
        first = (tmp_path / "out" / "search.jsonl").read_text(encoding="utf-8").splitlines()[0]
        assert json.loads(first)["fallbacks"].keys() == {linear.name for linear in result.linears}


@pytest.mark.parametrize("layers", BEFORE)
@pytest.mark.parametrize("known", [False, True])
def test_strict_refuses_what_layers_fall_back_to_before_anything_is_pruned(layers, known, no_factors, tokenizer, text):
    """Also where an earlier run that was not strict has done the search."""
    recipe, events = {"samples": 4, "seqlen": 16} | BEFORE[layers], []
    if known:
        prune(make_model("llama"), recipe, [text], tokenizer=tokenizer)
    first = r"needs a fallback\n  where:    block 0, model\.layers\.0\.self_attn\.q_proj\n  expected: none \(strict\)"
    with pytest.raises(TrimPruneError, match=first):
        prune(make_model("llama"), recipe | {"strict": True}, [text], tokenizer=tokenizer, on_event=events.append)
    assert not {"search", "errors", "block_start"} & {event.kind for event in events}


def test_what_the_order_of_columns_falls_back_to_is_recorded_or_refused(tokenizer, text, monkeypatch):
    """Only the first factor of each block fails, which is that of the order."""
    made = []

    def some(gram, *damping):
        made.append(len(gram))
        factor = factorise(gram, *damping)
        return Factor(factor.upper, ("float64",)) if len(made) % 6 == 1 else factor

    monkeypatch.setattr(statistics, "factorise", some)
    recipe = {"pattern": "keep 2 of 4", "score": "obs", "permute": True, "samples": 4, "seqlen": 16}
    result = prune(make_model("llama"), recipe, [text], tokenizer=tokenizer)
    assert len(made) == 12
    assert {linear.name.rpartition(".")[2] for linear in result.linears if linear.steps} == {"o_proj"}
    assert result.warnings == [
        "2 of 14 linears needed a fallback, the last of which was: float64 (2); run.json names them"
    ]
    made.clear()
    with pytest.raises(TrimPruneError, match=r"block 0, model\.layers\.0\.self_attn\.o_proj(.|\n)*got: +float64"):
        prune(make_model("llama"), recipe | {"strict": True}, [text], tokenizer=tokenizer)


@pytest.mark.parametrize("value", [1, "yes"])
def test_strict_is_true_or_false(value):
    with pytest.raises(TrimPruneError, match=r"strict: .*boolean"):
        Recipe.build({"sparsity": 0.5, "strict": value})


@pytest.mark.parametrize("strict", [False, True])
def test_strict_on_the_command_line(strict, wide_factors_fail, llama_folder, text_file, tmp_path, monkeypatch, capfd):
    arguments = ["prune", llama_folder, "--data", text_file, "--out", tmp_path / "out", "--sparsity", 0.5]
    arguments += ["--samples", 4, "--seqlen", 16, "--rows", "uniform", "--solver", "sparsegpt"]
    monkeypatch.setattr("sys.argv", ["trim-prune", *map(str, arguments), *(["--strict"] if strict else [])])
    with pytest.raises(SystemExit) as exit_:
        main()
    told = capfd.readouterr().err
    assert (exit_.value.code or 0) == (2 if strict else 0)
    if strict:
        assert "block 0, model.layers.0.mlp.down_proj" in told
        assert not (tmp_path / "out").exists()
    else:
        assert json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))["recipe"]["strict"] is False
