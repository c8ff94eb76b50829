"""These files run in processes of their own, where TRITON_INTERPRET is set before anything imports Triton.

They are not collected by name; tests/trim_kernels/triton/test_interpreted.py starts them. With a GPU they run on it.
"""

from __future__ import annotations

import pytest
import torch

from trim_kernels import testing


@pytest.fixture(scope="session")
def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def matrix(device):
    """A nasty matrix and keyword arguments that score it, by names."""

    def make(name, dtype, scoring, layout="contiguous"):
        weight = testing.nasty_matrix(name, testing.DTYPES[dtype], layout)
        scores = testing.SCORINGS[scoring](weight)
        counts = testing.mixed_counts(weight)
        on_device = {key: value.to(device) for key, value in scores.items()}
        return weight if device == "cpu" else weight.to(device), counts.to(device), on_device

    return make
