"""What an operation works on: a layer, or the activations that enter it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from benchmarks.data import activations_like, linear_like
from benchmarks.shapes import Linear
from trim_kernels import pack_bits

SPARSITY = 0.7
SPREAD = 0.12
"""How far from it a row may be."""
TOKENS = 256
"""Columns of a layer's inputs."""
SEQUENCE = 2048
"""Tokens of activations."""


@dataclass(frozen=True)
class Problem:
    """Tensors, of which an operation in place may change one."""

    CHANGED: ClassVar[str]
    TOUCHED: ClassVar[tuple[str, ...]]
    """What every operation reads."""

    def copy(self) -> Self:
        """The same values in other memory."""
        return replace(self, **{name: tensor.clone() for name, tensor in self._tensors().items()})

    def restore(self, original: Self) -> None:
        """Take back what an operation in place has changed."""
        getattr(self, self.CHANGED).copy_(getattr(original, self.CHANGED))

    def nbytes(self) -> int:
        """Memory of all tensors."""
        return sum(tensor.nbytes for tensor in self._tensors().values())

    def touched(self) -> int:
        """Memory that every operation reads."""
        return sum(tensor.nbytes for name, tensor in self._tensors().items() if name in self.TOUCHED)

    def _tensors(self) -> dict[str, Tensor]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}


@dataclass(frozen=True)
class Layer(Problem):
    """One matrix with its inputs [C, N], Wanda's column scale, and prune counts that differ from row to row."""

    CHANGED: ClassVar[str] = "weight"
    TOUCHED: ClassVar[tuple[str, ...]] = ("weight",)

    weight: Tensor
    inputs: Tensor
    column_scale: Tensor
    prune_count: Tensor
    check_values: bool
    """False on a GPU: the caller vouches for the values, and nothing waits for the device."""

    @classmethod
    def make(cls, linear: Linear, dtype: torch.dtype, device: str) -> Self:
        """Prune counts around the target. On a GPU the inputs have the dtype of the weight, as in a model."""
        weight, inputs, column_scale = linear_like(linear.rows, linear.columns, TOKENS, dtype=dtype, device=device)
        on_cpu = weight.device.type == "cpu"
        shares = torch.linspace(SPARSITY - 0.15, SPARSITY + 0.15, max(linear.rows, 2), device=device)[: linear.rows]
        counts = (shares * linear.columns).int()
        return cls(weight, inputs if on_cpu else inputs.to(dtype), column_scale, counts, check_values=on_cpu)

    def weight_bytes(self) -> float:
        """One read of the weight."""
        return self.weight.nbytes

    def product(self) -> float:
        """Operations of weight @ inputs."""
        return 2.0 * self.weight.numel() * self.inputs.shape[1]


@dataclass(frozen=True)
class Pool(Problem):
    """Scores of all weights of a matrix that compete with one another, as one row [1, R * C], float32."""

    CHANGED: ClassVar[str] = "score"
    TOUCHED: ClassVar[tuple[str, ...]] = ("score",)

    score: Tensor
    prune_count: Tensor
    check_values: bool
    """As of a layer."""

    @classmethod
    def make(cls, linear: Linear, dtype: torch.dtype, device: str) -> Self:
        """Wanda's, of weights of that dtype; so many as the target says go."""
        weight, _, column_scale = linear_like(linear.rows, linear.columns, TOKENS, dtype=dtype, device=device)
        score = (weight.abs() * column_scale).view(1, -1)
        count = torch.tensor([int(SPARSITY * score.numel())], dtype=torch.int32, device=device)
        return cls(score, count, check_values=score.device.type == "cpu")


@dataclass(frozen=True)
class Band(Problem):
    """One matrix with the Gram matrix of its inputs, Wanda's column scale, and the counts around the target."""

    CHANGED: ClassVar[str] = "weight"
    TOUCHED: ClassVar[tuple[str, ...]] = ("weight", "gram")

    weight: Tensor
    gram: Tensor
    column_scale: Tensor
    first_count: int
    last_count: int
    check_values: bool
    """As of a layer."""

    @classmethod
    def make(cls, linear: Linear, dtype: torch.dtype, device: str) -> Self:
        """Counts within 0.12 of the target, as a row budget looks for them."""
        weight, inputs, column_scale = linear_like(linear.rows, linear.columns, SEQUENCE, dtype=dtype, device=device)
        first, last = (int((SPARSITY + by) * linear.columns) for by in (-SPREAD, SPREAD))
        on_cpu = weight.device.type == "cpu"
        return cls(weight, inputs @ inputs.t(), column_scale, first, last, check_values=on_cpu)

    def bytes_moved(self) -> float:
        """Weight and Gram matrix read, curves written."""
        return self.weight.nbytes + self.gram.nbytes + 4.0 * len(self.weight) * (self.last_count - self.first_count + 1)

    def operations(self) -> float:
        """Of each pair of weights that go: a product and a sum."""
        return float(len(self.weight)) * self.last_count * (self.last_count + 1)


