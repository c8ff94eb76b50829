"""One of two gloo ranks of test_training: zeros are kept in a model that is sharded by FSDP2, and by columns."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from tiny_models import linears_of, make_model, random_tokens
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from trim_prune import TrimPruneError, keep_zeros, prune

MAGNITUDE = {"sparsity": 0.6, "score": "magnitude", "rows": "uniform"}


def masks_of(model):
    return {f"{name}.weight": linear.weight.detach() != 0 for name, linear in linears_of(model, "llama").items()}


def train(model, zeros):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for step in range(2):
        tokens = random_tokens(2, 12, seed=10 * step + dist.get_rank())
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        zeros.apply()
        optimizer.zero_grad()


def require_same_zeros(model, kept):
    for name, linear in linears_of(model, "llama").items():
        assert isinstance(linear.weight, DTensor)
        assert torch.equal(linear.weight.full_tensor() != 0, kept[f"{name}.weight"]), name


def fsdp(mesh):
    model = make_model("llama").train()
    prune(model, MAGNITUDE)
    kept = masks_of(model)
    for block in model.model.layers:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    zeros = keep_zeros(model, kept)
    train(model, zeros)
    require_same_zeros(model, kept)
    assert abs(zeros.check() - 0.6) < 1e-4
    if dist.get_rank() == 1:
        model.model.layers[0].mlp.up_proj.weight.data.to_local().fill_(1)
    # What one rank lost, both find.
    with pytest.raises(TrimPruneError, match="not zero any more"):
        zeros.check()


def columns(mesh):
    """Tensor parallel: parts of a row, which begin within a byte of the packed mask."""
    model = make_model("llama")
    prune(model, MAGNITUDE)
    linear = model.model.layers[0].mlp.up_proj
    name, weight = "model.layers.0.mlp.up_proj.weight", linear.weight.detach()[:, :30].clone()
    linear.weight = torch.nn.Parameter(distribute_tensor(weight, mesh, [Shard(1)]))
    zeros = keep_zeros(model, {name: weight != 0})
    with torch.no_grad():
        linear.weight.to_local().add_(1)
    zeros.apply()
    assert torch.equal(linear.weight.detach().full_tensor() == 0, weight == 0)


torch.set_num_threads(1)
dist.init_process_group("gloo")
try:
    both = init_device_mesh("cpu", (2,))
    fsdp(both)
    columns(both)
    print("zeros kept: fsdp, columns")
finally:
    dist.destroy_process_group()
