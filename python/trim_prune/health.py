"""What is installed, what of it is missing or too old, and the commands that repair it."""

from __future__ import annotations

from importlib import metadata
from typing import Any

from packaging.requirements import Requirement
from torch import distributed

from trim_kernels import machine

DISTRIBUTION = "trim-kernels"
EXTRAS = {"prune": "everything trim-prune does", "permute": "--permute", "plot": "pictures of an MSP search"}
"""Those that users choose, and what needs them."""
REBUILD = "pip install --force-reinstall --no-deps ."
"""In the source folder."""


def doctor() -> dict[str, Any]:
    """The facts of :func:`trim_kernels.machine.doctor`, the packages of each extra, and what to do.

    ``ranks``: what several processes can talk through, gloo between CPUs and nccl between GPUs.
    """
    facts = machine.doctor() | {"packages": packages(), "ranks": ranks()}
    return facts | {"fixes": fixes(facts)}


def packages() -> dict[str, dict[str, dict[str, Any]]]:
    """Of each extra its packages: version (None: not installed), what is wanted, and whether it fits.

    Nothing if this package is used without being installed.
    """
    try:
        wanted = [Requirement(line) for line in metadata.requires(DISTRIBUTION) or []]
    except metadata.PackageNotFoundError:
        wanted = []
    return {extra: {r.name: _status(r) for r in wanted if _belongs(r, extra)} for extra in EXTRAS}


def ranks() -> list[str]:
    """What torch has for several processes that prune one model together."""
    if not distributed.is_available():
        return []
    there = {"gloo": distributed.is_gloo_available(), "nccl": distributed.is_nccl_available()}
    return [name for name, usable in there.items() if usable]


def fixes(facts: dict[str, Any]) -> list[dict[str, str]]:
    """What is amiss on a machine with these facts: ``problem``, and the ``command`` that repairs it.

    A machine without a GPU misses nothing that only a GPU could use.
    """
    found = []
    for extra, status in facts["packages"].items():
        amiss = {name: package["wanted"] for name, package in status.items() if not package["fits"]}
        if amiss:
            wanted = " ".join(f"'{name}{specifier}'" for name, specifier in amiss.items())
            found.append(_fix(f"{', '.join(amiss)}, for {EXTRAS[extra]}", f"pip install --upgrade {wanted}"))
    backends = facts["backends"]
    if not backends["cpu"]["usable"]:
        found.append(_fix("the kernels for CPUs", _rebuild("g++", facts["compiler"])))
    if facts["driver"] and not facts["cuda_of_torch"]:
        found.append(_fix("a torch that is built for CUDA", "pip install --force-reinstall torch"))
    if facts["devices"] and not backends["cuda"]["usable"]:
        found.append(_fix("the CUDA kernels", _rebuild("nvidia-cuda-toolkit", facts["nvcc"])))
    if facts["devices"] and not backends["triton"]["usable"]:
        found.append(_fix("the Triton kernels", "pip install --upgrade triton"))
    return found


def report(facts: dict[str, Any]) -> str:
    """One line for each fact of :func:`doctor`, and two for each thing to do."""
    lines = machine.report(facts).splitlines()
    width = len(lines[0]) - len(lines[0].partition("  ")[2].lstrip())
    for extra, status in facts["packages"].items():
        lines.append(extra.ljust(width) + (", ".join(_package(*item) for item in status.items()) or "not known"))
    lines.append("ranks".ljust(width) + (", ".join(facts["ranks"]) or "none: torch is built without distributed"))
    if not facts["fixes"]:
        lines.append("missing".ljust(width) + "nothing")
    for fix in facts["fixes"]:
        lines += ["missing".ljust(width) + fix["problem"], "  to fix".ljust(width) + fix["command"]]
    return "\n".join(lines)


def _belongs(requirement: Requirement, extra: str) -> bool:
    marker = requirement.marker
    return marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""})


def _status(requirement: Requirement) -> dict[str, Any]:
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return {"version": None, "wanted": str(requirement.specifier), "fits": False}
    fits = requirement.specifier.contains(version, prereleases=True)
    return {"version": version, "wanted": str(requirement.specifier), "fits": fits}


def _package(name: str, status: dict[str, Any]) -> str:
    if status["fits"]:
        return f"{name} {status['version']}"
    return f"{name} {status['version'] or 'missing'} (wanted: {status['wanted']})"


def _rebuild(package: str, compiler: str | None) -> str:
    return ("" if compiler else f"apt-get install {package} && ") + REBUILD


def _fix(problem: str, command: str) -> dict[str, str]:
    return {"problem": problem, "command": command}
