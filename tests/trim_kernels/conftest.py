from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from trim_kernels import native, testing

needs_library = pytest.mark.skipif(native.instruction_set() is None, reason="the native library is not built")
BACKENDS = [pytest.param("reference"), pytest.param("cpu", marks=needs_library)]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend that this machine has."""
    return request.param


@pytest.fixture(params=itertools.product(testing.MATRICES, testing.DTYPES, testing.SCORINGS), ids="-".join)
def scored(request: pytest.FixtureRequest) -> tuple[Tensor, dict[str, Tensor]]:
    """Each nasty matrix in each dtype, with each way of scoring it as keyword arguments."""
    matrix, dtype, scoring = request.param
    weight = testing.nasty_matrix(matrix, testing.DTYPES[dtype])
    return weight, testing.SCORINGS[scoring](weight)


@pytest.fixture(params=["avx512", "avx2", "baseline"])
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set that this processor and this library have, in use."""
    before = native.instruction_set()
    if before is None:
        pytest.skip("the native library is not built")
    try:
        native.use_instruction_set(request.param)
    except ValueError as error:
        pytest.skip(str(error))
    yield request.param
    native.use_instruction_set(before)


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """Memory from torch.empty holds NaN or the largest integer, so that an element never written is found out."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def restored_threads() -> Iterator[None]:
    """The test may change torch's number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch, tmp_path) -> Iterator[None]:
    """As if the package had been installed without a compiler."""
    monkeypatch.setattr(native, "LIBRARY", tmp_path / "libtrim_kernels_cpu.so")
    native._load.cache_clear()
    yield
    native._load.cache_clear()


class Case:
    """Says in which of a loop's cases an assertion failed."""

    @contextlib.contextmanager
    def __call__(self, **what: object) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            error.add_note("in the case " + ", ".join(f"{name}={value}" for name, value in what.items()))
            raise


@pytest.fixture(scope="session")
def case() -> Case:
    return Case()
