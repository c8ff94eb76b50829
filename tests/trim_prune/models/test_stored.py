"""What is pruned, in the form of files that have it otherwise than the model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trim_kernels import pack_bits
from trim_prune.models.discover import Linear
from trim_prune.models.masks import add_mask, unpack
from trim_prune.models.stored import as_files, as_parameters


class Experts(nn.Module):
    def __init__(self, transposed):
        super().__init__()
        shape = (3, 4, 10) if transposed else (3, 10, 4)
        self.gate_up_proj = nn.Parameter(torch.arange(1.0, 121.0).view(shape))


def apart(tensors):
    """Files that hold the gates and the ups of experts one by one, and gates as [inputs, outputs]."""
    found = {}
    for tensor in tensors.values():
        for expert, matrix in enumerate(tensor):
            matrix = matrix if matrix.shape == (10, 4) else matrix.t()
            found[f"{expert}.gate"], found[f"{expert}.up"] = matrix[:5].t(), matrix[5:]
    return found


@pytest.mark.parametrize("transposed", [False, True])
def test_masks_lie_over_what_is_stored_whatever_became_of_it(transposed):
    module = Experts(transposed)
    linears = [Linear(f"x.{e}.gate_up_proj", 0, module, "gate_up_proj", e, transposed, True) for e in range(3)]
    masks, generator = {}, torch.Generator().manual_seed(0)
    for linear in linears:
        kept = torch.rand(linear.shape, generator=generator) < 0.5
        linear.weight.masked_fill_(~kept, 0)
        add_mask(masks, linear, pack_bits(kept))
    state = {"x.gate_up_proj": module.gate_up_proj.data}
    plain = as_parameters(linears, state, masks)
    assert plain.transposed == ({"x.gate_up_proj"} if transposed else set())
    assert torch.equal(unpack(plain.masks["x.gate_up_proj"], module.gate_up_proj.shape), module.gate_up_proj != 0)
    files = as_files(linears, state, masks, apart)
    assert files.weights.keys() == files.masks.keys() == {f"{e}.{name}" for e in range(3) for name in ("gate", "up")}
    assert files.transposed == {f"{e}.gate" for e in range(3)}
    for name, weight in files.weights.items():
        assert torch.equal(unpack(files.masks[name], tuple(weight.shape)), weight != 0)
    renamed = files.renamed({name: f"model.{name}" for name in files.weights})
    assert renamed.transposed == {f"model.{e}.gate" for e in range(3)}
    assert torch.equal(renamed.weights["model.1.up"], files.weights["1.up"])
