"""What a backend owes: each check runs one call on it and compares with the reference, or raises AssertionError.

Selections are integers and must be equal. Qualities and Gram matrices are sums of many products, so they are compared
with the truth in float64: a backend may err twice as much as plain torch in float32, or by what a few rounding errors
explain.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from trim_kernels.ops.allocate_rows import RowBudget, allocate_rows
from trim_kernels.ops.allocate_rows.metrics import STATISTIC_METRICS
from trim_kernels.ops.allocate_rows.rounding import row_cap, total_count
from trim_kernels.ops.column_sqnorm import column_sqnorm_
from trim_kernels.ops.gram import gram_
from trim_kernels.ops.nm_mask import nm_mask
from trim_kernels.ops.nm_rank import nm_rank
from trim_kernels.ops.obs_update import obs_update_
from trim_kernels.ops.obs_update import reference as obs_update
from trim_kernels.ops.pack_values import pack_values
from trim_kernels.ops.prune_nm import prune_nm_
from trim_kernels.ops.prune_rows import prune_rows_
from trim_kernels.ops.row_error_curve import row_error_curve
from trim_kernels.ops.row_mask import row_mask
from trim_kernels.ops.row_order import row_order
from trim_kernels.ops.row_quality import row_quality
from trim_kernels.ops.row_threshold import row_threshold
from trim_kernels.ops.unpack_values import unpack_values
from trim_kernels.scoring import scores

ROUNDINGS_ALLOWED = 4
"""Rounding errors of float32 that an output may have anyway, each relative to the sum of its absolute products."""
PRODUCTS_AT_ONCE, PRODUCTS_IN_ALL = 16, 8192
"""What tensor cores add up before they cut off what float32 cannot hold, up to a rounding error each time; and before a
sum has to begin anew."""


def check_row_threshold(backend: str, weight: Tensor, prune_count: int | Tensor, **scoring: Any) -> None:
    """Keys and columns are equal; ``scoring`` is ``column_scale`` or ``score``."""
    got = row_threshold(weight, prune_count, **scoring, backend=backend)
    expected = row_threshold(weight, prune_count, **scoring, backend="reference")
    _require_equal("row_threshold key", got.key, expected.key)
    _require_equal("row_threshold column", got.column, expected.column)


def check_row_mask(backend: str, weight: Tensor, prune_count: int | Tensor, **scoring: Any) -> None:
    """Masks are equal, as bools and packed."""
    for packed in (False, True):
        got = row_mask(weight, prune_count, **scoring, packed=packed, backend=backend)
        expected = row_mask(weight, prune_count, **scoring, packed=packed, backend="reference")
        _require_equal(f"row_mask packed={packed}", got, expected)


def check_prune_rows(backend: str, weight: Tensor, prune_count: int | Tensor, **scoring: Any) -> None:
    """The same bits are left, in the weight and in the memory around it. ``weight`` itself stays as it is."""
    got, expected = _twin(weight), _twin(weight)
    returned = prune_rows_(got, prune_count, **scoring, backend=backend)
    prune_rows_(expected, prune_count, **scoring, backend="reference")
    assert returned is got, "prune_rows_: expected the weight itself back"
    _require_equal("prune_rows_", _bits(got), _bits(expected))
    _require_equal("prune_rows_ memory around the weight", _bits(_memory(got)), _bits(_memory(expected)))


def check_nm_rank(backend: str, weight: Tensor, of: int, **scoring: Any) -> None:
    """Ranks are equal."""
    got = nm_rank(weight, of, **scoring, backend=backend)
    _require_equal("nm_rank", got, nm_rank(weight, of, **scoring, backend="reference"))


def check_nm_mask(backend: str, weight: Tensor, keep: int, of: int, **scoring: Any) -> None:
    """Masks are equal, as bools and packed."""
    for packed in (False, True):
        got = nm_mask(weight, keep, of, **scoring, packed=packed, backend=backend)
        expected = nm_mask(weight, keep, of, **scoring, packed=packed, backend="reference")
        _require_equal(f"nm_mask packed={packed}", got, expected)


def check_prune_nm(backend: str, weight: Tensor, keep: int, of: int, **scoring: Any) -> None:
    """The same bits are left, in the weight and in the memory around it. ``weight`` itself stays as it is."""
    got, expected = _twin(weight), _twin(weight)
    returned = prune_nm_(got, keep, of, **scoring, backend=backend)
    prune_nm_(expected, keep, of, **scoring, backend="reference")
    assert returned is got, "prune_nm_: expected the weight itself back"
    _require_equal("prune_nm_", _bits(got), _bits(expected))
    _require_equal("prune_nm_ memory around the weight", _bits(_memory(got)), _bits(_memory(expected)))


def check_row_order(backend: str, weight: Tensor, **scoring: Any) -> None:
    """Orders are equal."""
    got = row_order(weight, **scoring, backend=backend)
    _require_equal("row_order", got, row_order(weight, **scoring, backend="reference"))


def check_row_quality(backend: str, weight: Tensor, prune_count: int | Tensor, inputs: Tensor, **scoring: Any) -> None:
    """The four statistics are as near the truth as plain torch in float32 brings them, within a factor of two.

    Errors are counted in units of what ``ROUNDINGS_ALLOWED`` rounding errors in every output would do to the statistic;
    on a GPU sqrt(C) if that is more, and of half precision one more for every ``PRODUCTS_AT_ONCE`` of at most
    ``PRODUCTS_IN_ALL`` columns.
    """
    got = row_quality(weight, prune_count, inputs, **scoring, backend=backend)
    plain = row_quality(weight, prune_count, inputs, **scoring, backend="reference")
    dropped = ~row_mask(weight, prune_count, **scoring, packed=False, backend="reference")
    assert got.tokens == inputs.shape[1], f"row_quality tokens: expected {inputs.shape[1]}, got {got.tokens}"
    for name, (truth, unit) in _truth_and_units(weight, dropped, inputs).items():
        errors = (getattr(got, name) - truth).abs() / unit
        plain_errors = (getattr(plain, name) - truth).abs() / unit
        allowed = max(1.0, 2 * float(plain_errors.nan_to_num(torch.inf).max())) if errors.numel() else 1.0
        wrong = ~(errors <= allowed)
        assert not wrong.any(), (
            f"row_quality {name}: {_rows(wrong)}: error of {float(errors[wrong][0]):.3g} units, allowed {allowed:.3g}; "
            f"got {float(getattr(got, name)[wrong][0])!r}, in float64 {float(truth[wrong][0])!r}"
        )


def check_row_error_curve(
    backend: str, weight: Tensor, gram: Tensor, first_count: int, last_count: int, **scoring: Any
) -> None:
    """The errors are those of the reference, in float64, but for float32's rounding of them and of their products.

    A product may be off by ``ROUNDINGS_ALLOWED`` rounding errors, so a difference of large products by more than one of
    small ones.
    """
    band = (first_count, last_count)
    got = row_error_curve(weight, gram, *band, **scoring, backend=backend)
    truth = row_error_curve(weight, gram, *band, **scoring, backend="reference")
    assert (got.dtype, got.shape) == (truth.dtype, truth.shape), f"row_error_curve: got {got.dtype} {list(got.shape)}"
    order = scores(weight, scoring.get("column_scale"), scoring.get("score"))
    products = row_error_curve(weight.abs(), gram.abs(), *band, score=order, check_values=False, backend="reference")
    rounding = torch.finfo(torch.float32).eps
    # A backend may flush subnormal products to zero.
    allowed = rounding * (truth.abs() + ROUNDINGS_ALLOWED * products) + torch.finfo(torch.float32).tiny
    _require_within("row_error_curve", got, truth, allowed)


def check_column_sqnorm(backend: str, acc: Tensor, x: Tensor, token_mask: Tensor | None = None) -> None:
    """The float64 sums are right but for their order, and rounded once. ``acc`` itself stays as it is."""
    got = _twin(acc)
    assert column_sqnorm_(got, x, token_mask=token_mask, backend=backend) is got, "column_sqnorm_: expected acc back"
    counted = _counted(x, token_mask)
    truth = acc.to(torch.float64) + counted.square().sum(0)
    summing = (len(counted) + 1) * torch.finfo(torch.float64).eps * (acc.to(torch.float64).abs() + truth.abs())
    allowed = summing + torch.finfo(acc.dtype).eps / 2 * truth.abs() + torch.finfo(acc.dtype).tiny
    _require_within("column_sqnorm_", got, truth, allowed)
    got.copy_(acc)
    _require_equal("column_sqnorm_ memory around acc", _bits(_memory(got)), _bits(_memory(acc)))


def check_gram(backend: str, acc: Tensor, x: Tensor, token_mask: Tensor | None = None) -> None:
    """The lower triangle is as near the truth as plain torch in float32 brings it, within a factor of two.

    Errors are counted in units of ``ROUNDINGS_ALLOWED`` rounding errors; on a GPU sqrt(tokens) if that is more, and
    of half precision one more for every ``PRODUCTS_AT_ONCE`` of at most ``PRODUCTS_IN_ALL`` tokens. Everything else
    keeps its bits, and ``acc`` itself stays as it is.
    """
    got = _twin(acc)
    assert gram_(got, x, token_mask=token_mask, backend=backend) is got, "gram_: expected acc back"
    counted, lower = _counted(x, token_mask), torch.ones_like(acc, dtype=torch.bool).tril()
    truth = acc.to(torch.float64) + counted.t() @ counted
    plain = acc + counted.t().to(torch.float32) @ counted.to(torch.float32)
    rounding = _rounding(x, x, len(counted))
    # A backend may flush subnormal products to zero.
    underflow = max(1, len(counted)) * torch.finfo(torch.float32).tiny
    unit = rounding * (acc.abs().to(torch.float64) + counted.abs().t() @ counted.abs()) + underflow
    plain_error = ((plain - truth).abs() / unit)[lower].max()
    _require_within("gram_", got[lower], truth[lower], max(1.0, 2 * float(plain_error)) * unit[lower])
    got.copy_(torch.where(lower, acc, got))
    _require_equal("gram_ memory around the lower triangle", _bits(_memory(got)), _bits(_memory(acc)))


def check_allocate_rows(
    backend: str, weight: Tensor, inputs: Tensor, sparsity: float, *, layer_metric: str = "cosine", **options: Any
) -> RowBudget:
    """The budget is feasible, as good as it says, and what the reference finds; returns it.

    With ``rounding="floor"`` the search must take the reference's path, and counts may be 1 apart on 1 % of the rows
    (or on one row), where two orders of summation straddle an integer. With "exact" neighbouring candidates are nearly
    equal in quality, and only the quality found is compared. Rows must not all be alike: then last bits decide.
    """
    options["layer_metric"] = layer_metric
    got = allocate_rows(weight, inputs, sparsity, **options, backend=backend)
    expected = allocate_rows(weight, inputs, sparsity, **options, backend="reference")
    _require_close("baseline_quality", got.baseline_quality, expected.baseline_quality)
    if options.get("rounding", "exact") == "floor":
        _require_same_path(got, expected)
        return got
    _require_exact(got, weight, sparsity, options.get("max_sparsity", 0.95))
    _require_close("quality", got.quality, expected.quality, tolerance=1e-3)
    if layer_metric in STATISTIC_METRICS:
        scoring = {name: options[name] for name in ("column_scale", "score") if name in options}
        quality = row_quality(weight, got.prune_count, inputs, **scoring, backend="reference")
        _require_close("quality at the returned counts", got.quality, STATISTIC_METRICS[layer_metric](quality))
    return got


def check_obs_update(backend: str, weight: Tensor, kept: Tensor, factor: Tensor) -> None:
    """Weights and errors are as near the truth as plain torch in float32 brings them, within a factor of two.

    Errors are counted in units of ``ROUNDINGS_ALLOWED`` rounding errors in all that is added up in a weight. What is
    pruned, and the error of what is kept, is exactly zero; the memory around the weight keeps its bits, and ``weight``
    itself stays as it is.
    """
    got, plain, truth = _twin(weight), weight.clone(), weight.to(torch.float64)
    got_errors = obs_update_(got, kept, factor, backend=backend)
    plain_errors = obs_update.obs_update_(plain, kept, factor)
    truth_errors = obs_update.obs_update_(truth, kept, factor.to(torch.float64))
    assert got_errors.shape == weight.shape, f"obs_update_: expected errors {weight.shape}, got {got_errors.shape}"
    _require_equal("obs_update_ pruned weights", got[~kept], torch.zeros_like(got[~kept]))
    _require_equal("obs_update_ errors of kept weights", got_errors[kept], torch.zeros_like(got[kept]))
    upper = factor.to(torch.float64).triu()
    rounding = ROUNDINGS_ALLOWED * torch.finfo(torch.float32).eps
    # A backend may flush subnormal products to zero.
    underflow = weight.shape[1] * torch.finfo(torch.float32).tiny
    unit = rounding * (weight.abs() + truth_errors.abs() @ upper.abs()) + underflow
    for name, result, of_plain, of_truth, scale in (
        ("weights", got, plain, truth, unit),
        ("errors", got_errors, plain_errors, truth_errors, unit / upper.diagonal()),
    ):
        plain_units = ((of_plain - of_truth).abs() / scale).nan_to_num(torch.inf)
        most = float(plain_units.max()) if plain_units.numel() else 0.0
        _require_within(f"obs_update_ {name}", result, of_truth, max(1.0, 2 * most) * scale)
    got.copy_(weight)
    _require_equal("obs_update_ memory around the weight", _bits(_memory(got)), _bits(_memory(weight)))


def check_pack_values(backend: str, weight: Tensor, kept: Tensor) -> None:
    """Values are equal, to the bit."""
    got = pack_values(weight, kept, backend=backend)
    _require_equal("pack_values", _bits(got), _bits(pack_values(weight, kept, backend="reference")))


def check_unpack_values(backend: str, values: Tensor, kept: Tensor, columns: int) -> None:
    """Weights are equal, to the bit, and contiguous."""
    got = unpack_values(values, kept, columns, backend=backend)
    assert got.is_contiguous(), "unpack_values: expected a contiguous weight"
    expected = unpack_values(values, kept, columns, backend="reference")
    _require_equal("unpack_values", _bits(got), _bits(expected))


def _require_same_path(got: RowBudget, expected: RowBudget) -> None:
    found = (got.learning_rate, got.iteration)
    wanted = (expected.learning_rate, expected.iteration)
    assert found == wanted, f"allocate_rows: expected (learning rate, iteration) {wanted}, got {found}"
    _require_close("quality", got.quality, expected.quality)
    apart = (got.prune_count - expected.prune_count).abs()
    differ = int((apart > 0).sum())
    assert not (apart > 1).any(), f"allocate_rows prune_count: expected at most 1 apart, got more in {_rows(apart > 1)}"
    allowed = max(1, apart.numel() // 100)
    assert differ <= allowed, f"allocate_rows prune_count: expected at most {allowed} rows to differ, got {differ}"


def _require_exact(got: RowBudget, weight: Tensor, sparsity: float, max_sparsity: float) -> None:
    rows, columns = weight.shape
    counts, total, cap = got.prune_count, total_count(rows, columns, sparsity), row_cap(columns, max_sparsity)
    assert counts.dtype == torch.int32, f"allocate_rows prune_count: expected int32, got {counts.dtype}"
    assert int(counts.sum()) == total, f"allocate_rows prune_count: expected the sum {total}, got {int(counts.sum())}"
    outside = (counts < 0) | (counts > cap)
    assert not outside.any(), f"allocate_rows prune_count: expected 0 to {cap}, got {_rows(outside)} outside"
    assert got.quality >= got.baseline_quality, (
        f"allocate_rows: expected no less than equal shares, {got.baseline_quality}, got {got.quality}"
    )


def _truth_and_units(weight: Tensor, dropped: Tensor, inputs: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Each statistic in float64, and what a small error in every output does to it; float64 [R]."""
    dense, tokens = weight.to(torch.float64), inputs.to(torch.float64)
    gone = dense.masked_fill(~dropped, 0)
    y, e = dense @ tokens, gone @ tokens
    rounding = _rounding(weight, inputs, weight.shape[1])
    # A backend may flush subnormal products to zero.
    underflow = weight.shape[1] * torch.finfo(torch.float32).tiny
    dy = rounding * (dense.abs() @ tokens.abs()) + underflow
    de = rounding * (gone.abs() @ tokens.abs()) + underflow
    return {
        "dense_sq": (y.square().sum(1), (2 * y.abs() * dy + dy.square()).sum(1)),
        "dropped_sq": (e.square().sum(1), (2 * e.abs() * de + de.square()).sum(1)),
        "cross": ((y * e).sum(1), (y.abs() * de + e.abs() * dy + dy * de).sum(1)),
        "peak": (y.square().amax(1), (2 * y.abs() * dy + dy.square()).amax(1)),
    }


