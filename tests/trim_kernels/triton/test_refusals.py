from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from trim_kernels import explain, row_mask, triton_common


@pytest.fixture
def no_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(triton_common, "_installed", lambda: True)


@pytest.fixture
def no_triton(monkeypatch):
    monkeypatch.setattr(triton_common, "_installed", lambda: False)


def test_a_weight_on_the_cpu_is_refused(no_interpreter):
    assert "not triton: the weight is on cpu" in explain("row_mask", torch.ones(2, 3))
    with pytest.raises(ValueError, match="'triton' cannot run row_mask: the weight is on cpu"):
        row_mask(torch.ones(2, 3), 1, backend="triton")


def test_a_missing_triton_is_named(no_triton):
    assert "not triton: triton is not installed" in explain("row_mask", torch.ones(2, 3))
    assert triton_common.status() == {"version": None, "usable": False, "why": "triton is not installed"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_status_says_so(no_interpreter):
    status = triton_common.status()
    assert not status["usable"]
    assert status["why"].startswith("torch sees no GPU")


def test_choosing_a_backend_does_not_import_triton():
    code = (
        "import sys, torch, trim_kernels\n"
        "for op in ('row_mask', 'row_quality', 'row_order', 'allocate_rows', 'nm_rank', 'nm_mask'):\n"
        "    trim_kernels.explain(op, torch.ones(2, 3))\n"
        "print('triton.language' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
