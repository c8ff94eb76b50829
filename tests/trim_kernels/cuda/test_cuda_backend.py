"""When the CUDA backend runs, and what it says when it does not."""

from __future__ import annotations

import importlib
import re

import pytest
import torch

import trim_kernels
from trim_kernels import cuda, testing

OPS = [
    "row_threshold",
    "row_mask",
    "prune_rows_",
    "row_order",
    "row_quality",
    "allocate_rows",
    "nm_rank",
    "nm_mask",
    "prune_nm_",
]
LARGE, SMALL = torch.ones(64, 64), torch.ones(63, 65)[:, :64]


@pytest.fixture
def no_library(monkeypatch, tmp_path):
    monkeypatch.setattr(cuda, "LIBRARY", tmp_path / "libtrim_kernels_cuda.so")
    monkeypatch.setattr(cuda, "DEVICE", "cpu")
    cuda._load.cache_clear()
    yield
    cuda._load.cache_clear()


@pytest.mark.usefixtures("cuda_on_cpu")
@pytest.mark.parametrize("op", [*OPS, "column_sqnorm_", "gram_"])
def test_auto_takes_cuda_where_it_can(op):
    assert trim_kernels.explain(op, LARGE) == f"{op}: cuda"


@pytest.mark.usefixtures("cuda_on_cpu")
@pytest.mark.parametrize("op", [op for op in [*OPS, "column_sqnorm_", "gram_"] if op != "allocate_rows"])
def test_auto_leaves_small_tensors_to_plain_torch_and_says_so(op, monkeypatch):
    for module in ("triton", "native"):
        module = importlib.import_module(f"trim_kernels.ops.{op.removesuffix('_')}.{module}")
        refusal = None if module.__name__.endswith("triton") else "the weight is on a GPU"
        monkeypatch.setattr(module, "refusal", lambda call, refusal=refusal: refusal)
    assert trim_kernels.explain(op, SMALL) == (
        f"{op}: reference\n"
        "  not cuda: fewer than 4096 values\n"
        "  not triton: fewer than 4096 values\n"
        "  not cpu: the weight is on a GPU"
    )


@pytest.mark.usefixtures("cuda_on_cpu")
def test_a_search_is_never_too_small():
    assert trim_kernels.explain("allocate_rows", SMALL) == "allocate_rows: cuda"


@pytest.mark.usefixtures("cuda_on_cpu")
def test_a_small_matrix_runs_where_it_is_told_to():
    assert trim_kernels.explain("row_mask", SMALL, backend="cuda") == "row_mask: cuda"
    mask = trim_kernels.row_mask(torch.tensor([[3.0, 1.0, 2.0]]), 1, backend="cuda")
    assert mask.tolist() == [[True, False, True]]


@pytest.mark.usefixtures("no_library")
@pytest.mark.parametrize("op", OPS)
def test_without_the_library_it_says_what_is_missing(op):
    assert f"not cuda: {cuda.LIBRARY} is not built (nvcc was missing at installation" in trim_kernels.explain(op, LARGE)
    with pytest.raises(ValueError, match=f"^backend: 'cuda' cannot run {op}: .* is not built"):
        trim_kernels.backends.decide(op, "cuda", {"weight": LARGE})


@pytest.mark.usefixtures("no_library")
def test_a_library_that_does_not_load_is_a_reason_too():
    cuda.LIBRARY.write_bytes(b"not a library")
    assert "does not load: " in trim_kernels.explain("row_mask", LARGE)


def test_a_weight_elsewhere_is_no_matter_for_cuda():
    with pytest.raises(ValueError, match=r"^backend: 'cuda' cannot run row_mask: the weight is on cpu$"):
        trim_kernels.row_mask(LARGE, 1, backend="cuda")


@pytest.mark.usefixtures("cuda_on_cpu")
def test_a_device_without_kernels_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(cuda._loaded(), "tk_cuda_usable", lambda index: 209)
    text = trim_kernels.explain("row_mask", LARGE)
    assert re.search(r"not cuda: .* has no kernels that run on device 0 \(.*; built for ", text)


def test_status_says_what_there_is():
    status = cuda.status()
    assert set(status) == {"library", "built", "architectures", "usable", "why"}
    assert status["usable"] == (status["why"] is None)


@pytest.mark.skipif(not cuda.LIBRARY.exists(), reason="the CUDA library is not built")
def test_the_library_loads_without_a_driver():
    assert cuda.status()["architectures"]
    assert cuda._load() is cuda._loaded()


@pytest.mark.usefixtures("cuda_on_cpu")
@pytest.mark.parametrize(("capability", "shared_bytes"), [("8.6", 101_376), ("8.0", 166_912), ("12.0", 101_376)])
def test_every_kernel_fits_the_shared_memory_of_smaller_gpus(capability, shared_bytes, monkeypatch):
    monkeypatch.setenv("TRIM_SHIM_CAPABILITY", capability)
    monkeypatch.setenv("TRIM_SHIM_SHARED_BYTES", str(shared_bytes))
    generator = torch.Generator().manual_seed(1)
    for columns in (300, 5120, 13_824, 29_568, 60_000):
        weight = torch.randn(2, columns, generator=generator).bfloat16()
        testing.check_row_mask("cuda", weight, columns // 3)
        testing.check_row_order("cuda", weight)
    weight = torch.randn(3, 140, generator=generator).bfloat16()
    x = torch.randn(300, 140, generator=generator).bfloat16()
    testing.check_row_quality("cuda", weight, 70, x.t().contiguous())
    testing.check_nm_rank("cuda", weight, 31)
    testing.check_nm_mask("cuda", weight, 2, 4)
    testing.check_gram("cuda", torch.zeros(140, 140), x.float())
    testing.check_column_sqnorm("cuda", torch.zeros(140), x)


@pytest.mark.usefixtures("cuda_on_cpu")
def test_a_failed_launch_is_an_error_with_the_devices_words(monkeypatch):
    monkeypatch.setattr(cuda._loaded(), "tk_cuda_row_select", lambda *arguments: 719)
    with pytest.raises(RuntimeError, match=r"^row_select: CUDA error 719 on cpu: "):
        trim_kernels.row_mask(LARGE, 1, backend="cuda")
