from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from trim_kernels.native import instruction_set

ROOT = Path(__file__).parents[4]


@pytest.mark.skipif(instruction_set() is None, reason="the native library is not built")
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is measured on Linux only")
@pytest.mark.parametrize(("rows", "columns"), [(192, 576), (1536, 576)])
def test_a_search_takes_less_than_three_times_the_weight(rows, columns):
    command = [sys.executable, "-m", "benchmarks.peak_memory", str(rows), str(columns), "cpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout) < 3 * 4 * rows * columns
