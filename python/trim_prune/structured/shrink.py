"""Take units out of a part: rows of its producers, columns of its consumer; or set them to zero."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .parts import Part

HEAD_COUNTS = ("num_heads", "num_attention_heads")
GROUP_COUNTS = ("num_key_value_heads", "num_kv_heads")
"""Attributes by which some attention modules view what their linears put out."""


def indices(units: Tensor, size: int) -> Tensor:
    """int64: the rows or columns of units that have ``size`` each."""
    return (units[:, None] * size + torch.arange(size, device=units.device)).flatten()


@torch.no_grad()
def keep_units(part: Part, kept: Tensor, weight: Tensor, bias: Tensor | None, *, masked: bool) -> None:
    """Leave only some units in a part of a block.

    ``kept`` int64 [K], ascending. ``weight`` [D, K * width]: that of the consumer for what is kept; ``bias`` [D]: what
    is added to the consumer's, which gets one if it has none; None: nothing. ``masked``: the shapes stay, and what goes
    is zero.
    """
    for producer in part.producers:
        _keep_rows(part, producer.name, indices(kept, producer.rows), masked)
    _set_consumer(part, indices(kept, part.width), weight, bias, masked)
    if part.heads and not masked:
        set_head_counts(part.block.module.get_submodule(part.holder), len(kept), len(kept) * part.heads)


def resize(part: Part, units: int, *, bias: bool) -> None:
    """Give a part on the meta device other sizes; ``bias``: whether its consumer has one."""

    def empty(*shape: int) -> Tensor:
        return torch.empty(*shape, dtype=part.weight.dtype, device="meta")

    for producer in part.producers:
        linear, rows = part.linear(producer.name), units * producer.rows
        own = None if linear.bias is None else empty(rows)
        replace_linear(part.block.module, producer.name, empty(rows, linear.in_features), own)
    outputs = len(part.weight)
    weight = empty(outputs, units * part.width)
    replace_linear(part.block.module, part.consumer, weight, empty(outputs) if bias else None)
    if part.heads:
        set_head_counts(part.block.module.get_submodule(part.holder), units, units * part.heads)


def set_head_counts(attention: nn.Module, groups: int, heads: int) -> None:
    """Tell an attention module how many heads its linears hold now, where it has attributes for it."""
    for names, count in ((HEAD_COUNTS, heads), (GROUP_COUNTS, groups)):
        for name in names:
            if isinstance(getattr(attention, name, None), int):
                setattr(attention, name, count)


def replace_linear(block: nn.Module, name: str, weight: Tensor, bias: Tensor | None) -> None:
    """Put a linear with these parameters in the place of another."""
    old = block.get_submodule(name)
    new = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta", dtype=weight.dtype)
    new.weight = nn.Parameter(weight, requires_grad=weight.is_floating_point())
    if bias is not None:
        new.bias = nn.Parameter(bias)
    holder, _, last = name.rpartition(".")
    setattr(block.get_submodule(holder), last, new.train(old.training))


def _keep_rows(part: Part, name: str, rows: Tensor, masked: bool) -> None:
    linear = part.linear(name)
    for parameter in (linear.weight, linear.bias) if masked else ():
        if parameter is not None:
            left = parameter.data[rows].clone()
            parameter.data.zero_()[rows] = left
    if not masked:
        bias = None if linear.bias is None else linear.bias.data[rows].clone()
        replace_linear(part.block.module, name, linear.weight.data[rows].clone(), bias)


def _set_consumer(part: Part, columns: Tensor, weight: Tensor, bias: Tensor | None, masked: bool) -> None:
    linear = part.linear(part.consumer)
    weight = weight.to(linear.weight.dtype).contiguous()
    if bias is not None:
        bias = bias.to(linear.weight.dtype if linear.bias is None else linear.bias.dtype)
    if linear.bias is not None:
        bias = linear.bias.data.clone() if bias is None else linear.bias.data + bias
    if masked:
        linear.weight.data.zero_()[:, columns] = weight
        if bias is not None:
            linear.bias.data.copy_(bias)
    else:
        replace_linear(part.block.module, part.consumer, weight, bias)
