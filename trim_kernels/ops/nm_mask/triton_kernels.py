"""Keep n of m: the rank of every weight in its group, by comparing all with all in registers."""

# mypy: ignore-errors
# ruff: noqa: N803

import triton
import triton.language as tl

from trim_kernels.triton_kernels import load_keys, packed_bits, report

NOTHING = tl.constexpr(0)
MASK = tl.constexpr(1)
PACKED_MASK = tl.constexpr(2)
IN_PLACE = tl.constexpr(3)
RANK = tl.constexpr(4)


@triton.jit
def select_in_groups(
    weight,
    column_scale,
    score,
    out,
    flag,
    width,
    weight_row,
    weight_column,
    score_row,
    score_column,
    out_row,
    out_column,
    KEEP: tl.constexpr,
    OF: tl.constexpr,
    SCORING: tl.constexpr,
    OUTPUT: tl.constexpr,
    CHECK: tl.constexpr,
    GROUPS: tl.constexpr,
    LANES: tl.constexpr,
):
    """``GROUPS`` groups of one row: a weight stays iff ``rank < ceil(KEEP * size / OF)`` in its group.

    ``rank = how many weights of the group come after it by (key, column)``; ``size = OF``, less in the last group.
    A group takes ``LANES`` lanes, the next power of two.
    """
    BLOCK: tl.constexpr = GROUPS * LANES  # noqa: N806
    row = tl.program_id(0).to(tl.int64)
    first_group = tl.program_id(1) * GROUPS
    lanes = tl.arange(0, BLOCK)
    if OF == LANES:
        columns = first_group * OF + lanes
        inside = columns < width
    else:
        columns = (first_group + lanes // LANES) * OF + lanes % LANES
        inside = (columns < width) & (lanes % LANES < OF)
    offsets = columns.to(tl.int64)
    keys, bad = load_keys(
        weight + row * weight_row + offsets * weight_column,
        column_scale + columns,
        score + row * score_row + offsets * score_column,
        inside,
        inside,
        SCORING,
        CHECK,
    )
    if CHECK:
        report(bad & inside, flag)
    if OUTPUT != NOTHING:
        grouped = tl.reshape(keys, (GROUPS, LANES))
        mine, others = grouped[:, :, None], grouped[:, None, :]
        lane = tl.arange(0, LANES)
        lower_column = lane[None, None, :] < lane[None, :, None]
        before = tl.sum(((others < mine) | ((others == mine) & lower_column)).to(tl.int32), axis=2)
        size = tl.minimum(width - (first_group + tl.arange(0, GROUPS)) * OF, OF)[:, None]
        rank = size - 1 - before
        stays = tl.reshape((rank < (KEEP * size + OF - 1) // OF).to(tl.int32), (BLOCK,)) != 0
        if OUTPUT == RANK:
            tl.store(out + row * out_row + columns, tl.reshape(rank, (BLOCK,)).to(tl.uint8), mask=inside)
        if OUTPUT == MASK:
            tl.store(out + row * out_row + columns, stays.to(tl.uint8), mask=inside)
        if OUTPUT == PACKED_MASK:
            place = first_group * OF // 8 + tl.arange(0, BLOCK // 8)
            tl.store(out + row * out_row + place, packed_bits(stays & inside, BLOCK), mask=place < (width + 7) // 8)
        if OUTPUT == IN_PLACE:
            pointers = out + row * out_row + offsets * out_column
            tl.store(pointers, tl.where(stays, tl.load(pointers, mask=inside, other=0), 0), mask=inside)
