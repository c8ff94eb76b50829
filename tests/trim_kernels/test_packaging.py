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

from trim_kernels import cuda, native

ROOT = Path(__file__).parents[2]
NOT_SOURCE = shutil.ignore_patterns(
    ".*", "build", "dist", "*.egg-info", "__pycache__", "lib", "tests", "models", "runs", "shared"
)
USE_IT = """
import torch, trim_kernels
from trim_kernels import cuda, native
print(trim_kernels.__file__)
print(native.instruction_set())
print(trim_kernels.row_mask(torch.tensor([[3.0, 1.0, 2.0]]), 1).tolist())
"""


@pytest.mark.skipif(shutil.which("nm") is None, reason="nm is not installed")
@pytest.mark.parametrize(
    ("library", "header"),
    [(native.LIBRARY, "trim_kernels.h"), (cuda.LIBRARY, "trim_kernels_cuda.h")],
    ids=["cpu", "cuda"],
)
def test_a_library_exports_exactly_its_header(library, header):
    if not library.exists():
        pytest.skip("the library is not built")
    listing = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True).stdout
    kinds = {line.split()[-1]: line.split()[-2] for line in listing.splitlines()}
    text = (ROOT / "csrc" / "include" / header).read_text(encoding="utf-8")
    assert set(kinds) == set(re.findall(r"^(?:int|int64_t|const char\*) (tk_\w+)\(", text, re.MULTILINE))
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
    wheel = build_wheel(tmp_path, CXX="none", NVCC="none")
    assert wheel.name.endswith("-py3-none-any.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in names if name.startswith("trim_kernels/lib/")]
    presets = {f"trim_prune/presets/{file.name}" for file in (ROOT / "python/trim_prune/presets").glob("*.yaml")}
    assert "trim_prune/presets/best.yaml" in presets <= set(names)
    assert use(wheel, tmp_path) == [
        str(tmp_path / "unpacked" / "trim_kernels" / "__init__.py"),
        "None",
        "[[True, False, True]]",
    ]


@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="there is no C++ compiler")
def test_a_wheel_built_with_a_compiler_holds_the_library_and_names_its_platform(tmp_path):
    wheel = build_wheel(tmp_path, NVCC="none")
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


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"CXX": "g+++"}, b"no compiler at CXX=g+++"),
        ({"CXX": "none", "NVCC": "nvccc"}, b"no compiler at NVCC=nvccc"),
    ],
    ids=str,
)
def test_a_compiler_that_is_not_there_is_an_error(tmp_path, environment, words):
    with pytest.raises(subprocess.CalledProcessError) as failed:
        build_wheel(tmp_path, **environment)
    assert words in failed.value.stdout + failed.value.stderr


needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="there is no nvcc")


@needs_nvcc
def test_an_unknown_gpu_is_an_error(tmp_path):
    with pytest.raises(subprocess.CalledProcessError) as failed:
        build_wheel(tmp_path, CXX="none", TRIM_KERNELS_CUDA_ARCHS="90a 42")
    assert b"TRIM_KERNELS_CUDA_ARCHS: expected some of 80 86" in failed.value.stdout + failed.value.stderr


@needs_nvcc
def test_what_nvcc_says_is_shown_whole(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=NOT_SOURCE)
    for kernel in (source / "csrc" / "cuda").glob("*.cu"):
        kernel.unlink()
    (source / "csrc" / "cuda" / "wrong.cu").write_text("__global__ void wrong() { this is no code; }")
    build = subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_py"],
        cwd=source,
        env={**os.environ, "CXX": "none", "TRIM_KERNELS_CUDA_ARCHS": "80"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert build.returncode != 0
    assert "wrong.cu(1): error: " in build.stdout
    assert "NVCC=none to install without CUDA kernels" in build.stdout


def test_a_source_distribution_holds_the_sources(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=NOT_SOURCE)
    command = [sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", str(tmp_path)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    csrc = {str(path.relative_to(ROOT)) for path in (ROOT / "csrc").rglob("*") if path.is_file()}
    assert (
        csrc
        | {"LICENSE", "setup.py", "pyproject.toml", "python/trim_prune/api.py", "python/trim_prune/presets/best.yaml"}
        <= names
    )


@pytest.mark.skipif(shutil.which("nm") is None, reason="nm is not installed")
@pytest.mark.parametrize("instruction_set", ["avx2", "avx512"])
def test_no_code_for_one_instruction_set_can_serve_another(instruction_set):
    """The linker keeps one copy of weak code; it must not be one that needs AVX."""
    objects = list((ROOT / "build" / "native").glob(f"*.{instruction_set}.o"))
    if not objects:
        pytest.skip("no object files of an x86 build here")
    listing = subprocess.run(["nm", *objects], capture_output=True, text=True, check=True).stdout
    assert not re.findall(r"^[0-9a-f]+ [Wu] \S+", listing, re.MULTILINE)
