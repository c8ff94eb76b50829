"""torch.library: the schema and the fake of every operator, all in one place.

The public functions in ``trim_kernels.ops`` check their arguments and call ``torch.ops.trim_kernels.<op>``; one kernel
per operator, registered here, hands the call to the backend that :mod:`trim_kernels.backends` chooses.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from trim_kernels import backends
from trim_kernels.bits import empty_mask
from trim_kernels.checks import check_call

_SCORED = "Tensor weight, Tensor prune_count, Tensor? column_scale, Tensor? score"
_GROUPED = "Tensor weight, int keep, int of, Tensor? column_scale, Tensor? score"
_CHECKED = "bool check_values, str backend"
_SCHEMAS = {
    "row_threshold": f"({_SCORED}, {_CHECKED}) -> (Tensor key, Tensor column)",
    "row_mask": f"({_SCORED}, bool packed, {_CHECKED}) -> Tensor",
    "prune_rows_": f"({_SCORED.replace('Tensor weight', 'Tensor(a!) weight')}, {_CHECKED}) -> ()",
    "row_order": f"(Tensor weight, Tensor? column_scale, Tensor? score, {_CHECKED}) -> Tensor",
    "row_quality": (
        f"(Tensor weight, Tensor prune_count, Tensor inputs, Tensor? column_scale, Tensor? score, {_CHECKED})"
        " -> (Tensor dense_sq, Tensor dropped_sq, Tensor cross, Tensor peak)"
    ),
    "row_error_curve": (
        "(Tensor weight, Tensor gram, int first_count, int last_count, Tensor? column_scale, Tensor? score,"
        f" {_CHECKED}) -> Tensor"
    ),
    "allocate_rows": (
        "(Tensor weight, Tensor inputs, float sparsity, Tensor? column_scale, Tensor? score,"
        " float[] learning_rates, float[] negative_learning_rates, int iterations, float max_sparsity,"
        " str layer_metric, str row_metric, str rounding, str backend) -> (Tensor prune_count, Tensor trace)"
    ),
    "nm_rank": f"(Tensor weight, int of, Tensor? column_scale, Tensor? score, {_CHECKED}) -> Tensor",
    "nm_mask": f"({_GROUPED}, bool packed, {_CHECKED}) -> Tensor",
    "prune_nm_": f"({_GROUPED.replace('Tensor weight', 'Tensor(a!) weight')}, {_CHECKED}) -> ()",
    "column_sqnorm_": "(Tensor(a!) acc, Tensor x, Tensor? token_mask, str backend) -> ()",
    "gram_": "(Tensor(a!) acc, Tensor x, Tensor? token_mask, str backend) -> ()",
    "obs_update_": "(Tensor(a!) weight, Tensor kept, Tensor factor, str backend) -> Tensor",
    "pack_values": "(Tensor weight, Tensor kept, str backend) -> Tensor",
    "unpack_values": "(Tensor values, Tensor kept, int columns, str backend) -> Tensor",
}


def _fake_row_threshold(weight: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    rows = weight.shape[0]
    return weight.new_empty(rows, dtype=torch.int32), weight.new_empty(rows, dtype=torch.int32)


def _fake_row_mask(
    weight: Tensor, prune_count: Tensor, column_scale: Tensor | None, score: Tensor | None, packed: bool, *_: object
) -> Tensor:
    return empty_mask(weight, packed)


def _fake_nm_rank(weight: Tensor, *_: object) -> Tensor:
    return weight.new_empty(weight.shape, dtype=torch.uint8)


def _fake_nm_mask(
    weight: Tensor, keep: int, of: int, column_scale: Tensor | None, score: Tensor | None, packed: bool, *_: object
) -> Tensor:
    return empty_mask(weight, packed)


def _fake_in_place(*_: object) -> None:
    return None


def _fake_row_order(weight: Tensor, *_: object) -> Tensor:
    return weight.new_empty(weight.shape, dtype=torch.int32)


def _fake_row_quality(weight: Tensor, *_: object) -> tuple[Tensor, ...]:
    return tuple(weight.new_empty(weight.shape[0], dtype=torch.float64) for _ in range(4))


def _fake_row_error_curve(weight: Tensor, gram: Tensor, first_count: int, last_count: int, *_: object) -> Tensor:
    return weight.new_empty((weight.shape[0], last_count - first_count + 1), dtype=torch.float32)


def _fake_allocate_rows(
    weight: Tensor,
    inputs: Tensor,
    sparsity: float,
    column_scale: Tensor | None,
    score: Tensor | None,
    learning_rates: list[float],
    negative_learning_rates: list[float],
    iterations: int,
    *_: object,
) -> tuple[Tensor, Tensor]:
    trials = len(learning_rates) + len(negative_learning_rates)
    trace = weight.new_empty((trials + 1, iterations + 1), dtype=torch.float64, device="cpu")
    return weight.new_empty(weight.shape[0], dtype=torch.int32), trace


def _fake_obs_update(weight: Tensor, *_: object) -> Tensor:
    return weight.new_empty(weight.shape)


def _fake_pack_values(weight: Tensor, *_: object) -> Tensor:
    return weight.new_empty(torch.library.get_ctx().new_dynamic_size())


def _fake_unpack_values(values: Tensor, kept: Tensor, columns: int, *_: object) -> Tensor:
    return values.new_empty((kept.shape[0], columns))


_FAKES: dict[str, Callable[..., object]] = {
    "row_threshold": _fake_row_threshold,
    "row_mask": _fake_row_mask,
    "prune_rows_": _fake_in_place,
    "row_order": _fake_row_order,
    "row_quality": _fake_row_quality,
    "row_error_curve": _fake_row_error_curve,
    "allocate_rows": _fake_allocate_rows,
    "nm_rank": _fake_nm_rank,
    "nm_mask": _fake_nm_mask,
    "prune_nm_": _fake_in_place,
    "column_sqnorm_": _fake_in_place,
    "gram_": _fake_in_place,
    "obs_update_": _fake_obs_update,
    "pack_values": _fake_pack_values,
    "unpack_values": _fake_unpack_values,
}


def _kernel(op: str, names: list[str]) -> Callable[..., object]:
    def run(*args: object) -> object:
        call = dict(zip(names, args, strict=True))
        backend = str(call.pop("backend"))
        check_call(op, call)
        with torch.no_grad():
            return backends.implementation(op, backend, call)(**call)

    return run


_library = torch.library.Library("trim_kernels", "DEF")  # type: ignore[no-untyped-call]
for _op, _schema in _SCHEMAS.items():
    _library.define(_op + _schema)  # type: ignore[no-untyped-call]
    _names = [argument.name for argument in getattr(torch.ops.trim_kernels, _op).default._schema.arguments]
    _library.impl(_op, _kernel(_op, _names), "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    # Nothing here has a gradient: weights that require one are taken as plain numbers.
    _library.impl(_op, torch.library.fallthrough_kernel, "Autograd")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"trim_kernels::{_op}", _FAKES[_op], lib=_library)
