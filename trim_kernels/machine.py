"""What this machine has, and what of this package is usable on it: ``python -m trim_kernels.machine``.

The facts that a result depends on, and those that tell why a backend does not run. Needs no GPU and no driver, and asks
the backends themselves.
"""

from __future__ import annotations

import importlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from trim_kernels import native
from trim_kernels._version import __version__


def machine(device: str) -> dict[str, Any]:
    """The machine, as far as it can change a result or a time on this device."""
    facts: dict[str, Any] = {
        "platform": platform.platform(),
        "processor": processor(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instruction_set": native.instruction_set(),
    }
    if torch.device(device).type != "cuda":
        return facts | {"device": device}
    return facts | {"device": torch.cuda.get_device_name(device), "driver": driver()}


def versions() -> dict[str, str | None]:
    """Versions of what the kernels are made with and run in; None for what is not there."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version_of("triton"),
        "nvcc": nvcc(),
        "trim_kernels": __version__,
    }


def doctor() -> dict[str, Any]:
    """Everything that tells what is usable and why not."""
    return {
        "python": f"{platform.python_version()} ({sys.executable})",
        "torch": torch.__version__,
        "cuda_of_torch": torch.version.cuda,
        "processor": processor(),
        "driver": driver(),
        "devices": devices(),
        "backends": backends(),
        "compiler": compiler(),
        "nvcc": nvcc(),
    }


def processor() -> str:
    """The name of the CPU."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def driver() -> str | None:
    """The version of the NVIDIA driver, or None."""
    return _first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")


def nvcc() -> str | None:
    """The version of the CUDA compiler, or None."""
    lines = _output("nvcc", "--version").splitlines()
    return next((line.rpartition("V")[2] for line in lines if "release" in line), None)


def compiler() -> str | None:
    """The C++ compiler that an installation would take, with its version, or None."""
    chosen = os.environ.get("CXX")
    names = [shlex.split(chosen)[0]] if chosen else ["c++", "g++", "clang++"]
    return next((found for name in names if (found := _first_line(name, "--version"))), None)


def devices() -> list[dict[str, Any]]:
    """The GPUs that torch sees."""
    found = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found.append(
            {
                "name": properties.name,
                "capability": f"{properties.major}.{properties.minor}",
                "memory": properties.total_memory,
            }
        )
    return found


def backends() -> dict[str, dict[str, Any]]:
    """Of each backend, fastest first: is it usable, why not, and what else it says of itself."""
    why = native.refusal({})
    return {
        "cuda": _status("trim_kernels.cuda"),
        "triton": _status("trim_kernels.triton_common"),
        "cpu": {"usable": why is None, "why": why, "instruction_set": native.instruction_set()},
        "reference": {"usable": True, "why": None},
    }


def report(facts: dict[str, Any]) -> str:
    """One line for each fact of :func:`doctor`."""
    torch_ = facts["torch"] + (f", CUDA {facts['cuda_of_torch']}" if facts["cuda_of_torch"] else ", without CUDA")
    lines = [("python", facts["python"]), ("torch", torch_), ("processor", facts["processor"])]
    lines.append(("driver", facts["driver"] or "none: nvidia-smi is not there or does not answer"))
    lines += [("device", _device_line(index, device)) for index, device in enumerate(facts["devices"])]
    if not facts["devices"]:
        lines.append(("device", "none: torch sees no GPU"))
    lines += [(f"backend {name}", _backend_line(status)) for name, status in facts["backends"].items()]
    lines.append(("compiler", facts["compiler"] or "none: no native kernels can be built"))
    lines.append(("nvcc", facts["nvcc"] or "none: no CUDA kernels can be built"))
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name.ljust(width)}  {text}" for name, text in lines)


def _device_line(index: int, device: dict[str, Any]) -> str:
    return f"cuda:{index} {device['name']}, sm_{device['capability'].replace('.', '')}, {device['memory'] >> 20} MiB"


def _backend_line(status: dict[str, Any]) -> str:
    details = [
        f"{name.replace('_', ' ')} {', '.join(value) if isinstance(value, list) else value}"
        for name, value in status.items()
        if name not in ("usable", "why", "built") and value
    ]
    verdict = "usable" if status["usable"] else f"not usable: {status['why']}"
    return "; ".join([verdict, *details])


def _status(module: str) -> dict[str, Any]:
    try:
        status: dict[str, Any] = importlib.import_module(module).status()
    except ImportError as error:
        return {"usable": False, "why": str(error)}
    return status


def _version_of(module: str) -> str | None:
    try:
        return str(importlib.import_module(module).__version__)
    except ImportError:
        return None


def _first_line(*command: str) -> str | None:
    return next(iter(_output(*command).splitlines()), None)


def _output(*command: str) -> str:
    """What a tool prints; nothing if it is not there or fails."""
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.stdout if done.returncode == 0 else ""


if __name__ == "__main__":
    print(report(doctor()))
