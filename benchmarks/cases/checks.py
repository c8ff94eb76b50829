"""When a result passes."""

from __future__ import annotations

import torch
from torch import Tensor

from trim_kernels import RowBudget, pack_bits


def equal(result: object, expected: object) -> None:
    torch.testing.assert_close(result, expected, rtol=0, atol=0)


def equal_masks(result: object, expected: object) -> None:
    """A mask of bools passes for packed ones: plain torch has none."""
    assert isinstance(result, Tensor)
    assert isinstance(expected, Tensor)
    packed = expected.dtype == torch.uint8 and result.dtype == torch.bool
    equal(pack_bits(result) if packed else result, expected)


def equal_but_for_ties(result: object, expected: object) -> None:
    """As :func:`equal_masks`, or weights kept, but for one in 10,000: topk takes any of equal scores."""
    assert isinstance(result, Tensor)
    assert isinstance(expected, Tensor)
    packed = expected.dtype == torch.uint8 and result.dtype == torch.bool
    differing = float(((pack_bits(result) if packed else result) != expected).double().mean())
    assert differing <= 1e-4, f"{differing:.2%} of the values differ"


def close_statistics(result: object, expected: object) -> None:
    """Within 1e-4 of the first of them, the squared norm of the row's output."""
    assert isinstance(result, tuple)
    assert isinstance(expected, tuple)
    for got, wanted in zip(result, expected, strict=True):
        error = float(((got - wanted).abs() / expected[0]).max())
        assert error <= 1e-4, f"a statistic is off by {error:.1e} of the squared norm"


def close_sums(result: object, expected: object) -> None:
    """Each within 1e-6 of itself."""
    torch.testing.assert_close(result, expected, rtol=1e-6, atol=0)


def roughly_close_sums(result: object, expected: object) -> None:
    """Each within 1e-5 of itself, for sums in float32."""
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=0)


def close_gram(result: object, expected: object) -> None:
    """Lower triangle within 1e-5 of the norms of its two columns, upper triangle equal."""
    assert isinstance(result, Tensor)
    assert isinstance(expected, Tensor)
    norms = expected.diagonal().clamp(min=torch.finfo(torch.float32).tiny).sqrt()
    error = 0.0
    for start in range(0, expected.shape[0], 4096):  # whole, the differences would take twice the memory of the result
        rows = slice(start, start + 4096)
        relative = (result[rows] - expected[rows]).div_(norms[rows, None]).div_(norms)
        error = max(error, float(relative.abs_().nan_to_num(torch.inf).max()))
    assert error <= 1e-5, f"a product is off by {error:.1e} of the norms"


def close_updates(result: object, expected: object) -> None:
    """Weights and errors each within 1e-5 of their norm; what is pruned is zero."""
    assert isinstance(result, tuple)
    assert isinstance(expected, tuple)
    for got, wanted in zip(result, expected, strict=True):
        error = float((got - wanted).norm() / wanted.norm())
        assert error <= 1e-5, f"the difference is {error:.1e} of the norm"
        assert bool((got[wanted == 0] == 0).all()), "what should be zero is not"


def same_counts(result: object, expected: object) -> None:
    """Equal but for rows where two orders of float32 summation straddle an integer.

    Tensor cores cut off what they add up, and each step of the search goes on from there: on a GPU a count may differ
    by 0.5%, all together by 0.1%, and the quality by 0.1%.
    """
    counts = result.prune_count if isinstance(result, RowBudget) else result
    assert isinstance(counts, Tensor)
    assert isinstance(expected, RowBudget)
    difference = (counts - expected.prune_count).abs()
    if counts.is_cuda:
        beyond = difference > 1 + 0.005 * expected.prune_count
        assert not beyond.any(), f"counts differ by up to {int(difference.max())}"
        mean = float(difference.sum() / expected.prune_count.sum())
        assert mean < 1e-3, f"counts differ by {mean:.1e} of themselves in all"
        if isinstance(result, RowBudget):
            _same_quality(result, expected)
        return
    differing = float((difference > 0).double().mean())
    assert int(difference.max()) <= 1, f"counts differ by up to {int(difference.max())}"
    assert differing < 0.01, f"counts differ in {differing:.2%} of the rows"


def same_total_and_quality(result: object, expected: object) -> None:
    """Neighbouring budgets are nearly equal in quality: the total must be exact, the quality within 0.1%."""
    assert isinstance(result, RowBudget)
    assert isinstance(expected, RowBudget)
    total, wanted = int(result.prune_count.sum()), int(expected.prune_count.sum())
    assert total == wanted, f"expected {wanted} weights to go, got {total}"
    _same_quality(result, expected)


def _same_quality(result: RowBudget, expected: RowBudget) -> None:
    error = abs(result.quality - expected.quality) / abs(expected.quality)
    assert error <= 1e-3, f"the quality is off by {error:.1e}"
