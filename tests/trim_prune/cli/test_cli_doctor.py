"""trim-prune doctor tells what is there, whatever is there."""

from __future__ import annotations

import json
import platform
import sys
from importlib import metadata

import pytest
import torch
from typer.testing import CliRunner

from trim_kernels import machine, native
from trim_prune import health
from trim_prune.cli.main import app

BACKENDS = ["cuda", "triton", "cpu", "reference"]
GPU = {"name": "NVIDIA H200", "capability": "9.0", "memory": 150754820096}


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
    extras = ["prune", "permute", "plot"]
    expected = ["python", "torch", "processor", "driver", *devices, *backends, "compiler", "nvcc", *extras, "ranks"]
    assert lines[: len(expected)] == expected
    assert lines[len(expected)] == "missing"


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


def test_a_device_and_its_library_are_described_in_a_line_each():
    facts = machine.doctor()
    facts["devices"], facts["driver"] = [GPU], "580.159.04"
    status = {"library": "lib.so", "built": True, "architectures": ["80", "90a"], "usable": True, "why": None}
    facts["backends"]["cuda"] = status
    lines = machine.report(facts).splitlines()
    assert "device             cuda:0 NVIDIA H200, sm_90, 143771 MiB" in lines
    assert "backend cuda       usable; library lib.so; architectures 80, 90a" in lines


def facts_of(**changes):
    """Those of a machine where nothing is amiss, changed."""
    usable = {"usable": True, "why": None}
    facts = {
        "driver": None,
        "devices": [],
        "cuda_of_torch": None,
        "compiler": "g++ 12",
        "nvcc": None,
        "backends": dict.fromkeys(BACKENDS, usable) | {"cuda": {"usable": False, "why": "no GPU"}},
        "packages": {"prune": {"rich": {"version": "15", "wanted": ">=13", "fits": True}}, "permute": {}, "plot": {}},
    }
    return facts | changes


NOT_BUILT = {"usable": False, "why": "not built"}


@pytest.mark.parametrize(
    ("changes", "problem", "command"),
    [
        (
            {"packages": {"permute": {"scipy": {"version": None, "wanted": ">=1.11", "fits": False}}}},
            "scipy, for --permute",
            "pip install --upgrade 'scipy>=1.11'",
        ),
        (
            {"packages": {"prune": {"transformers": {"version": "4.1", "wanted": ">=4.56", "fits": False}}}},
            "transformers, for everything",
            "pip install --upgrade 'transformers>=4.56'",
        ),
        ({"backends": facts_of()["backends"] | {"cpu": NOT_BUILT}}, "kernels for CPUs", "pip install --force"),
        (
            {"backends": facts_of()["backends"] | {"cpu": NOT_BUILT}, "compiler": None},
            "kernels for CPUs",
            "apt-get install g++ && pip install --force",
        ),
        ({"driver": "580"}, "a torch that is built for CUDA", "pip install --force-reinstall torch"),
        (
            {"driver": "580", "devices": [GPU], "cuda_of_torch": "13.0"},
            "the CUDA kernels",
            "apt-get install nvidia-cuda-toolkit && pip install --force",
        ),
        (
            {
                "devices": [GPU],
                "nvcc": "13.0",
                "backends": {name: {"usable": True} for name in BACKENDS} | {"triton": NOT_BUILT},
            },
            "the Triton kernels",
            "pip install --upgrade triton",
        ),
    ],
    ids=["extra", "too old", "library", "compiler", "torch", "nvcc", "triton"],
)
def test_what_is_missing_comes_with_the_command_that_repairs_it(changes, problem, command):
    (found,) = health.fixes(facts_of(**changes))
    assert problem in found["problem"]
    assert found["command"].startswith(command)


def test_a_machine_without_a_gpu_misses_nothing_that_only_a_gpu_could_use():
    assert health.fixes(facts_of()) == []


def test_every_package_that_is_claimed_is_told_with_its_version(invoke):
    facts = json.loads(invoke("--json"))
    assert facts["packages"]["prune"]["transformers"]["version"] == metadata.version("transformers")
    assert facts["packages"]["prune"]["transformers"]["fits"]
    assert facts["fixes"] == health.fixes(facts)


def test_a_package_that_is_too_old_is_told_as_such(invoke, monkeypatch):
    monkeypatch.setattr(health.metadata, "version", lambda name: "0.1" if name == "rich" else "99")
    assert "rich 0.1 (wanted: >=13)" in invoke()
    assert "pip install --upgrade 'rich>=13'" in invoke()


def test_without_an_installation_nothing_is_known_of_the_packages(monkeypatch):
    def requires(_name):
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(health.metadata, "requires", requires)
    assert health.packages() == {"prune": {}, "permute": {}, "plot": {}}
