"""Triton functions that the kernels share: keys of scores, and the search for a row's threshold.

``key(i, j)`` is the float32 bits of ``abs(weight[i, j]) * abs(column_scale[j])``, of ``abs(score[i, j])`` or of
``abs(weight[i, j])``, as an int32, which is never negative and ordered as the scores are.
"""

# mypy: ignore-errors
# ruff: noqa: N803

import triton
import triton.language as tl

KEY_MAX = tl.constexpr(2**31 - 1)
KEY_INFINITY = tl.constexpr(0x7F800000)
"""Largest key that a score has: a product that overflowed."""
MAGNITUDE = tl.constexpr(0)
COLUMN_SCALE = tl.constexpr(1)
SCORE = tl.constexpr(2)


@triton.jit
def as_float32(loaded):
    """What was loaded, as float32; int16 are bits of bfloat16, which Triton's interpreter would not convert right."""
    if loaded.dtype == tl.int16:
        value = (loaded.to(tl.int32) << 16).to(tl.float32, bitcast=True)
    else:
        value = loaded.to(tl.float32)
    return value


@triton.jit
def load_keys(weight, column_scale, score, inside, inside_scale, SCORING: tl.constexpr, CHECK: tl.constexpr):
    """Keys behind the pointers, ``KEY_MAX`` outside, and where a value is bad (looked for with ``CHECK`` only)."""
    bad = ~inside & inside
    if CHECK or SCORING != SCORE:
        magnitude = tl.abs(as_float32(tl.load(weight, mask=inside, other=0)))
        if CHECK:
            bad = ~(magnitude < float("inf"))
    if SCORING == SCORE:
        value = tl.load(score, mask=inside, other=0)
        if CHECK:
            bad = bad | ~((value >= 0) & (value < float("inf")))
        magnitude = tl.abs(value)
    if SCORING == COLUMN_SCALE:
        scale = tl.load(column_scale, mask=inside_scale, other=0)
        if CHECK:
            bad = bad | ~((scale >= 0) & (scale < float("inf")))
        # A scale of -0.0 passes for 0; its sign must not reach the key.
        magnitude = magnitude * tl.abs(scale)
    return tl.where(inside, magnitude.to(tl.int32, bitcast=True), KEY_MAX), bad


@triton.jit
def report(bad, flag):
    """Set the flag if any value is bad; all programs write the same."""
    tl.store(flag, 1, mask=tl.max(bad.to(tl.int32)) != 0)


@triton.jit
def goes(keys, columns, key, column):
    """Whether weights are pruned: (their key, their column) comes before the row's threshold."""
    return (keys < key) | ((keys == key) & (columns < column))


@triton.jit
def next_pivot(low, high, below_low, below_high, rank, step):
    """A value between ``low`` and ``high``, both excluded.

    By turns where ``rank`` lies if values are spread evenly, which converges fast, and the middle, which always does.
    """
    span = high - low
    even = (rank - below_low + 0.5) / (below_high - below_low)
    share = tl.where(step % 2 == 0, tl.minimum(even, 0.99), 0.5)
    return low + tl.minimum(tl.maximum((span * share).to(tl.int32), 1), span - 1)


@triton.jit
def narrowed(low, high, below_low, below_high, rank, pivot, below):
    """The bounds, and how many values are below each, after ``below`` values were found below ``pivot``."""
    lower = below <= rank
    return (
        tl.where(lower, pivot, low),
        tl.where(lower, high, pivot),
        tl.where(lower, below, below_low),
        tl.where(lower, below_high, below),
    )


@triton.jit
def value_of_rank(values, rank, number, high):
    """The value that has ``rank`` others before it in ascending order, how many are less, and how many are equal.

    ``values`` are int32 >= 0 in registers; ``number`` of them are below ``high`` and count. The number of equals is
    right where it matters, when rank is more than the number of lesser ones.
    """
    low = tl.full([], 0, tl.int32)
    below_low = tl.full([], 0, tl.int32)
    # A width of 1 is compiled in as a constant, which a loop could not carry.
    high = low + high
    below_high = low + number
    step = tl.full([], 0, tl.int32)
    while (high - low > 1) & (below_low != rank):
        pivot = next_pivot(low, high, below_low, below_high, rank, step)
        below = tl.sum((values < pivot).to(tl.int32))
        low, high, below_low, below_high = narrowed(low, high, below_low, below_high, rank, pivot, below)
        step += 1
    return tl.min(tl.where(values >= low, values, KEY_MAX)), below_low, below_high - below_low


@triton.jit
def threshold_of_keys(keys, columns, prune_count, width, ZERO_BITS: tl.constexpr):
    """Row threshold (key, column) of keys in registers; their lowest ``ZERO_BITS`` bits are zero."""
    rank = tl.minimum(tl.maximum(prune_count, 0), width - 1)
    highest = tl.full([], (KEY_INFINITY >> ZERO_BITS) + 1, tl.int32)
    key, below, equal = value_of_rank(keys >> ZERO_BITS, rank, width, highest)
    key = key << ZERO_BITS
    ties = tl.where(keys == key, columns, KEY_MAX)
    column, _, _ = value_of_rank(ties, rank - below, equal, width)
    nothing_stays = prune_count >= width
    return tl.where(nothing_stays, KEY_MAX, key), tl.where(nothing_stays, width, column)


@triton.jit
def packed_bits(keep, BLOCK: tl.constexpr):
    """``BLOCK`` truth values as ``BLOCK // 8`` bytes, the first in the lowest bit."""
    bits = tl.reshape(keep.to(tl.int32), (BLOCK // 8, 8))
    return tl.sum(bits << tl.arange(0, 8)[None, :], axis=1).to(tl.uint8)
