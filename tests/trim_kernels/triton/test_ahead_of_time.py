"""Machine code of every Triton kernel, compiled without a GPU: no spills, the right instructions, the known size."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")

FOLDER = Path(__file__).parent
SHARED = {"sm_80": 163 * 1024, "sm_90": 227 * 1024, "sm_100": 227 * 1024}
TENSOR_CORES = {"sm_80": "HMMA", "sm_90": "HGMMA", "sm_100": "UTCHMMA"}
VECTORS = ("LDG.E.128", "LDGSTS.E.BYPASS.128")
SCATTERED = (
    "select_row mask 1",
    "look_up_thresholds",
    "select_in_groups 3 of 5",
    "select_in_groups 16 of 32",
    "count_row",
    "move_row to values",
    "move_row to weights",
)
"""Reads that are no whole vectors by nature."""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """What ahead_of_time.py prints: the resources of each kernel on each architecture."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton"))}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, str(FOLDER / "ahead_of_time.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    return json.loads(done.stdout)


def each(compiled):
    return [(name, arch, needs) for name, archs in compiled["kernels"].items() for arch, needs in archs.items()]


def test_no_register_is_spilled(compiled):
    assert [(name, arch, needs["spilled"]) for name, arch, needs in each(compiled) if needs["spilled"]] == []


def test_shared_memory_fits(compiled):
    assert [(name, arch) for name, arch, needs in each(compiled) if needs["shared"] > SHARED[arch]] == []


def test_products_in_half_precision_run_on_tensor_cores(compiled):
    for name, arch, needs in each(compiled):
        if "float16" in name:
            assert TENSOR_CORES[arch] in needs, (name, arch)


def test_float32_is_multiplied_in_full_precision(compiled):
    for name, arch, needs in each(compiled):
        if "float32" in name:
            assert not set(TENSOR_CORES.values()) & set(needs), (name, arch)


def test_rows_are_read_sixteen_bytes_at_a_time(compiled):
    for name, arch, needs in each(compiled):
        if name not in SCATTERED:
            assert any(vector in needs for vector in VECTORS), (name, arch)


def test_the_table_is_that_of_the_kernels(compiled):
    known = json.loads((FOLDER / "resources.json").read_text())
    assert list(known["kernels"]) == list(compiled["kernels"]), "rewrite it: see ahead_of_time.py"
    if known["triton"] != compiled["triton"]:
        pytest.skip(f"the table is that of triton {known['triton']}")
    assert known == compiled, "if that is meant, rewrite it: see ahead_of_time.py"
