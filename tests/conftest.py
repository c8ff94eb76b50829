"""What all tests share: the repository on the path, and hypothesis without clocks or files."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hypothesis
import torch

ROOT = Path(__file__).parents[1]

# The folders tests/trim_kernels and tests/trim_prune would otherwise be found as namespace packages of those names,
# before an editable installation is asked; and `benchmarks` is not installed.
sys.path += [str(ROOT), str(ROOT / "python")]

hypothesis.settings.register_profile("repository", deadline=None, database=None, derandomize=True, max_examples=100)
hypothesis.settings.load_profile("repository")

# Workers share the cores. OpenMP threads that spin for each other would make the suite several times slower.
torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))))
