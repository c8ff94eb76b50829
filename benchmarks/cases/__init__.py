"""Each operation that is measured."""

from __future__ import annotations

from typing import Any

from benchmarks.cases.activations import COLUMN_SQNORM, GRAM
from benchmarks.cases.case import Case
from benchmarks.cases.curves import ROW_ERROR_CURVE
from benchmarks.cases.elimination import OBS_UPDATE
from benchmarks.cases.groups import NM_MASK, NM_RANK, PRUNE_2_OF_4, PRUNE_4_OF_8
from benchmarks.cases.packing import PACK_VALUES, UNPACK_VALUES
from benchmarks.cases.quality import ALLOCATE_ROWS, ALLOCATE_ROWS_EXACT, ROW_QUALITY
from benchmarks.cases.rows import (
    PRUNE_ROWS,
    ROW_MASK,
    ROW_MASK_OF_ALL,
    ROW_MASK_PACKED,
    ROW_ORDER,
    ROW_THRESHOLD,
)

__all__ = ["CASES", "HEADLINES", "Case"]

HEADLINES: tuple[Case[Any], ...] = (
    ROW_MASK_PACKED,
    PRUNE_ROWS,
    PRUNE_2_OF_4,
    ROW_QUALITY,
    GRAM,
    COLUMN_SQNORM,
    ALLOCATE_ROWS,
)
"""The figures to have when there is time for few."""

CASES: tuple[Case[Any], ...] = (
    *HEADLINES,
    NM_MASK,
    NM_RANK,
    PRUNE_4_OF_8,
    ROW_ORDER,
    ROW_THRESHOLD,
    ROW_MASK,
    ROW_MASK_OF_ALL,
    ALLOCATE_ROWS_EXACT,
    OBS_UPDATE,
    ROW_ERROR_CURVE,
    PACK_VALUES,
    UNPACK_VALUES,
)
"""All, the most important first."""
