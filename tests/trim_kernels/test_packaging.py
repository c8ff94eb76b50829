"""The library exports its C header and nothing else; wheels are built with and without a compiler."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from trim_kernels import native

ROOT = Path(__file__).parents[2]
NOT_SOURCE = shutil.ignore_patterns(
    ".*", "build", "dist", "*.egg-info", "__pycache__", "lib", "tests", "models", "runs", "shared"
)
USE_IT = """
import torch, trim_kernels
from trim_kernels import native
print(trim_kernels.__file__)
print(native.instruction_set())
print(trim_kernels.row_mask(torch.tensor([[3.0, 1.0, 2.0]]), 1).tolist())
"""


@pytest.mark.skipif(shutil.which("nm") is None, reason="nm is not installed")
@pytest.mark.skipif(not native.LIBRARY.exists(), reason="the native library is not built")
def test_the_library_exports_exactly_its_header():
    listing = subprocess.run(
        ["nm", "-D", "--defined-only", native.LIBRARY], capture_output=True, text=True, check=True
    ).stdout
    kinds = {line.split()[-1]: line.split()[-2] for line in listing.splitlines()}
    header = (ROOT / "csrc" / "include" / "trim_kernels.h").read_text(encoding="utf-8")
    assert set(kinds) == set(re.findall(r"^(?:int|const char\*) (tk_\w+)\(", header, re.MULTILINE))
    assert set(kinds.values()) == {"T"}


def build_wheel(folder: Path, **environment: str) -> Path:
    """A wheel of a copy of the repository, built without network."""
    # A space, as in many people's paths: ninja and shells split at it.
    source = folder / "the source"
    shutil.copytree(ROOT, source, ignore=NOT_SOURCE)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder],
        cwd=source,
        env={**os.environ, **environment},
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


def use(wheel: Path, folder: Path) -> list[str]:
    """What a fresh Python that finds only this wheel prints."""
    unpacked = folder / "unpacked"
    zipfile.ZipFile(wheel).extractall(unpacked)
    run = subprocess.run(
        [sys.executable, "-c", USE_IT],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stdout.splitlines()


def test_a_wheel_built_without_a_compiler_runs_anywhere_on_the_references(tmp_path):
    wheel = build_wheel(tmp_path, CXX="none")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("trim_kernels/lib/")]
    assert use(wheel, tmp_path) == [
        str(tmp_path / "unpacked" / "trim_kernels" / "__init__.py"),
        "None",
        "[[True, False, True]]",
    ]


@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="there is no C++ compiler")
def test_a_wheel_built_with_a_compiler_holds_the_library_and_names_its_platform(tmp_path):
    wheel = build_wheel(tmp_path)
    assert re.search(r"-py3-none-(linux|macosx)_\w+\.whl$", wheel.name)
    names = zipfile.ZipFile(wheel).namelist()
    assert [name for name in names if name.startswith("trim_kernels/lib/")] == [
        f"trim_kernels/lib/{native.LIBRARY.name}"
    ]
    assert {"trim_kernels/py.typed", "trim_prune/py.typed"} <= set(names)
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/"))]
    location, instruction_set, mask = use(wheel, tmp_path)
    assert location == str(tmp_path / "unpacked" / "trim_kernels" / "__init__.py")
    assert instruction_set in {"avx512", "avx2", "baseline"}
    assert mask == "[[True, False, True]]"


def test_a_compiler_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(subprocess.CalledProcessError) as failed:
        build_wheel(tmp_path, CXX="g+++")
    assert b"no compiler at CXX=g+++" in failed.value.stdout + failed.value.stderr


def test_a_source_distribution_holds_the_sources(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=NOT_SOURCE)
    command = [sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", str(tmp_path)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    csrc = {str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*") if path.is_file()}
    assert csrc | {"LICENSE", "setup.py", "pyproject.toml", "python/trim_prune/api.py"} <= names


@pytest.mark.skipif(shutil.which("nm") is None, reason="nm is not installed")
@pytest.mark.parametrize("instruction_set", ["avx2", "avx512"])
def test_no_code_for_one_instruction_set_can_serve_another(instruction_set):
    """The linker keeps one copy of weak code; it must not be one that needs AVX."""
    objects = list((ROOT / "build" / "native").glob(f"*.{instruction_set}.o"))
    if not objects:
        pytest.skip("no object files of an x86 build here")
    listing = subprocess.run(["nm", *objects], capture_output=True, text=True, check=True).stdout
    assert not re.findall(r"^[0-9a-f]+ [Wu] \S+", listing, re.MULTILINE)
