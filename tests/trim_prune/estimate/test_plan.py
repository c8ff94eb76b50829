"""What is told before a prune is what the prune then does."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch
from architectures import make_architecture
from safetensors.torch import load_file
from tiny_models import make_model, save_model
from typer.testing import CliRunner

from trim_prune import TrimPruneError, plan, prune
from trim_prune.cli.main import app
from trim_prune.estimate import plan as plan_module
from trim_prune.estimate.rates import Rates
from trim_prune.estimate.report import _head, in_units

BASE = {"sparsity": 0.6, "samples": 4, "seqlen": 16}
RATES = Rates(1e9, 1e9, 1e9, 1e9, 1e9)


@pytest.fixture(autouse=True)
def known_rates(monkeypatch):
    monkeypatch.setattr(plan_module, "measure_rates", lambda *_: RATES)


RECIPES = {
    "trim": {},
    "magnitude": {"score": "magnitude", "rows": "uniform"},
    "table": {"rows": "uniform", "layers": "table", "table": [{"match": "*.1.mlp.*", "sparsity": 0.9}]},
    "pattern": {"rows": "uniform", "pattern": "keep 2 of 4", "sparsity": 0.5},
    "mixed pattern": {"rows": "uniform", "pattern": "of 8", "sparsity": 0.61},
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_counts_are_those_of_the_prune(recipe, llama_folder, text_file):
    recipe = BASE | RECIPES[recipe]
    told = plan(llama_folder, recipe, timed=False).pruning
    done = prune(llama_folder, recipe, text_file)
    assert (told.pruned, told.weights) == (done.sparsity.pruned, done.sparsity.prunable_weights)
    assert "exactly" in told.split
    pruned = [0] * len(told.blocks)
    for linear in done.linears:
        pruned[linear.block] += linear.prune_count
    assert [block.pruned for block in told.blocks] == pruned
    assert [block.name for block in told.blocks] == ["model.layers.0", "model.layers.1"]


def test_a_pattern_that_the_run_decides_may_take_more(llama_folder):
    told = plan(llama_folder, BASE | {"pattern": "of 8", "layers": "owl"}, timed=False).pruning
    assert told.split.endswith("during the run; more go if whole groups of 8 do not meet the sparsity")


@pytest.mark.parametrize(("layers", "timed", "told"), [("msp", True, 1), ("msp", False, 0), ("owl", True, 0)])
def test_the_search_that_the_time_leaves_out_is_noted(layers, timed, told, llama_folder):
    notes = plan(llama_folder, BASE | {"layers": layers}, timed=timed).notes
    assert [note.startswith("the estimated time is without the search of layers 'msp'") for note in notes].count(
        True
    ) == told


@pytest.mark.parametrize(("layers", "why"), [("owl", "from calibration text"), ("alphapruning", "from the weights")])
def test_a_split_that_the_run_decides_is_said_to_be_so(layers, why, llama_folder, text_file):
    recipe = BASE | {"layers": layers}
    told = plan(llama_folder, recipe, timed=False).pruning
    assert why in told.split
    assert {block.pruned for block in told.blocks} == {None}
    assert told.pruned == prune(llama_folder, recipe, text_file).sparsity.pruned


def test_no_weight_is_read(tokenizer, tmp_path):
    folder = save_model(tmp_path / "model", make_model("llama"), tokenizer)
    file = folder / "model.safetensors"
    content = file.read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    whole = plan(folder, BASE, timed=False)
    file.write_bytes(content[:begin] + b"\xff" * (len(content) - begin))
    assert all(torch.isnan(tensor).all() for tensor in load_file(file).values())
    damaged = plan(folder, BASE, timed=False)
    assert (damaged.pruning, damaged.peaks, damaged.disk) == (whole.pruning, whole.peaks, whole.disk)


def test_without_the_weight_files_an_index_tells_the_size(tokenizer, tmp_path):
    folder = save_model(tmp_path / "model", make_model("llama"), tokenizer, max_shard_size="40KB")
    whole = plan(folder, BASE, timed=False)
    for file in folder.glob("*.safetensors"):
        file.unlink()
    bare = plan(folder, BASE, timed=False)
    assert bare.pruning == whole.pruning
    assert bare.disk["weights"] == pytest.approx(whole.disk["weights"], rel=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_size_of_the_output_is_told(dtype, tokenizer, text_file, tmp_path):
    folder = save_model(tmp_path / "model", make_model("llama", dtype=dtype), tokenizer)
    told = plan(folder, BASE, timed=False).disk
    prune(folder, BASE, text_file, out=tmp_path / "out")
    assert told["weights"] == (tmp_path / "out" / "model.safetensors").stat().st_size
    assert told["masks"] == pytest.approx((tmp_path / "out" / "masks.safetensors").stat().st_size, rel=0.3)
    copied = sum((tmp_path / "out" / file.name).stat().st_size for file in folder.glob("*.json"))
    assert told["configuration and tokenizer"] == copied


@pytest.mark.parametrize(
    ("recipe", "error"),
    [
        ({"sparsity": 0.99}, "out of reach of row budget 'trim'"),
        ({"seqlen": 65}, "longer than the model's context"),
        ({"tokens_per_sequence": 17}, "more search tokens per sequence"),
        ({"rows": "uniform", "layers": "table", "table": [{"match": "no.such", "sparsity": 0.9}]}, "matches no linear"),
    ],
)
def test_what_a_prune_would_refuse_is_refused(recipe, error, llama_folder, text_file):
    for call in (lambda: plan(llama_folder, BASE | recipe), lambda: prune(llama_folder, BASE | recipe, text_file)):
        with pytest.raises(TrimPruneError, match=error):
            call()


def test_what_stays_dense_and_what_is_held_is_noted(tokenizer, tmp_path):
    seeing = plan(save_model(tmp_path / "llava", make_architecture("llava"), tokenizer), BASE, timed=False)
    assert any("these stay dense" in note for note in seeing.notes)
    experts = save_model(tmp_path / "mixtral", make_architecture("mixtral"), tokenizer)
    told = plan(experts, BASE | {"rows": "uniform"}, timed=False)
    assert told.streamed == (not any("held in memory" in note for note in told.notes))


@pytest.mark.parametrize(("mode", "multiple"), [("ragged", None), ("uniform", 4), ("masked", None)])
def test_sizes_and_parameters_of_a_structured_prune_are_told(mode, multiple, llama_folder, text_file, tmp_path):
    recipe = {"params": 0.8, "mode": mode, "samples": 8, "seqlen": 16, "repair": "affine"}
    recipe |= {} if multiple is None else {"multiple": multiple}
    told = plan(llama_folder, recipe, timed=False)
    done = prune(llama_folder, recipe, text_file, out=tmp_path / "out")
    assert told.pruning is None
    assert told.shrinking.mode == mode
    assert told.shrinking.parameters == done.parameters.dense
    if mode != "masked":
        assert told.disk["weights"] == pytest.approx((tmp_path / "out/model.safetensors").stat().st_size, rel=0.05)
    for part in done.parts:
        unit = {"attention": "KV groups", "feed-forward": "channels"}[part.kind]
        sizes = told.shrinking.sizes[f"model.layers.{part.block}"]
        assert sizes[unit] == (len(part.kept), part.units)
    assert told.shrinking.stay == done.parameters.kept
    verb = "are not zero" if mode == "masked" else "stay"
    kept = f"{done.parameters.kept} of {done.parameters.dense} parameters {verb} ({done.parameters.share:.4%}), exactly"
    assert kept in _head(told)
    loads = {"ragged": "trim_prune.load", "uniform": "AutoModelForCausalLM", "masked": "loads like the original"}
    assert loads[mode] in told.shrinking.loads


def test_sizes_that_follow_from_the_text_are_left_open(llama_folder):
    recipe = {"params": 0.8, "layers": "cosine", "samples": 8, "seqlen": 16, "repair": "affine"}
    told = plan(llama_folder, recipe, timed=False).shrinking
    assert told.sizes == {}
    assert "cosines" in told.left_open
    assert told.stay == round(0.8 * told.parameters)


def test_a_structured_prune_with_too_few_tokens_is_refused(llama_folder):
    with pytest.raises(TrimPruneError, match="fewer calibration tokens than the regression"):
        plan(llama_folder, {"params": 0.8, "samples": 1, "seqlen": 16, "repair": "full"})


@pytest.mark.parametrize("name", ["structure.json", "packed.json"])
def test_models_of_other_sizes_than_their_configuration_says_are_refused(name, llama_folder, tmp_path):
    folder = shutil.copytree(llama_folder, tmp_path / "model")
    (folder / name).write_text("{}")
    with pytest.raises(TrimPruneError, match="of which headers do not tell enough"):
        plan(folder, BASE)


def test_what_is_short_of_room_is_noted(llama_folder, monkeypatch):
    monkeypatch.setattr(plan_module, "free_memory", lambda: 0)
    assert any(note.startswith("host: ") for note in plan(llama_folder, BASE, timed=False).notes)


def invoke(*arguments):
    return CliRunner().invoke(app, ["plan", *map(str, arguments)], env={"COLUMNS": "160", "NO_COLOR": "1"})


def test_the_command_takes_the_choices_of_prune(llama_folder):
    options = ["--preset", "wanda", "--sparsity", 0.6, "--samples", 4, "--seqlen", 16, "--batch-size", 2]
    told = json.loads(invoke(llama_folder, *options, "--json").stdout)
    assert told["recipe"]["preset"] == "wanda"
    assert (told["sequences"], told["tokens"], told["batch_size"]) == (4, 16, 2)
    assert told["pruning"]["pruned"] == round(0.6 * told["pruning"]["weights"])
    assert told["peaks"]["host"]["total"] == sum(told["peaks"]["host"]["parts"].values())
    assert all(math.isfinite(seconds) and seconds > 0 for seconds in told["seconds"].values())


def test_tables_are_for_people(llama_folder):
    plain = invoke(llama_folder, "--sparsity", 0.5, "--samples", 4, "--seqlen", 16).stdout
    for words in (
        "7680 of 15360 weights go (50.0000%)",
        "4 sequences of 16 tokens, 4 at once",
        "model.layers.1",
        "peak memory, in phase",
        "Python and libraries",
        "masks",
        "estimated time",
    ):
        assert words in plain
    smaller = invoke(llama_folder, "--params", 0.8, "--mode", "uniform", "--samples", 40, "--seqlen", 16).stdout
    assert "model.layers.0 to model.layers.1, each" in smaller
    assert "mode uniform" in smaller


@pytest.mark.parametrize(
    ("size", "words"), [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.50 KiB"), (5 << 30, "5.00 GiB")]
)
def test_sizes_in_words(size, words):
    assert in_units(size) == words
