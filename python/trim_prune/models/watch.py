"""Watch the products of linears while a model runs: what goes into each, and what comes out.

Not modules are watched but the products themselves: a linear may be a module of its own, lie transposed, or be one of
many experts in one parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from .discover import Linear

OnProduct = Callable[[Linear, Tensor, Tensor], None]
_OPERANDS = {"linear": (0, 1), "matmul": (0, 1), "mm": (0, 1), "addmm": (1, 2)}
"""The arguments of each function that are multiplied."""


@contextmanager
def watched(linears: Iterable[Linear], on_product: OnProduct) -> Iterator[None]:
    """``on_product(linear, inputs, outputs)`` is called after every product of a linear inside this context.

    inputs [..., C], outputs [..., R]. Modules with fused experts run one expert after the other meanwhile, which is the
    form that their class defines; grouped products of all experts at once are the same up to rounding.
    """
    chosen = list(linears)
    with one_by_one(chosen), _Products({_key(linear.weight): linear for linear in chosen}, on_product):
        yield


class _Products(TorchFunctionMode):
    def __init__(self, linears: dict[tuple[Any, ...], Linear], on_product: OnProduct) -> None:
        super().__init__()
        self._linears, self._on_product = linears, on_product

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        outputs = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        first, second = _OPERANDS.get(name, (0, 0))
        if not 0 < second < len(args):
            return outputs
        left, right = args[first], args[second]
        linear = self._find(right if name == "linear" else right.mT if right.dim() == 2 else right)
        if linear is not None:
            self._on_product(linear, left, outputs)
        elif name in ("matmul", "mm") and (linear := self._find(left)) is not None:
            # The weight times inputs [..., C, tokens]. The transpose is handed on, so that gradients pass through it.
            outputs = outputs.mT
            self._on_product(linear, right.mT, outputs)
            return outputs.mT
        return outputs

    def _find(self, matrix: Tensor) -> Linear | None:
        return self._linears.get(_key(matrix)) if matrix.dim() == 2 else None


def _key(weight: Tensor) -> tuple[Any, ...]:
    """Where a matrix lies; also of a tensor without data."""
    return weight.untyped_storage()._cdata, weight.storage_offset(), tuple(weight.shape), weight.stride()


@contextmanager
def one_by_one(linears: Iterable[Linear]) -> Iterator[None]:
    """Modules with fused experts run one expert after the other inside this context."""
    configs: dict[int, Any] = {
        id(linear.module.config): linear.module.config
        for linear in linears
        if linear.expert is not None and hasattr(linear.module, "config")
    }
    before = [(config, getattr(config, "_experts_implementation", None)) for config in configs.values()]
    try:
        for config, _ in before:
            config._experts_implementation = "eager"
        yield
    finally:
        for config, implementation in before:
            config._experts_implementation = implementation
