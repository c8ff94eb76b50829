"""A merged adapter changes what is kept, and no zero."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import make_model, save_model

from trim_prune import TrimPruneError, prune
from trim_prune.formats.masks import masks_of
from trim_prune.formats.sources import open_masks
from trim_prune.merge_lora import merge_lora

peft = pytest.importorskip("peft", reason="the extra peft is not installed")
# What peft warns about is not ours.
pytestmark = pytest.mark.filterwarnings("default")
MAGNITUDE = {"sparsity": 0.6, "score": "magnitude", "rows": "uniform"}


@pytest.fixture(params=[torch.float32, torch.float16], ids=str)
def pruned(request, tokenizer, tmp_path):
    save_model(tmp_path / "dense", make_model("llama", dtype=request.param), tokenizer)
    prune(tmp_path / "dense", MAGNITUDE, out=tmp_path / "pruned")
    return tmp_path / "pruned"


@pytest.fixture
def adapter(tmp_path):
    """One that changes up_proj, and lm_head, of which there is no mask."""
    config = peft.LoraConfig(r=2, target_modules=["up_proj", "lm_head"], init_lora_weights=False)
    torch.manual_seed(0)
    peft.get_peft_model(make_model("llama"), config).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_zeros_stay_and_the_rest_is_what_peft_makes(pruned, adapter, tmp_path, invoke):
    code, out, _ = invoke("merge-lora", pruned, adapter, "--out", tmp_path / "merged")
    assert code == 0
    before, after = (load_file(folder / "model.safetensors") for folder in (pruned, tmp_path / "merged"))
    masks = open_masks(pruned)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype
        changed = "up_proj" in name or "lm_head" in name
        assert torch.equal(after[name], tensor) != changed, name
        if name in masks:
            assert not after[name][~masks.kept(name)].any()
    weights = load_file(adapter / "adapter_model.safetensors")
    delta = weights["base_model.model.lm_head.lora_B.weight"] @ weights["base_model.model.lm_head.lora_A.weight"]
    expected = before["lm_head.weight"].float() + 4 * delta
    torch.testing.assert_close(after["lm_head.weight"].float(), expected, rtol=2e-3, atol=2e-3)
    assert (tmp_path / "merged/masks.safetensors").read_bytes() == (pruned / "masks.safetensors").read_bytes()
    assert (tmp_path / "merged/config.json").read_bytes() == (pruned / "config.json").read_bytes()
    filled = sum(int((~masks.kept(name)).sum()) for name in masks if "up_proj" in name)
    total, all_weights = (sum(map(count, (~masks.kept(name) for name in masks))) for count in (torch.sum, torch.numel))
    assert f"sparsity {total / all_weights:.6f} ({total} of {all_weights} weights)" in out
    assert f"the adapter had filled {filled} of these zeros" in out


def test_what_does_not_fit_is_refused_and_nothing_is_written(pruned, adapter, tmp_path):
    other = masks_of({"model.layers.0.mlp.up_proj.weight": torch.ones(2, 2).bool()}, "here")
    with pytest.raises(TrimPruneError, match="a mask does not fit its weight"):
        merge_lora(pruned, adapter, tmp_path / "out", masks=other)
    with pytest.raises(TrimPruneError, match="not an adapter folder"):
        merge_lora(pruned, pruned, tmp_path / "out")
    wide = peft.LoraConfig(r=2, target_modules=["up_proj"], init_lora_weights=False)
    peft.get_peft_model(make_model("llama", intermediate_size=64), wide).save_pretrained(tmp_path / "wide")
    with pytest.raises(TrimPruneError, match="peft cannot merge this adapter into this model"):
        merge_lora(pruned, tmp_path / "wide", tmp_path / "out")
    assert list(tmp_path.glob("*out*")) == []


def test_without_peft_the_command_says_what_to_install(pruned, adapter, tmp_path, monkeypatch):
    monkeypatch.setattr("trim_prune.merge_lora.find_spec", lambda name: None)
    with pytest.raises(TrimPruneError, match=r"need the package peft(.|\n)*trim-kernels\[peft\]"):
        merge_lora(pruned, adapter, tmp_path / "out")
