"""trim_kernels stands alone: it never imports the engine, transformers or a test tool."""

from __future__ import annotations

import subprocess
import sys

import pytest

import trim_kernels
import trim_kernels.testing

FOREIGN = ["trim_prune", "transformers", "datasets", "pydantic", "pytest", "hypothesis", "benchmarks"]


@pytest.mark.parametrize("module", ["trim_kernels", "trim_kernels.testing"])
def test_importing_it_imports_nothing_of_the_engine(module):
    program = f"import sys, {module}; print([name for name in {FOREIGN} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("module", [trim_kernels, trim_kernels.testing], ids=lambda module: module.__name__)
def test_every_exported_name_exists(module):
    assert [name for name in module.__all__ if not hasattr(module, name)] == []
    assert module.__all__ == sorted(module.__all__)
