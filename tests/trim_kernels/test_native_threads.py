"""Results of the native backend do not depend on the number of threads."""

from __future__ import annotations

import pytest
import torch

import trim_kernels
from trim_kernels import testing

WEIGHT, INPUTS, COLUMN_SCALE = testing.heavy_tailed(131, 257, 40)
COUNTS = testing.mixed_counts(WEIGHT)
MASK = trim_kernels.row_mask(WEIGHT, COUNTS)
PACKED = trim_kernels.pack_bits(MASK)
OPTIONS = {"column_scale": COLUMN_SCALE, "backend": "cpu"}


def quality():
    found = trim_kernels.row_quality(WEIGHT, COUNTS, INPUTS, **OPTIONS)
    return torch.stack([found.dense_sq, found.dropped_sq, found.cross, found.peak])


def budget():
    found = trim_kernels.allocate_rows(WEIGHT, INPUTS, 0.6, **OPTIONS)
    return torch.tensor([*found.prune_count.tolist(), *(q for trial in found.trace for q in trial.quality)]).double()


def obs_update(rows=WEIGHT.shape[0]):
    weight, kept, factor = testing.elimination(rows, WEIGHT.shape[1])
    return torch.stack([trim_kernels.obs_update_(weight, kept, factor, backend="cpu"), weight])


CALLS = {
    "row_threshold": lambda: torch.stack(trim_kernels.row_threshold(WEIGHT, COUNTS, **OPTIONS)),
    "row_mask": lambda: trim_kernels.row_mask(WEIGHT, COUNTS, **OPTIONS),
    "packed row_mask": lambda: trim_kernels.row_mask(WEIGHT, COUNTS, packed=True, **OPTIONS),
    "prune_rows_": lambda: trim_kernels.prune_rows_(WEIGHT.clone(), COUNTS, **OPTIONS),
    "row_order": lambda: trim_kernels.row_order(WEIGHT, **OPTIONS),
    "obs_update_": obs_update,
    "obs_update_ of many rows": lambda: obs_update(300),
    "row_error_curve": lambda: trim_kernels.row_error_curve(WEIGHT, INPUTS @ INPUTS.t(), 100, 200, **OPTIONS),
    "pack_values": lambda: trim_kernels.pack_values(WEIGHT, PACKED, backend="cpu"),
    "unpack_values": lambda: trim_kernels.unpack_values(WEIGHT[MASK], PACKED, WEIGHT.shape[1], backend="cpu"),
    "row_quality": quality,
    "allocate_rows": budget,
}


@pytest.mark.usefixtures("instruction_set", "restored_threads")
@pytest.mark.parametrize("call", CALLS)
def test_one_and_two_threads_agree_to_the_bit(call):
    torch.set_num_threads(1)
    alone = CALLS[call]()
    for threads in (2, 3):
        torch.set_num_threads(threads)
        assert torch.equal(alone, CALLS[call]())