@dataclass(frozen=True)
class Activations(Problem):
    """The tokens ``x`` [T, C] that enter a linear, and what is accumulated over them."""

    CHANGED: ClassVar[str] = "acc"
    TOUCHED: ClassVar[tuple[str, ...]] = ("x", "acc")

    x: Tensor
    acc: Tensor

    @classmethod
    def for_columns(cls, linear: Linear, dtype: torch.dtype, device: str) -> Self:
        """An accumulator [C]; the rows of ``linear`` are tokens."""
        acc = _zeros(linear.columns, device=device)
        return cls(activations_like(linear.rows, linear.columns, dtype, device), acc)

    @classmethod
    def for_gram(cls, linear: Linear, dtype: torch.dtype, device: str) -> Self:
        """An accumulator [C, C]; the rows of ``linear`` are tokens."""
        acc = _zeros(linear.columns, linear.columns, device=device)
        return cls(activations_like(linear.rows, linear.columns, dtype, device), acc)

    def x_bytes(self) -> float:
        """One read of the tokens."""
        return self.x.nbytes


@dataclass(frozen=True)
class Elimination(Problem):
    """One matrix, which of its weights stay, and the factor of a Hessian's inverse; always float32."""

    CHANGED: ClassVar[str] = "weight"
    TOUCHED: ClassVar[tuple[str, ...]] = ("weight", "kept", "factor")

    weight: Tensor
    kept: Tensor
    factor: Tensor

    @classmethod
    def make(cls, linear: Linear, dtype: torch.dtype, device: str) -> Self:
        """The factor is drawn, since a Hessian's would take longer than all else: the update takes any."""
        weight, _, _ = linear_like(linear.rows, linear.columns, 1, dtype=dtype, device=device)
        generator = torch.Generator(device).manual_seed(1)
        kept = torch.rand(weight.shape, generator=generator, device=device) >= SPARSITY
        factor = torch.randn(linear.columns, linear.columns, generator=generator, device=device)
        factor.mul_(0.3 / linear.columns**0.5).triu_(1).diagonal().fill_(1)
        return cls(weight.float(), kept, factor)

    def least_bytes(self) -> float:
        """Weight read and written, mask and half of the factor read, errors written."""
        return 3.0 * self.weight.nbytes + self.kept.nbytes + self.factor.nbytes / 2

    def least_operations(self) -> float:
        """What goes is multiplied into each weight right of it."""
        columns = self.weight.shape[1]
        right = torch.arange(columns - 1, -1, -1, dtype=torch.float64, device=self.weight.device)
        return float(2 * ((~self.kept).sum(0) * right).sum())


@dataclass(frozen=True)
class Packed(Problem):
    """A pruned matrix, its mask as bools and as bits, and its kept values; nothing of it is changed."""

    CHANGED: ClassVar[str] = "weight"
    TOUCHED: ClassVar[tuple[str, ...]] = ("kept", "values")

    weight: Tensor
    mask: Tensor
    kept: Tensor
    values: Tensor

    @classmethod
    def make(cls, linear: Linear, dtype: torch.dtype, device: str) -> Self:
        """What goes is drawn."""
        weight, _, _ = linear_like(linear.rows, linear.columns, 1, dtype=dtype, device=device)
        generator = torch.Generator(device).manual_seed(1)
        mask = torch.rand(weight.shape, generator=generator, device=device) >= SPARSITY
        return cls(weight.masked_fill_(~mask, 0), mask, pack_bits(mask), weight[mask])

    def least_bytes(self) -> float:
        """Weight, packed mask and values, each read or written."""
        return float(self.weight.nbytes + self.kept.nbytes + self.values.nbytes)


def _zeros(*shape: int, device: str) -> Tensor:
    return torch.zeros(shape, dtype=torch.float32, device=device)
