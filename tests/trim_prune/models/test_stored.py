"""What is pruned, in the form of files that have it otherwise than the model."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from trim_kernels import pack_bits
from trim_prune.formats.masks import unpack
from trim_prune.models.discover import Block, Linear
from trim_prune.models.masks import add_mask
from trim_prune.models.shards import Shards
from trim_prune.models.stored import find_pieces


class Experts(nn.Module):
    def __init__(self, transposed):
        super().__init__()
        shape = (3, 4, 10) if transposed else (3, 10, 4)
        self.gate_up_proj = nn.Parameter(torch.arange(1.0, 121.0).view(shape))
        self.bias = nn.Parameter(torch.ones(3))


def apart(tensors):
    """Files that hold the gates and the ups of experts one by one, and gates as [inputs, outputs]."""
    found = {name: tensor for name, tensor in tensors.items() if tensor.dim() < 3}
    for tensor in (tensor for tensor in tensors.values() if tensor.dim() == 3):
        for expert, matrix in enumerate(tensor):
            matrix = matrix if matrix.shape == (10, 4) else matrix.t()
            found[f"{expert}.gate"], found[f"{expert}.up"] = matrix[:5].t(), matrix[5:]
    return found


def block_of(transposed):
    module = Experts(transposed)
    linears = [Linear(f"x.{e}.gate_up_proj", 0, module, "gate_up_proj", e, transposed, True) for e in range(3)]
    return Block(0, "x", module, tuple(linears))


def saved(tensors, folder):
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, folder / "file")
    return Shards(folder, ["file"])


@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize("transposed", [False, True])
def test_masks_lie_over_what_is_stored_whatever_became_of_it(transposed, prefix, tmp_path):
    block, masks, generator = block_of(transposed), {}, torch.Generator().manual_seed(0)
    shards = saved({f"{prefix}{name}": tensor for name, tensor in apart(block.parameters).items()}, tmp_path)
    bias, piece = sorted(find_pieces(block, shards, "model", apart), key=lambda piece: len(piece.keys))
    assert (bias.shapes, bias.keys, bias.convert) == ({"x.bias": (3,)}, (f"{prefix}x.bias",), None)
    assert set(piece.keys) == {f"{prefix}{e}.{name}" for e in range(3) for name in ("gate", "up")}
    for linear in block.linears:
        kept = torch.rand(linear.shape, generator=generator) < 0.5
        linear.weight.masked_fill_(~kept, 0)
        add_mask(masks, linear, pack_bits(kept))
    weights, over = piece.to_files({name: p.data for name, p in block.parameters.items()}), piece.masks(masks)
    assert weights.keys() == over.keys() == set(piece.keys)
    assert bias.masks(masks) == {}
    for name, weight in weights.items():
        assert torch.equal(unpack(over[name], tuple(weight.shape)), weight != 0)
    assert piece.transposed(block.linears) == {f"{prefix}{e}.gate" for e in range(3)}
    back = piece.to_parameters(weights)
    assert back.keys() == {"x.gate_up_proj"}
    assert torch.equal(back["x.gate_up_proj"], block.module.gate_up_proj)


@pytest.mark.parametrize("transposed", [False, True])
def test_what_is_stored_as_it_is_keeps_its_form(transposed, tmp_path):
    block = block_of(transposed)
    pieces = find_pieces(block, saved(block.parameters, tmp_path), "", dict)
    assert all(piece.convert is None for piece in pieces)
    assert [piece.keys for piece in pieces] == [("x.gate_up_proj",), ("x.bias",)]
    assert pieces[0].transposed(block.linears) == ({"x.gate_up_proj"} if transposed else set())


def test_files_of_another_form_are_told_apart(tmp_path):
    block = block_of(False)
    whole = saved({"x.bias": block.module.bias, "x.other": block.module.gate_up_proj}, tmp_path)
    assert find_pieces(block, whole, "", apart) is None
    turned = saved({"x.gate_up_proj": block.module.gate_up_proj.transpose(1, 2)}, tmp_path)
    assert find_pieces(block, turned, "", dict) is None
