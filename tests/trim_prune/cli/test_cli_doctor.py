"""trim-prune doctor tells what is there, whatever is there."""

from __future__ import annotations

import json
import platform
import sys

import pytest
import torch
from typer.testing import CliRunner

from trim_kernels import machine, native
from trim_prune.cli.main import app

BACKENDS = ["cuda", "triton", "cpu", "reference"]


@pytest.fixture
def invoke():
    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["doctor", *arguments])
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


def test_one_line_for_each_thing(invoke):
    lines = [line.split("  ")[0] for line in invoke().splitlines()]
    devices = ["device"] * max(1, torch.cuda.device_count())
    backends = [f"backend {name}" for name in BACKENDS]
    assert lines == ["python", "torch", "processor", "driver", *devices, *backends, "compiler", "nvcc"]


def test_json_holds_the_same_facts(invoke):
    facts = json.loads(invoke("--json"))
    assert facts["python"] == f"{platform.python_version()} ({sys.executable})"
    assert facts["torch"] == torch.__version__
    assert len(facts["devices"]) == torch.cuda.device_count()
    assert list(facts["backends"]) == BACKENDS
    for status in facts["backends"].values():
        assert (status["why"] is None) == status["usable"]


def test_a_library_that_is_not_built_is_told_with_the_reason(invoke, monkeypatch, tmp_path):
    monkeypatch.setattr(native, "LIBRARY", tmp_path / "libtrim_kernels_cpu.so")
    native._load.cache_clear()
    try:
        printed = invoke()
    finally:
        native._load.cache_clear()
    assert f"not usable: {tmp_path}/libtrim_kernels_cpu.so is not built" in printed


def test_tools_that_are_missing_are_none(invoke, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    facts = json.loads(invoke("--json"))
    assert (facts["driver"], facts["compiler"], facts["nvcc"]) == (None, None, None)


def test_a_backend_whose_module_cannot_be_imported_is_not_usable(monkeypatch):
    monkeypatch.setitem(sys.modules, "trim_kernels.triton_common", None)
    status = machine.backends()["triton"]
    assert not status["usable"]
    assert "triton_common" in status["why"]


GPU = {"name": "NVIDIA H200", "capability": "9.0", "memory": 150754820096}


def test_a_device_and_its_library_are_described_in_a_line_each():
    facts = machine.doctor()
    facts["devices"], facts["driver"] = [GPU], "580.159.04"
    status = {"library": "lib.so", "built": True, "architectures": ["80", "90a"], "usable": True, "why": None}
    facts["backends"]["cuda"] = status
    lines = machine.report(facts).splitlines()
    assert "device             cuda:0 NVIDIA H200, sm_90, 143771 MiB" in lines
    assert "backend cuda       usable; library lib.so; architectures 80, 90a" in lines
