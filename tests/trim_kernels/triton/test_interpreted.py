"""The Triton kernels give what the reference gives: on a GPU where there is one, else in Triton's interpreter.

Triton reads TRITON_INTERPRET when it is imported, which torch.compile may have done in this process. So each file of
``interpreted/`` runs in a process of its own.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

# numpy warns of what a kernel does in silence, of infinity and NaN, and of how the interpreter uses it.
HARMLESS = (
    "ignore:overflow:RuntimeWarning",
    "ignore:invalid value:RuntimeWarning",
    "ignore:Conversion of an array:DeprecationWarning",
)
SILENCE = [option for warning in HARMLESS for option in ("-W", warning)]
FILES = sorted((Path(__file__).parent / "interpreted").glob("check_*.py"))


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_checks_pass(file):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment["OMP_NUM_THREADS"] = "1"
    environment.pop("TRITON_INTERPRET", None)
    if not torch.cuda.is_available():
        environment["TRITON_INTERPRET"] = "1"
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", *SILENCE, str(file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5000:]
