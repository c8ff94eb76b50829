"""The weights that stay, side by side, and back."""

from __future__ import annotations

import torch
from torch import Tensor

import trim_kernels
from benchmarks.cases.case import Case
from benchmarks.cases.checks import equal
from benchmarks.cases.rows import no_operations
from benchmarks.problems import Packed


def _pack(packed: Packed, backend: str) -> Tensor:
    return trim_kernels.pack_values(packed.weight, packed.kept, backend=backend)


def _index(packed: Packed) -> Tensor:
    return packed.weight[packed.mask]


def _unpack(packed: Packed, backend: str) -> Tensor:
    return trim_kernels.unpack_values(packed.values, packed.kept, packed.weight.shape[1], backend=backend)


def _masked_scatter(packed: Packed) -> Tensor:
    return torch.zeros_like(packed.weight).masked_scatter_(packed.mask, packed.values)


PACK_VALUES = Case(
    "pack_values",
    "",
    Packed.make,
    _pack,
    equal,
    bytes_moved=Packed.least_bytes,
    operations=no_operations,
    baseline=_index,
    baseline_name="indexing by an unpacked mask",
    waits=True,
)
UNPACK_VALUES = Case(
    "unpack_values",
    "",
    Packed.make,
    _unpack,
    equal,
    bytes_moved=Packed.least_bytes,
    operations=no_operations,
    baseline=_masked_scatter,
    baseline_name="zeros and masked_scatter_ by an unpacked mask",
    waits=True,
)