def _rounding(factor: Tensor, other: Tensor, products: int) -> float:
    """What a sum of so many products may be off by, relative to that of their absolute values.

    On a GPU one thread may add all of them one after another: n roundings of at most eps / 2 each come to about
    sqrt(n) eps / 2 (Higham and Mary 2019, SIAM J. Sci. Comput. 41, A2815). Twice that is allowed, as the worst of
    millions of sums goes a little beyond it. On a CPU they are added in several lanes.
    """
    on_tensor_cores = factor.is_cuda and factor.dtype == other.dtype != torch.float32
    cut_off = min(products, PRODUCTS_IN_ALL) / PRODUCTS_AT_ONCE if on_tensor_cores else 0
    in_order = math.sqrt(products) if factor.is_cuda else 0
    return (max(ROUNDINGS_ALLOWED, in_order) + cut_off) * torch.finfo(torch.float32).eps


def _counted(x: Tensor, token_mask: Tensor | None) -> Tensor:
    """The tokens that count, in float64."""
    return (x if token_mask is None else x[token_mask]).to(torch.float64)


def _require_within(what: str, got: Tensor, truth: Tensor, allowed: Tensor) -> None:
    wrong = ~((got == truth.to(got.dtype)) | ((got - truth).abs() <= allowed))
    assert not wrong.any(), (
        f"{what}: {int(wrong.sum())} of {wrong.numel()} values are wrong, first at {wrong.nonzero()[0].tolist()}: "
        f"got {float(got[wrong][0])!r}, in float64 {float(truth[wrong][0])!r} +- {float(allowed[wrong][0]):.3g}"
    )


