"""The engine on a real GPU finds what it finds on the CPU; ``make gpu`` runs it. Skipped without a GPU."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_models import make_model, random_tokens, save_model

import trim_prune
from trim_kernels import unpack_bits
from trim_prune import StructuredRecipe, activations, evaluate, prune
from trim_prune.formats.convert import pack_model
from trim_prune.recipes import as_recipe
from trim_prune.transfers import Ahead, lane_of

DEVICE = "cuda"
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")]

SIZES = {"hidden_size": 128, "intermediate_size": 320, "num_hidden_layers": 3}
BASE = {"sparsity": 0.6, "samples": 8, "seqlen": 64}
MSP = {"stages": [16], "population": 4, "offspring": 2, "generations": 1, "step": 0.1}
RECIPES = {
    "wanda": {"preset": "wanda"},
    "trim": {"preset": "trim"},
    "sparsegpt": {"preset": "sparsegpt"},
    "best": {"preset": "best"},
    "optimal rows": {"rows": "optimal"},
    "swaps": {"rows": "uniform", "solver": "swaps"},
    "alps": {"rows": "uniform", "solver": "alps"},
    "keep 2 of 4": {"rows": "uniform", "pattern": "keep 2 of 4", "sparsity": None},
    "keep 2 of 4, sparsegpt": {
        "rows": "uniform",
        "pattern": "keep 2 of 4",
        "sparsity": None,
        "solver": "sparsegpt",
        "sparsegpt": {"mask": "inside"},
    },
    "ria, owl": {"score": "ria", "layers": "owl", "rows": "uniform"},
    "alphapruning": {"layers": "alphapruning", "rows": "uniform"},
    "dlp": {"layers": "dlp", "rows": "uniform"},
    "optimal layers": {"layers": "optimal", "rows": "optimal"},
    "msp": {"layers": "msp", "rows": "uniform", "msp": MSP},
}
AGREEMENT = 0.98
"""Of the masks: sums in another order decide between scores that are nearly alike, and later blocks see that."""


STRUCTURED = {
    "slimllm": {"preset": "slimllm", "params": 0.8},
    "smaller": {"preset": "smaller", "params": 0.7},
    "mode uniform": {"preset": "slimllm", "params": 0.7, "mode": "uniform"},
    "magnitude": {"heads": "magnitude", "channels": "magnitude", "layers": "uniform", "repair": "none", "params": 0.7},
}


def choices(name: str) -> dict[str, object]:
    return {key: value for key, value in (BASE | RECIPES[name]).items() if value is not None}


def kept(result: trim_prune.PruneResult) -> torch.Tensor:
    """Whether each weight stayed, all linears after one another; their widths are multiples of 8."""
    masks = [result.masks[name].cpu() for name in sorted(result.masks)]
    return torch.cat([unpack_bits(mask, 8 * mask.shape[-1]).flatten() for mask in masks])


def likelihoods(model: torch.nn.Module) -> torch.Tensor:
    """What a model says, on the CPU."""
    with torch.no_grad():
        return model.cpu()(input_ids=random_tokens(4, 32)).logits.log_softmax(-1)


@pytest.mark.parametrize("name", RECIPES)
def test_it_prunes_as_on_the_cpu(name, tokenizer, text):
    dense = make_model("llama", **SIZES)
    found = {}
    for device in ("cpu", DEVICE):
        model = copy.deepcopy(dense)
        found[device] = prune(model, choices(name) | {"device": device}, [text], tokenizer=tokenizer)
        assert all(parameter.device.type == "cpu" for parameter in model.parameters())
    here, there = found["cpu"], found[DEVICE]
    assert there.sparsity == here.sparsity
    agreeing = 1 - (kept(there) != kept(here)).double().mean()
    assert agreeing >= AGREEMENT, f"{agreeing:.4f} of the masks agree"


@pytest.mark.parametrize("name", ["trim", "best", "optimal rows"])
def test_the_same_bytes_every_time_wherever_hidden_states_wait(name, tokenizer, text, tmp_path, content, monkeypatch):
    dense = save_model(tmp_path / "dense", make_model("llama", dtype=torch.bfloat16, **SIZES), tokenizer)

    def pruned(where):
        monkeypatch.setattr(activations, "where_kept", lambda *_: where)
        prune(dense, choices(name) | {"device": DEVICE, "batch_size": 2}, [text], out=tmp_path / where)
        found = content(tmp_path / where)
        monkeypatch.undo()
        return found

    first = pruned("device")
    assert pruned("memory") == first
    assert pruned("file") == first


def test_half_precision_on_the_gpu_follows_float32(tokenizer, text):
    results = []
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        model = make_model("llama", dtype=dtype, **SIZES)
        results.append(prune(model, choices("trim") | {"device": DEVICE}, [text], tokenizer=tokenizer))
    for other in results[1:]:
        assert other.sparsity == results[0].sparsity
        assert (kept(other) == kept(results[0])).double().mean() > 0.95


@pytest.mark.parametrize("name", STRUCTURED)
def test_heads_and_channels_go_as_on_the_cpu(name, tokenizer, text):
    said = []
    for device in ("cpu", DEVICE):
        recipe = StructuredRecipe.build({"samples": 16, "seqlen": 64, "device": device} | STRUCTURED[name])
        result = prune(make_model("llama", **SIZES), recipe, [text], tokenizer=tokenizer)
        said.append((sum(p.numel() for p in result.model.parameters()), likelihoods(result.model)))
    (parameters, expected), (parameters_there, got) = said
    assert parameters_there == parameters
    torch.testing.assert_close(got, expected, rtol=1e-2, atol=1e-2)


def test_a_packed_checkpoint_is_unpacked_on_the_gpu(tokenizer, tmp_path):
    dense = save_model(tmp_path / "dense", make_model("llama", dtype=torch.bfloat16, **SIZES), tokenizer)
    prune(dense, {"sparsity": 0.7, "score": "magnitude", "rows": "uniform", "device": DEVICE}, out=tmp_path / "pruned")
    pack_model(tmp_path / "pruned", tmp_path / "packed")
    there, here = (trim_prune.load(tmp_path / "packed", device=device) for device in (DEVICE, "cpu"))
    assert {p.device.type for p in there.parameters()} == {torch.device(DEVICE).type}
    expected = here.state_dict()
    assert there.state_dict().keys() == expected.keys()
    for key, tensor in there.state_dict().items():
        assert torch.equal(tensor.cpu(), expected[key]), key


def test_perplexity_is_that_of_the_cpu(tokenizer, text_file, tmp_path):
    folder = save_model(tmp_path / "dense", make_model("llama", **SIZES), tokenizer)
    here, there = (evaluate(folder, text_file, seqlen=64, device=device).perplexity for device in ("cpu", DEVICE))
    assert there == pytest.approx(here, rel=1e-4)


@pytest.mark.parametrize("name", [*RECIPES, *STRUCTURED])
def test_a_model_on_the_gpu_stays_there(name, tokenizer, text):
    if name in RECIPES:
        recipe = as_recipe(choices(name))
    else:
        recipe = StructuredRecipe.build({"samples": 16, "seqlen": 64} | STRUCTURED[name])
    model = make_model("llama", **SIZES).to(DEVICE)
    prune(model, recipe, [text], tokenizer=tokenizer)
    tensors = [*model.parameters(), *model.buffers()]
    assert {tensor.device.type for tensor in tensors} == {torch.device(DEVICE).type}
    assert torch.isfinite(likelihoods(model)).all()


def test_tensors_travel_beside_the_work_and_arrive_whole():
    lane = lane_of(torch.device(DEVICE, 0))
    made = [torch.randn(64, 4096, device=DEVICE) for _ in range(6)]
    expected = [tensor.clone() for tensor in made]
    stored = [lane.store(tensor) for tensor in made]
    del made
    work = torch.randn(2048, 2048, device=DEVICE)
    ahead = Ahead(lane)
    for index, wanted in enumerate(expected):
        work @ work
        got = ahead.take(stored, index)
        assert torch.equal(got, wanted)
        stored[index] = lane.store(got + 1)
    lane.finish()
    assert all(tensor.is_pinned() for tensor in stored)
    assert all(torch.equal(tensor, wanted.cpu() + 1) for tensor, wanted in zip(stored, expected, strict=True))
