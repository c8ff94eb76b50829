"""Builds the libraries into the source tree, for the GPU that is here: python -m benchmarks.gpu.build.

Runs the build_py of setup.py as an editable installation does, but without pip, a network or a build environment.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import types
from pathlib import Path

import setuptools
import torch

ROOT = Path(__file__).parents[2]
ARCHITECTURES = "TRIM_KERNELS_CUDA_ARCHS"
"""Narrows the targets of nvcc, as "90a" or "80;90a"; this GPU's if it is not set."""
TARGETS = ((8, 0), (8, 6), (8, 9), (10, 0), (12, 0))
"""Compute capabilities for which csrc/cuda is compiled, besides 9.0."""


def architecture(major: int, minor: int) -> str:
    """The target of nvcc whose code this compute capability runs: of its own generation, and not newer."""
    if (major, minor) == (9, 0):
        return "90a"  # with the tensor-core instructions of Hopper
    older = [target for target in TARGETS if target[0] == major and target[1] <= minor]
    major, minor = max(older, default=(major, minor))
    return f"{major}{minor}"


def build() -> None:
    """Compile csrc; SystemExit with the compiler's messages above it if that fails."""
    if torch.cuda.is_available():
        os.environ.setdefault(ARCHITECTURES, architecture(*torch.cuda.get_device_capability()))
    print(f"{ARCHITECTURES}={os.environ.get(ARCHITECTURES, '')}", flush=True)
    _find_ninja()
    os.chdir(ROOT)
    distribution = setuptools.distutils.core.run_setup("setup.py", stop_after="init")
    command = distribution.get_command_obj("build_py")
    command.editable_mode = True
    command.ensure_finalized()
    command.run()


def _find_ninja() -> None:
    """setup.py asks the package ninja where its program is; a machine may have the program only."""
    program = shutil.which("ninja")
    if importlib.util.find_spec("ninja") is None and program is not None:
        stand_in = types.ModuleType("ninja")
        stand_in.BIN_DIR = str(Path(program).parent)  # type: ignore[attr-defined]
        sys.modules["ninja"] = stand_in


if __name__ == "__main__":
    build()
