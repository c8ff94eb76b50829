"""Compile every Triton kernel without a GPU, for each architecture, and say what the machine code needs.

    python tests/trim_kernels/triton/ahead_of_time.py             prints the table as JSON
    python tests/trim_kernels/triton/ahead_of_time.py --rewrite   makes it resources.json, after a change of a kernel

``TRITON_INTERPRET`` must not be set. Triton brings its own assembler.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from trim_kernels.ops.allocate_rows.triton_kernels import look_up_thresholds
from trim_kernels.ops.column_sqnorm import triton as column_sqnorm
from trim_kernels.ops.column_sqnorm.triton_kernels import sum_squares
from trim_kernels.ops.gram import triton as gram
from trim_kernels.ops.gram.triton_kernels import add_gram_tile
from trim_kernels.ops.nm_mask import triton as nm_mask
from trim_kernels.ops.nm_mask import triton_kernels as groups
from trim_kernels.ops.obs_update import blocks
from trim_kernels.ops.obs_update import triton as obs_update
from trim_kernels.ops.obs_update.triton_kernels import eliminate_block
from trim_kernels.ops.pack_values import triton as pack_values
from trim_kernels.ops.pack_values.triton_kernels import count_row, move_row
from trim_kernels.ops.row_error_curve import triton as row_error_curve
from trim_kernels.ops.row_error_curve.triton_kernels import sum_before
from trim_kernels.ops.row_order import triton as row_order
from trim_kernels.ops.row_order.triton_kernels import order_row
from trim_kernels.ops.row_quality import triton as row_quality
from trim_kernels.ops.row_quality.triton_kernels import product_statistics
from trim_kernels.ops.row_threshold import triton as row_threshold
from trim_kernels.ops.row_threshold import triton_kernels as selection

RESOURCES = Path(__file__).with_name("resources.json")
ARCHITECTURES = (80, 90, 100)
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
SCORED = {"weight": "*i16", "column_scale": "*fp32", "score": "*fp32"}
STRIDES = {"weight_row": "i64", "weight_column": 1, "score_row": "i64", "score_column": 1}
COUNTED = ("HGMMA", "HMMA", "UTCHMMA", "LDG.E.128", "LDGSTS.E.BYPASS.128", "STG.E.128")
"""Tensor cores of Hopper, of Ampere and of Blackwell; 16-byte loads, copies to shared memory and stores."""


@dataclass(frozen=True)
class Job:
    """One kernel with the types and constants of a realistic call."""

    name: str
    kernel: Any
    arguments: Mapping[str, str | int]
    """A type, for what is known when the kernel runs, or a constant."""
    warps: int
    stages: int = 3
    unaligned: frozenset[str] = field(default_factory=frozenset)

    def compiled(self, architecture: int) -> triton.compiler.CompiledKernel:
        names = self.kernel.arg_names
        unknown = set(self.arguments) ^ set(names)
        assert not unknown, f"{self.name}: {sorted(unknown)} are not the kernel's arguments"
        types = {n: v if isinstance(v := self.arguments[n], str) else "constexpr" for n in names}
        constants = {(i,): self.arguments[n] for i, n in enumerate(names) if types[n] == "constexpr"}
        # Pointers, strides and widths are multiples of 16 in the layers of language models.
        aligned = {
            (i,): [["tt.divisibility", 16]]
            for i, n in enumerate(names)
            if types[n] != "constexpr" and n not in self.unaligned
        }
        return triton.compile(
            ASTSource(self.kernel, types, constants, aligned),
            target=GPUTarget("cuda", architecture, 32),
            options={"num_warps": self.warps, "num_stages": self.stages},
        )


def selection_job(name: str, columns: int, output: int, scoring: int = 1, check: bool = False) -> Job:
    block = max(16, row_threshold.common.power_of_two(columns))
    return Job(
        name,
        selection.select_row,
        {
            **SCORED,
            **STRIDES,
            "prune_count": "*i32",
            "threshold_key": "*i32",
            "threshold_column": "*i32",
            "out": "*i16" if output == selection.IN_PLACE.value else "*u8",
            "flag": "*i32",
            "width": "i32" if columns > 1 else 1,  # Triton takes a 1 for a constant
            "out_row": "i64",
            "out_column": 1,
            "SCORING": scoring,
            "ZERO_BITS": 0 if scoring else 16,
            "OUTPUT": output,
            "CHECK": check,
            "BLOCK": block,
            "CHUNK": row_threshold.select_chunk(block),
        },
        row_threshold.select_warps(block),
    )


def product_job(
    name: str, dropped: bool, tile: row_quality.Tile, scoring: int = 1, dtype: str = "*i16", stretch: int = 0
) -> Job:
    return Job(
        name,
        product_statistics,
        {
            **SCORED,
            **STRIDES,
            "weight": dtype,
            "inputs": dtype,
            "threshold_key": "*i32",
            "threshold_column": "*i32",
            "dense": "*fp32",
            "square": "*fp64",
            "other": "*fp64",
            "rows": "i32",
            "width": "i32",
            "tokens": "i32",
            "chains": "i32",
            "inputs_row": "i64",
            "inputs_column": 1,
            "SCORING": scoring,
            "DROPPED": dropped,
            "NATIVE": dtype != "*fp32",
            "STRETCH": stretch,
            "BLOCK_ROWS": tile.rows,
            "BLOCK_TOKENS": tile.tokens,
            "BLOCK_COLUMNS": tile.columns,
        },
        tile.warps,
        tile.stages,
        unaligned=frozenset({"chains", "rows"}),
    )


def group_job(name: str, keep: int, of: int, output: int) -> Job:
    lanes = nm_mask.common.power_of_two(of)
    return Job(
        f"select_in_groups {name}",
        groups.select_in_groups,
        {
            **SCORED,
            **STRIDES,
            "out": "*i16" if output == groups.IN_PLACE.value else "*u8",
            "flag": "*i32",
            "width": "i32",
            "out_row": "i64",
            "out_column": 1,
            "KEEP": keep,
            "OF": of,
            "SCORING": 1,
            "OUTPUT": output,
            "CHECK": output != groups.IN_PLACE.value,
            "GROUPS": nm_mask.groups_per_program(lanes, 5120),
            "LANES": lanes,
        },
        warps=4,
    )


def gram_job() -> Job:
    return Job(
        "add_gram_tile float32, masked",
        add_gram_tile,
        {
            "acc": "*fp32",
            "x": "*fp32",
            "token_mask": "*u8",
            "tokens": "i32",
            "width": "i32",
            "acc_row": "i64",
            "acc_column": 1,
            "x_row": "i64",
            "x_column": 1,
            "MASKED": True,
            "BLOCK": gram.COLUMNS,
            "BLOCK_TOKENS": gram.TOKENS,
        },
        gram.WARPS,
        gram.STAGES,
    )


def elimination_job() -> Job:
    places = [f"{name}_{axis}" for name in ("weight", "kept", "factor", "errors") for axis in ("row", "column")]
    return Job(
        "eliminate_block",
        eliminate_block,
        {
            "weight": "*fp32",
            "kept": "*u8",
            "factor": "*fp32",
            "errors": "*fp32",
            "rows": "i32",
            "width": "i32",
            **{place: 1 if place.endswith("column") else "i64" for place in places},
            "ROWS": obs_update.ROWS,
            "BLOCK": blocks.BLOCK,
        },
        obs_update.WARPS,
        unaligned=frozenset({"rows"}),
    )


def packing_job(name: str, pack: bool) -> Job:
    return Job(
        name,
        move_row,
        {
            "weight": "*i16",
            "kept": "*u8",
            "values": "*i16",
            "starts": "*i64",
            "width": "i32",
            "bytes_of_row": "i32",
            "weight_row": "i64",
            "weight_column": 1,
            "PACK": pack,
            "BLOCK": pack_values.BLOCK,
        },
        pack_values.WARPS,
    )


def jobs(architecture: int) -> Iterator[Job]:
    """Every kernel as it runs on an architecture."""
    capability = divmod(architecture, 10)
    for columns in (5120, 8192, 13824, 29568):
        yield selection_job(f"select_row packed {columns}", columns, selection.PACKED_MASK.value)
    yield selection_job("select_row mask 1", 1, selection.MASK.value)
    yield selection_job("select_row in place 13824", 13824, selection.IN_PLACE.value)
    yield selection_job("select_row in place 29568", 29568, selection.IN_PLACE.value)
    yield selection_job("select_row mask 5120, checked", 5120, selection.MASK.value, check=True)
    yield selection_job("select_row threshold 29568, checked", 29568, selection.THRESHOLD.value, check=True)
    yield Job(
        "select_wide_row",
        selection.select_wide_row,
        {
            **SCORED,
            **STRIDES,
            "prune_count": "*i32",
            "threshold_key": "*i32",
            "threshold_column": "*i32",
            "flag": "*i32",
            "width": "i32",
            "SCORING": 1,
            "CHECK": True,
            "BLOCK": row_threshold.WIDE_BLOCK,
        },
        row_threshold.WIDE_WARPS,
    )
    yield Job(
        "apply_threshold in place",
        selection.apply_threshold,
        {
            **SCORED,
            **STRIDES,
            "threshold_key": "*i32",
            "threshold_column": "*i32",
            "out": "*i16",
            "width": "i32",
            "out_row": "i64",
            "out_column": 1,
            "SCORING": 1,
            "OUTPUT": selection.IN_PLACE.value,
            "BLOCK": row_threshold.APPLY_BLOCK,
        },
        warps=4,
    )
    yield Job(
        "order_row",
        order_row,
        {
            **SCORED,
            **STRIDES,
            "order": "*i32",
            "spare": "*i32",
            "flag": "*i32",
            "width": "i32",
            "SCORING": 1,
            "FIRST_BIT": 0,
            "CHECK": True,
            "BLOCK": row_order.BLOCK,
        },
        row_order.WARPS,
    )
    yield Job(
        "look_up_thresholds",
        look_up_thresholds,
        {
            **SCORED,
            **STRIDES,
            "order": "*i32",
            "prune_count": "*i32",
            "threshold_key": "*i32",
            "threshold_column": "*i32",
            "rows": "i32",
            "width": "i32",
            "SCORING": 1,
            "BLOCK": 128,
        },
        warps=4,
    )
    tile = row_quality.native_tile(capability, 256)
    yield product_job("product_statistics dense bfloat16", False, tile, scoring=0)
    yield product_job("product_statistics dropped bfloat16", True, tile)
    yield product_job(
        "product_statistics dropped float16, 128 tokens", True, row_quality.native_tile(capability, 128), dtype="*fp16"
    )
    yield product_job(
        "product_statistics dropped bfloat16, wide rows",
        True,
        row_quality.native_tile(capability, 256, stretches=True),
        stretch=row_quality.STRETCH,
    )
    yield product_job("product_statistics dropped bfloat16, score", True, tile, scoring=2)
    yield product_job("product_statistics dense float32", False, row_quality.FLOAT32_TILE, 0, "*fp32")
    yield product_job("product_statistics dropped float32", True, row_quality.FLOAT32_TILE, dtype="*fp32")
    for keep, of, output in (
        (2, 4, groups.IN_PLACE),
        (4, 8, groups.PACKED_MASK),
        (8, 16, groups.IN_PLACE),
        (16, 32, groups.PACKED_MASK),
        (3, 5, groups.MASK),
    ):
        yield group_job(f"{keep} of {of}", keep, of, output.value)
    yield group_job("ranks of 8", 0, 8, groups.RANK.value)
    yield Job(
        "sum_squares",
        sum_squares,
        {
            "x": "*i16",
            "token_mask": "*u8",
            "partial": "*fp64",
            "tokens": "i32",
            "width": "i32",
            "tokens_per_part": "i32",
            "x_row": "i64",
            "x_column": 1,
            "MASKED": True,
            "BLOCK_TOKENS": column_sqnorm.BLOCK_TOKENS,
            "BLOCK_COLUMNS": column_sqnorm.BLOCK_COLUMNS,
        },
        warps=4,
    )
    yield Job(
        "sum_before float32",
        sum_before,
        {
            "values": "*fp32",
            "rank": "*i32",
            "gram": "*fp32",
            "sums": "*fp64",
            "rows": "i32",
            "width": "i32",
            "DEPTH": row_error_curve.DEPTH,
            "BLOCK_ROWS": row_error_curve.BLOCK_ROWS,
            "BLOCK_COLUMNS": row_error_curve.BLOCK_COLUMNS,
        },
        row_error_curve.WARPS,
    )
    yield gram_job()
    yield elimination_job()
    yield Job(
        "count_row",
        count_row,
        {"kept": "*u8", "counts": "*i64", "width": "i32", "bytes_of_row": "i32", "BLOCK": pack_values.BLOCK},
        pack_values.WARPS,
    )
    yield packing_job("move_row to values", pack=True)
    yield packing_job("move_row to weights", pack=False)


def resources(job: Job, architecture: int) -> dict[str, Any]:
    """Registers, bytes of stack and shared memory of a thread block, and how often some instructions occur."""
    kernel = job.compiled(architecture)
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(kernel.asm["cubin"])
        usage = _tool("cuobjdump", "-res-usage", cubin)
        code = _tool("cuobjdump", "-sass", cubin)
    found = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    return {
        "registers": found["REG"],
        "spilled": found["STACK"] + found["LOCAL"],
        "shared": kernel.metadata.shared,
        "instructions": len(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+\S", code, re.MULTILINE)),
        **{name: count for name in COUNTED if (count := len(re.findall(rf"\b{re.escape(name)}\b", code)))},
    }


def _tool(name: str, *arguments: object) -> str:
    command = [str(TOOLS / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def table(only: str = "", architectures: tuple[int, ...] = ARCHITECTURES) -> dict[str, Any]:
    """The resources of every job on every architecture, and the Triton version they hold for."""
    wanted = [(job, architecture) for architecture in architectures for job in jobs(architecture) if only in job.name]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda case: resources(*case), wanted))
    kernels: dict[str, dict[str, Any]] = {}
    for (job, architecture), needs in zip(wanted, found, strict=True):
        kernels.setdefault(job.name, {})[f"sm_{architecture}"] = needs
    return {"triton": triton.__version__, "kernels": kernels}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rewrite", action="store_true", help="write resources.json")
    parser.add_argument("--only", default="", help="kernels whose name holds this")
    arguments = parser.parse_args()
    text = json.dumps(table(arguments.only), indent=1) + "\n"
    text = re.sub(r"\{\s+([^{}]*?)\s+\}", lambda found: "{" + re.sub(r"\s+", " ", found[1]) + "}", text)
    if arguments.rewrite:
        RESOURCES.write_text(text)
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
