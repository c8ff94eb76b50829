"""Which backend runs is chosen as documented, and said."""

from __future__ import annotations

import pytest
import torch

import trim_kernels
from trim_kernels import backends, native

OPS = [
    "row_threshold",
    "row_mask",
    "prune_rows_",
    "row_order",
    "row_quality",
    "row_error_curve",
    "allocate_rows",
    "nm_rank",
    "nm_mask",
    "prune_nm_",
    "column_sqnorm_",
    "gram_",
    "obs_update_",
    "pack_values",
    "unpack_values",
]
WEIGHT = torch.ones(2, 9)


def not_on_a_gpu(op, device="cpu"):
    """Why the backends of a GPU do not run."""
    name = backends.MAIN.get(op, "weight")
    cuda = f"the {name} is on {device}"
    if op in backends.NOT_IN_CUDA:
        cuda = f"there is no CUDA kernel of {op}; Triton serves GPUs"
    return f"  not cuda: {cuda}\n  not triton: the {name} is on {device}"


needs_library = pytest.mark.skipif(native.instruction_set() is None, reason="the native library is not built")


@pytest.fixture(autouse=True)
def no_choice_in_the_environment(monkeypatch):
    monkeypatch.delenv(backends.ENVIRONMENT_VARIABLE, raising=False)


@pytest.fixture
def backends_that_ran(monkeypatch):
    """Names of the backends that were chosen, in order."""
    ran = []
    decide = backends.decide

    def record(*arguments):
        decision = decide(*arguments)
        ran.append(decision.backend)
        return decision

    monkeypatch.setattr(backends, "decide", record)
    return ran


@needs_library
@pytest.mark.parametrize("op", OPS)
def test_auto_takes_the_native_backend(op):
    assert trim_kernels.explain(op, WEIGHT) == f"{op}: cpu\n{not_on_a_gpu(op)}"


def test_every_operator_can_be_explained():
    from trim_kernels import library

    assert set(OPS) == set(library._SCHEMAS)


@needs_library
def test_a_named_backend_is_taken(backends_that_ran):
    for name in ("reference", "cpu"):
        trim_kernels.row_mask(WEIGHT, 2, backend=name)
    assert backends_that_ran == ["reference", "cpu"]


@needs_library
def test_the_environment_replaces_auto_only(monkeypatch, backends_that_ran):
    monkeypatch.setenv(backends.ENVIRONMENT_VARIABLE, "reference")
    trim_kernels.row_mask(WEIGHT, 2)
    trim_kernels.row_mask(WEIGHT, 2, backend="cpu")
    assert backends_that_ran == ["reference", "cpu"]
    assert trim_kernels.explain("row_mask", WEIGHT) == "row_mask: reference"


def test_an_unknown_backend_in_the_environment_raises(monkeypatch):
    monkeypatch.setenv(backends.ENVIRONMENT_VARIABLE, "gpu")
    with pytest.raises(ValueError, match="backend: expected auto, cuda, triton, cpu or reference, got 'gpu'"):
        trim_kernels.row_mask(WEIGHT, 2)


@pytest.mark.usefixtures("no_library")
@pytest.mark.parametrize("op", OPS)
def test_without_the_library_auto_takes_the_reference_and_says_why(op):
    assert trim_kernels.explain(op, WEIGHT) == (
        f"{op}: reference\n{not_on_a_gpu(op)}\n"
        f"  not cpu: {native.LIBRARY} is not built (a C++ compiler was missing at installation; reinstall with one)"
    )


@pytest.mark.usefixtures("no_library")
def test_without_the_library_calls_run(backends_that_ran):
    assert trim_kernels.row_mask(WEIGHT, 2).sum().item() == 14
    assert backends_that_ran == ["reference"]
    assert native.instruction_set() is None


@pytest.mark.usefixtures("no_library")
def test_without_the_library_the_native_backend_raises_with_the_reason():
    with pytest.raises(ValueError, match=r"^backend: 'cpu' cannot run row_mask: .*libtrim_kernels_cpu.so is not built"):
        trim_kernels.row_mask(WEIGHT, 2, backend="cpu")


@pytest.mark.usefixtures("no_library")
def test_a_library_that_does_not_load_is_a_reason_too():
    native.LIBRARY.write_bytes(b"not a library")
    assert "does not load: " in trim_kernels.explain("row_mask", WEIGHT)
    assert trim_kernels.row_mask(WEIGHT, 2).sum().item() == 14


def test_a_weight_on_another_device_is_no_matter_for_the_native_backend():
    weight = torch.empty(2, 9, device="meta")
    assert trim_kernels.explain("row_mask", weight) == (
        f"row_mask: reference\n{not_on_a_gpu('row_mask', 'meta')}\n  not cpu: the weight is on meta"
    )


@pytest.mark.parametrize("metric", ["mae", "cosine_tokens", "psnr_tokens"])
def test_a_metric_of_whole_outputs_is_optimised_by_the_reference(metric):
    text = trim_kernels.explain("allocate_rows", WEIGHT, layer_metric=metric)
    assert text.startswith("allocate_rows: reference\n")
    for backend in ("cuda", "triton", "cpu"):
        assert f"  not {backend}: layer_metric '{metric}' needs the outputs" in text
    with pytest.raises(ValueError, match=f"^backend: 'cpu' cannot run allocate_rows: layer_metric '{metric}' needs"):
        trim_kernels.allocate_rows(WEIGHT, torch.ones(9, 3), 0.5, layer_metric=metric, backend="cpu")


@needs_library
def test_an_unknown_instruction_set_raises():
    before = native.instruction_set()
    with pytest.raises(ValueError, match=r"^name: expected an instruction set of this processor, got 'mmx'$"):
        native.use_instruction_set("mmx")
    assert native.instruction_set() == before
