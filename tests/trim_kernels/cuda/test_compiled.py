"""What nvcc made of csrc/cuda, for every architecture: no register spills, the instructions that were meant, and the
table of resources that is committed beside this file.

The table is written anew by ``python tests/trim_kernels/cuda/test_compiled.py``.
"""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from trim_kernels import cuda

TABLE = Path(__file__).with_name("resources.json")
LIBRARY = Path(cuda.__file__).with_name("lib") / "libtrim_kernels_cuda.so"
STATIC_SHARED_LIMIT = 48 << 10
HOPPER = "sm_90a"
MATRIX_READERS = ("select_", "split_", "prune_below", "order_", "masked_product", "add_gram", "sum_squares", "find_bad")


def tool(name: str) -> str | None:
    """A tool of CUDA's: the toolkit's, or the one that comes with Triton."""
    found = shutil.which(name)
    if found:
        return found
    triton = pytest.importorskip("triton")
    bundled = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    return str(bundled) if bundled.exists() else None


pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason="the CUDA library is not built")


def run(*command: str | Path, text: str | None = None) -> str:
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def readable(listing: str) -> str:
    """Demangled, without what differs between builds."""
    names = run("c++filt", text=listing)
    return re.sub(r"trim::\(anonymous namespace\)::|trim::", "", names)


@functools.cache
def resources() -> dict[str, dict[str, dict[str, int]]]:
    """Registers, stack, shared and local bytes of each kernel on each architecture."""
    listing = readable(run(tool("cuobjdump"), "-res-usage", LIBRARY))
    found: dict[str, dict[str, dict[str, int]]] = {}
    architecture = kernel = ""
    for line in listing.splitlines():
        if match := re.match(r"\s*arch = (\w+)", line):
            architecture = match[1]
        elif match := re.match(r"\s*Function (?:void )?(.+?)\(.*:$", line):
            kernel = match[1]
        elif match := re.match(r"\s*REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", line):
            numbers = dict(zip(("registers", "stack", "shared", "local"), map(int, match.groups()), strict=True))
            found.setdefault(kernel, {})[architecture] = numbers
    return found


@functools.cache
def instructions(architecture: str) -> dict[str, str]:
    """The machine code of each kernel of an architecture."""
    listing = run(tool("cuobjdump"), "-sass", "-arch", architecture, LIBRARY)
    parts = re.split(r"^\s*Function : (\w+)$", listing, flags=re.MULTILINE)
    names = readable("\n".join(parts[1::2])).splitlines()
    return {re.sub(r"^void |\(.*$", "", name): code for name, code in zip(names, parts[2::2], strict=True)}


def test_every_architecture_is_there():
    built = {architecture for kernel in resources().values() for architecture in kernel}
    assert built == {"sm_80", "sm_86", "sm_89", "sm_90a", "sm_100", "sm_120"}


def test_no_kernel_spills_registers_or_uses_local_memory():
    spilling = [
        (kernel, architecture, numbers)
        for kernel, found in resources().items()
        for architecture, numbers in found.items()
        if numbers["stack"] or numbers["local"]
    ]
    assert spilling == []


def test_static_shared_memory_needs_no_permission():
    assert max(n["shared"] for found in resources().values() for n in found.values()) <= STATIC_SHARED_LIMIT


def test_resources_are_those_of_the_committed_table():
    table = json.loads(TABLE.read_text())
    version = nvcc_version()
    if version != table["nvcc"]:
        pytest.skip(f"the table is of nvcc {table['nvcc']}, this is {version}")
    assert summary() == table["kernels"]


@pytest.mark.parametrize("architecture", ["sm_80", "sm_86", "sm_89", "sm_100", "sm_120"])
def test_products_of_halves_run_on_tensor_cores(architecture):
    code = instructions(architecture)
    kernels = [name for name in code if "WarpProduct<" in name]
    assert len(kernels) == 4
    assert all("HMMA.16816.F32" in code[name] for name in kernels)


def test_products_of_halves_run_on_warpgroup_tensor_cores_on_hopper():
    code = instructions(HOPPER)
    kernels = [name for name in code if "GroupProduct<" in name]
    assert len(kernels) == 8
    for name in kernels:
        # Two blocks of four products each; operand A in a register, so that nothing masked goes through memory.
        assert len(re.findall(r"HGMMA\.64x\d+x16\.F32(\.BF16)? R\d+, R\d+, gdesc", code[name])) == 8, name


@pytest.mark.parametrize("architecture", ["sm_80", HOPPER, "sm_100"])
def test_matrices_are_read_sixteen_bytes_at_a_time(architecture):
    narrow = [
        name
        for name, code in instructions(architecture).items()
        if name.startswith(MATRIX_READERS) and not re.search(r"(LDG|LD)\.E\.128|LDGSTS\S*\.128", code)
    ]
    assert narrow == []
    assert all(any(name.startswith(reader) for name in instructions(architecture)) for reader in MATRIX_READERS)


@pytest.mark.parametrize("architecture", ["sm_80", HOPPER, "sm_100"])
def test_pruned_weights_are_written_sixteen_bytes_at_a_time(architecture):
    code = instructions(architecture)
    kernels = ("select_rows<", "select_wide_rows<", "split_write<", "prune_below<")
    writers = [name for name in code if name.startswith(kernels)]
    assert writers
    assert all(re.search(r"STG\.E(\.EF)?\.128\b", code[name]) for name in writers)
    # Weights that are not aligned go one by one, and so do masks, which are bytes.
    assert not [name for name in writers if name.startswith("prune_below<") and "STG.E.U8" in code[name]]


@pytest.mark.parametrize("architecture", ["sm_80", HOPPER, "sm_100"])
def test_lanes_with_the_same_digit_are_counted_at_once(architecture):
    counting = ("select_rows<", "split_count<")
    kernels = {name: code for name, code in instructions(architecture).items() if name.startswith(counting)}
    assert all(any(name.startswith(one) for name in kernels) for one in counting)
    assert all("ATOMS.POPC.INC" in code for code in kernels.values())


def nvcc_version() -> str:
    """The version that the library was compiled with, as far as this machine can tell."""
    nvcc = tool("nvcc")
    return re.search(r"V([\d.]+)", run(nvcc, "--version"))[1] if nvcc else "unknown"


def summary() -> dict[str, dict[str, str]]:
    return {
        kernel: {name: f"{n['registers']} registers, {n['shared']} bytes" for name, n in sorted(found.items())}
        for kernel, found in sorted(resources().items())
    }


if __name__ == "__main__":
    TABLE.write_text(json.dumps({"nvcc": nvcc_version(), "kernels": summary()}, indent=1) + "\n")
