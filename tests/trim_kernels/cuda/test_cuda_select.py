"""row_threshold, row_mask and prune_rows_ on the CUDA kernels: every nasty matrix, width and schedule."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import shutil
from pathlib import Path

import pytest
import torch
from cuda_on_cpu.build import build

from trim_kernels import cuda, prune_rows_, row_mask, row_threshold, testing

pytestmark = pytest.mark.usefixtures("cuda_on_cpu")
ROOT = Path(__file__).parents[3]
SELECTIONS = {
    "row_threshold": testing.check_row_threshold,
    "row_mask": testing.check_row_mask,
    "prune_rows_": testing.check_prune_rows,
}
WIDTHS = [1, 7, 8, 200, 2048, 2049, 5120, 5121, 8961, 13825, 16897, 29568]


@pytest.mark.parametrize("op", SELECTIONS)
@pytest.mark.parametrize("dtype", testing.DTYPES)
@pytest.mark.parametrize("matrix", testing.MATRICES)
def test_nasty_matrices(op, dtype, matrix, case):
    for layout, scoring in itertools.product(testing.LAYOUTS, testing.SCORINGS):
        weight = testing.nasty_matrix(matrix, testing.DTYPES[dtype], layout)
        with case(layout=layout, scoring=scoring):
            SELECTIONS[op]("cuda", weight, testing.mixed_counts(weight), **testing.SCORINGS[scoring](weight))


@pytest.mark.parametrize("ties", [False, True], ids=["no ties", "ties"])
@pytest.mark.parametrize("columns", WIDTHS)
def test_widths(columns, ties, case):
    weight = torch.randn(5, columns, generator=torch.Generator().manual_seed(columns))
    if ties:
        weight = weight.mul(2).round()
    scale = torch.ones(columns) if ties else torch.rand(columns, generator=torch.Generator().manual_seed(1))
    counts = torch.tensor([0, columns, 1 % (columns + 1), columns // 2, columns - 1], dtype=torch.int32)
    for op, check in SELECTIONS.items():
        with case(op=op):
            check("cuda", weight.bfloat16(), counts, column_scale=scale)


@pytest.mark.parametrize("dtype", testing.DTYPES)
def test_any_schedule(dtype, cuda_on_cpu):
    weight = testing.nasty_matrix("3x2049", testing.DTYPES[dtype]).mul(4).round()
    for seed in range(10):
        cuda_on_cpu.cuda_on_cpu_seed(seed)
        testing.check_row_mask("cuda", weight, testing.mixed_counts(weight))


@pytest.mark.parametrize("shared_bytes", [20_000, 232_448], ids=["re-read", "staged"])
def test_rows_wider_than_registers(shared_bytes, monkeypatch):
    monkeypatch.setenv("TRIM_SHIM_SHARED_BYTES", str(shared_bytes))
    weight = torch.randn(3, 33_000, generator=torch.Generator().manual_seed(3)).mul(8).round()
    for op in SELECTIONS.values():
        op("cuda", weight.half(), testing.mixed_counts(weight))


LONG = 66_001


@pytest.mark.parametrize("dtype", testing.DTYPES)
@pytest.mark.parametrize("ties", [False, True], ids=["no ties", "ties"])
@pytest.mark.parametrize("op", SELECTIONS)
def test_a_row_that_many_blocks_share(op, ties, dtype, case):
    generator = torch.Generator().manual_seed(5)
    weight = torch.randn(1, LONG, generator=generator)
    weight = (weight.mul(4).round() if ties else weight).to(testing.DTYPES[dtype])
    scorings = {
        "weights": {},
        "scale": {"column_scale": torch.rand(LONG, generator=generator)},
        "score": {"score": torch.rand(1, LONG, generator=generator).mul(8).floor()},
    }
    for count in (0, 1, LONG // 2, LONG - 1, LONG):
        for name, scoring in scorings.items():
            with case(count=count, scoring=name):
                assert cuda.size("row_select_scratch", *weight.shape, 0) > 0
                SELECTIONS[op]("cuda", weight.clone(), torch.tensor([count], dtype=torch.int32), **scoring)


@pytest.mark.parametrize("value", [0.0, 1.0, 3e38])
def test_a_long_row_of_equal_weights(value, case):
    weight = torch.full((1, LONG), value)
    for op, check in SELECTIONS.items():
        with case(op=op):
            check("cuda", weight.clone(), torch.tensor([LONG - 5], dtype=torch.int32))


def test_long_rows_do_not_mix(monkeypatch):
    monkeypatch.setenv("TRIM_SHIM_MULTIPROCESSORS", "8")
    weight = torch.randn(4, LONG, generator=torch.Generator().manual_seed(7)).mul(4).round()
    counts = torch.tensor([LONG, 5, LONG // 2, 0], dtype=torch.int32)
    assert cuda.size("row_select_scratch", *weight.shape, 0) > 0
    for op in SELECTIONS.values():
        op("cuda", weight.half(), counts)


def test_a_long_row_under_any_schedule(cuda_on_cpu):
    weight = torch.randn(1, 2 * LONG, generator=torch.Generator().manual_seed(6)).mul(4).round()[:, 1:-1:2]
    assert not weight.is_contiguous()
    for seed in range(4):
        cuda_on_cpu.cuda_on_cpu_seed(seed)
        testing.check_row_mask("cuda", weight, torch.tensor([LONG // 3], dtype=torch.int32))


def test_bad_values_of_a_long_row_are_named():
    weight = torch.zeros(1, LONG)
    weight[0, LONG - 1] = float("nan")
    with pytest.raises(ValueError, match=rf"^weight: expected finite values, got nan at \[0, {LONG - 1}\]"):
        row_mask(weight, 40, backend="cuda")
    with pytest.raises(ValueError, match=rf"^prune_count: expected values from 0 to {LONG}, got -1 at row 0"):
        row_mask(torch.zeros(1, LONG), torch.tensor([-1], dtype=torch.int32), backend="cuda")


def test_without_checks_bad_values_of_a_long_row_do_no_harm(monkeypatch):
    monkeypatch.setenv("TRIM_SHIM_MULTIPROCESSORS", "8")
    weight = torch.randn(4, LONG, generator=torch.Generator().manual_seed(8))
    counts = torch.tensor([100, -7, LONG + 5, 100], dtype=torch.int32)
    expected = row_mask(weight[:1], 100, backend="reference")
    weight[3, 5:9] = float("nan")
    mask = row_mask(weight, counts, check_values=False, backend="cuda")
    assert torch.equal(mask[:1], expected)
    assert (int(mask[1].sum()), int(mask[2].sum())) == (LONG, 0)


@pytest.mark.parametrize("op", SELECTIONS)
def test_long_rows_of_which_there_are_none(op):
    SELECTIONS[op]("cuda", torch.zeros(0, LONG), torch.zeros(0, dtype=torch.int32))


def test_without_checks_the_weight_is_pruned_in_one_pass():
    weight = testing.nasty_matrix("17x129", torch.bfloat16)
    counts = testing.mixed_counts(weight)
    expected = prune_rows_(weight.clone(), counts, backend="reference")
    assert torch.equal(prune_rows_(weight, counts, check_values=False, backend="cuda"), expected)


def test_without_checks_bad_values_do_no_harm_to_other_rows():
    weight = testing.nasty_matrix("17x129", torch.float32)
    counts = torch.full((17,), 40, dtype=torch.int32)
    expected = row_mask(weight, counts, backend="reference")
    weight[3, 5], counts[4], counts[5] = float("nan"), -7, 1_000_000
    mask = row_mask(weight, counts, check_values=False, backend="cuda")
    good = [row for row in range(17) if row not in (3, 4, 5)]
    assert torch.equal(mask[good], expected[good])


@pytest.mark.parametrize("op", [row_mask, row_threshold, prune_rows_])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")], ids=str)
def test_a_bad_weight_is_named_and_nothing_is_written(op, bad):
    weight = testing.nasty_matrix("17x129", torch.bfloat16)
    weight[16, 128] = bad
    before = weight.clone()
    with pytest.raises(ValueError, match=rf"^weight: expected finite values, got {bad} at \[16, 128\]"):
        op(weight, 40, column_scale=torch.zeros(129), backend="cuda")
    assert torch.equal(weight.nan_to_num(), before.nan_to_num())


def test_a_bad_count_is_named():
    counts = torch.tensor([0, 8, 7], dtype=torch.int32)
    with pytest.raises(ValueError, match=r"^prune_count: expected values from 0 to 7, got 8 at row 1$"):
        row_mask(testing.nasty_matrix("3x7", torch.float32), counts, backend="cuda")


def test_a_barrier_taken_out_of_the_kernel_is_noticed(tmp_path, monkeypatch):
    for path in (ROOT / "csrc" / "cuda").iterdir():
        if path.is_file():
            shutil.copy(path, tmp_path)
    scan = tmp_path / "block_scan.cuh"
    whole = scan.read_text(encoding="utf-8")
    assert whole.count("__syncthreads();") == 1
    scan.write_text(whole.replace("__syncthreads();", ""), encoding="utf-8")
    sources = [tmp_path / name for name in ("library.cu", "row_select.cu")]
    broken = ctypes.CDLL(str(build(sources, tmp_path / "broken" / "libtrim_kernels_cuda.so")))
    broken.tk_cuda_row_select.argtypes = cuda._loaded().tk_cuda_row_select.argtypes
    monkeypatch.setattr(cuda._loaded(), "tk_cuda_row_select", broken.tk_cuda_row_select)
    weight = testing.nasty_matrix("3x2049", torch.float32)
    expected = row_mask(weight, 700, backend="reference")
    right = 0
    for seed in range(20):
        broken.cuda_on_cpu_seed(seed)
        with contextlib.suppress(RuntimeError):  # a report of the scheduler
            right += torch.equal(row_mask(weight, 700, check_values=False, backend="cuda"), expected)
    assert right < 20