def _require_equal(what: str, got: Tensor, expected: Tensor) -> None:
    assert got.dtype == expected.dtype, f"{what}: expected {expected.dtype}, got {got.dtype}"
    assert got.shape == expected.shape, f"{what}: expected {list(expected.shape)}, got {list(got.shape)}"
    differs = got != expected
    if differs.any():
        position = tuple(differs.nonzero()[0].tolist())
        raise AssertionError(
            f"{what}: {int(differs.sum())} of {differs.numel()} values differ, first at {list(position)}: "
            f"expected {expected[position].item()}, got {got[position].item()}"
        )


def _require_close(what: str, got: float, expected: float, tolerance: float = 1e-4) -> None:
    same = got == expected or abs(got - expected) <= tolerance * max(abs(expected), 1e-6)
    assert same, f"allocate_rows {what}: expected {expected!r}, got {got!r}"


def _rows(where: Tensor) -> str:
    rows = where.nonzero().flatten().tolist()
    return f"rows {rows[:8]}{'...' if len(rows) > 8 else ''}"


def _memory(tensor: Tensor) -> Tensor:
    """All of the memory that a tensor is a view of, as a vector."""
    return torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(tensor.untyped_storage())


def _twin(tensor: Tensor) -> Tensor:
    """A copy with the strides and the surroundings of ``tensor``."""
    return _memory(tensor).clone().as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def _bits(tensor: Tensor) -> Tensor:
    """The values as integers, which tell NaNs and signed zeros apart."""
    return tensor.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])
