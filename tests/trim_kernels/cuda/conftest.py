"""The backend "cuda" on CPU tensors: the library's own sources, compiled for the CPU by tests/cuda_on_cpu."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trim_kernels import cuda
from trim_kernels.ops.gram import panels

ROOT = Path(__file__).parents[3]
sys.path.append(str(ROOT / "tests"))

from cuda_on_cpu.build import build  # noqa: E402


@pytest.fixture(scope="session")
def library_on_cpu() -> Path:
    """csrc/cuda for the CPU; kept in build/, so that only what changed is compiled again."""
    sources = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
    return build(sources, ROOT / "build" / "cuda_on_cpu" / "libtrim_kernels_cuda.so")


@pytest.fixture
def cuda_on_cpu(library_on_cpu: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ctypes.CDLL]:
    """The backend "cuda" takes CPU tensors; the library's functions, those of the scheduler included."""
    monkeypatch.setattr(cuda, "LIBRARY", library_on_cpu)
    monkeypatch.setattr(cuda, "DEVICE", "cpu")
    monkeypatch.setattr(cuda, "_usable", set())
    # The vendor's library for GPUs does not run here.
    monkeypatch.setattr(panels, "add_product", lambda acc, left, right: acc.addmm_(left.t().float(), right.float()))
    cuda._load.cache_clear()
    yield ctypes.CDLL(str(library_on_cpu))
    cuda._load.cache_clear()
