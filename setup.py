"""Builds csrc with ninja into trim_kernels/lib; everything else is in pyproject.toml.

Needs no torch. Without a C++ compiler (``CXX=none`` plays that) the package installs all the same and runs on its
plain-torch references; without nvcc (``NVCC=none``) it installs without CUDA kernels, which
``TRIM_KERNELS_CUDA_ARCHS="90a 100"`` compiles for fewer GPUs.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent.resolve()
BUILD = ROOT / "build"
CSRC = Path("..", "..", "csrc")  # from a folder in BUILD: ninja would split an absolute path at its spaces
LIBRARY = f"libtrim_kernels_cpu{'.dylib' if sys.platform == 'darwin' else '.so'}"
CUDA_LIBRARY = "libtrim_kernels_cuda.so"

FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-ffp-contract=fast", "-pthread"]
INCLUDES = [f"-I{CSRC / folder}" for folder in ("include", "common", "cpu")]
# The standard library's templates ignore -fvisibility=hidden.
EXPORTS_MAP = CSRC / "common" / "exports.map"
EXPORTS = [] if sys.platform == "darwin" else [f"-Wl,--version-script={EXPORTS_MAP}"]
ONCE = ["dispatch", "parallel", "row_metrics", "row_rounding", "row_search"]
PER_INSTRUCTION_SET = [
    "row_select",
    "row_order",
    "row_quality",
    "row_outputs",
    "nm_select",
    "column_sqnorm",
    "gram",
    "obs_update",
    "row_error_curve",
    "pack_values",
]
X86_INSTRUCTION_SETS = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx2", "-mfma", "-mf16c"],
}
CUDA_FLAGS = ["-std=c++17", "-O3", "-Xcompiler", "-fPIC,-fvisibility=hidden,-Wall,-Wextra"]
CUDA_INCLUDES = [f"-I{CSRC / folder}" for folder in ("include", "common", "cuda", Path("cuda", "ptx"))]
CUDA_ARCHITECTURES = ["80", "86", "89", "90a", "100", "120"]
ONLY_FOR = {"row_products_hopper": "90a"}
"""Files with instructions of one architecture."""


def compiler() -> str | None:
    """The command of the C++ compiler: $CXX (with its arguments), or the first of the usual names that is there."""
    chosen = os.environ.get("CXX")
    if chosen == "none":
        return None
    if chosen and not shutil.which(shlex.split(chosen)[0]):
        raise SystemExit(f"trim-kernels: no compiler at CXX={chosen}; correct it, or CXX=none for no native kernels")
    return chosen or next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), None)


def ninja_file(cxx: str) -> str:
    """Every object of the library, and the library."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    sets = X86_INSTRUCTION_SETS if x86 else {"baseline": []}
    define = ["-DTRIM_X86"] if x86 else []
    objects = [(name, name, define) for name in ONCE]
    for isa, options in sets.items():
        objects += [(f"{name}.{isa}", name, [*define, f"-DTRIM_ISA={isa}", *options]) for name in PER_INSTRUCTION_SET]
    lines = [
        "rule compile",
        f"  command = {cxx} {' '.join(FLAGS + INCLUDES)} $options -MD -MF $out.d -c $in -o $out",
        "  description = compile $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        f"  command = {cxx} -shared -pthread {' '.join(EXPORTS)} $in -o $out",
        "  description = link $out",
    ]
    for output, source, options in objects:
        lines += [
            f"build {output}.o: compile {CSRC / 'cpu' / source}.cpp",
            f"  options = {' '.join(options)}",
        ]
    lines.append(f"build {LIBRARY}: link {' '.join(f'{output}.o' for output, _, _ in objects)}")
    return "\n".join([*lines, f"default {LIBRARY}", ""])


def nvcc() -> str | None:
    """The command of CUDA's compiler: $NVCC, or nvcc where it is usually found."""
    chosen = os.environ.get("NVCC")
    if chosen == "none":
        return None
    if chosen and not shutil.which(chosen):
        raise SystemExit(f"trim-kernels: no compiler at NVCC={chosen}; correct it, or NVCC=none for no CUDA kernels")
    return chosen or next(
        (found for name in ("nvcc", "/usr/local/cuda/bin/nvcc") if (found := shutil.which(name))), None
    )


def cuda_architectures(command: str) -> list[str]:
    """What to compile for: $TRIM_KERNELS_CUDA_ARCHS, or all of ours that this nvcc knows."""
    wanted = os.environ.get("TRIM_KERNELS_CUDA_ARCHS", "").replace(",", " ").replace(";", " ").split()
    listing = subprocess.run([command, "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout
    known = [line.removeprefix("compute_").strip() for line in listing.splitlines()]
    supported = [name for name in CUDA_ARCHITECTURES if name.rstrip("a") in known]
    unknown = set(wanted) - set(supported)
    if unknown or not supported:
        raise SystemExit(
            f"trim-kernels: TRIM_KERNELS_CUDA_ARCHS: expected some of {' '.join(supported)}, got {' '.join(wanted)}; "
            "correct it, or NVCC=none for no CUDA kernels"
        )
    return wanted or supported


def cuda_ninja_file(command: str) -> str:
    """Every object of the CUDA library, each for all architectures, and the library."""
    architectures = cuda_architectures(command)
    names = " ".join(f"sm_{name}" for name in architectures)
    lines = [
        "rule compile",
        f"  command = {command} {' '.join(CUDA_FLAGS + CUDA_INCLUDES)} $options -MD -MF $out.d -c $in -o $out",
        "  description = compile $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        f"  command = {command} -shared -cudart static -Xlinker --version-script={EXPORTS_MAP} $in -o $out",
        "  description = link $out",
    ]
    sources = sorted(path.stem for path in (ROOT / "csrc" / "cuda").glob("*.cu"))
    for source in sources:
        # A file for an architecture that is not wanted is compiled for the others, and holds nothing then.
        chosen = [name for name in architectures if name == ONLY_FOR.get(source, name)] or architectures
        codes = [f"-gencode=arch=compute_{name},code=sm_{name}" for name in chosen]
        lines += [
            f"build {source}.o: compile {CSRC / 'cuda' / source}.cu",
            f"  options = {' '.join(codes)} '-DTRIM_ARCHITECTURES=\"{names}\"'",
        ]
    lines.append(f"build {CUDA_LIBRARY}: link {' '.join(f'{source}.o' for source in sources)}")
    return "\n".join([*lines, f"default {CUDA_LIBRARY}", ""])


def build_with_ninja(folder: Path, ninja_file: str, library: str, remedy: str) -> Path:
    """Write the ninja file and run it."""
    import ninja

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "build.ninja").write_text(ninja_file, encoding="utf-8")
    try:
        subprocess.run([Path(ninja.BIN_DIR) / "ninja", "-C", folder], check=True)
    except subprocess.CalledProcessError:
        raise SystemExit(
            f"trim-kernels: {library} could not be compiled (the compiler's messages are above); {remedy}"
        ) from None
    return folder / library


def build_libraries() -> list[Path]:
    """The libraries that this machine has compilers for."""
    built = []
    cxx, cuda = compiler(), nvcc()
    if cxx:
        remedy = "choose another compiler with CXX, or CXX=none to install without native kernels"
        built.append(build_with_ninja(BUILD / "native", ninja_file(cxx), LIBRARY, remedy))
    else:
        print("trim-kernels: no C++ compiler found; installing without native kernels", file=sys.stderr)
    if cuda:
        remedy = "choose another nvcc with NVCC, or NVCC=none to install without CUDA kernels"
        built.append(build_with_ninja(BUILD / "cuda", cuda_ninja_file(cuda), CUDA_LIBRARY, remedy))
    else:
        print("trim-kernels: no nvcc found; installing without CUDA kernels", file=sys.stderr)
    return built


class BuildWithLibrary(build_py):  # type: ignore[misc]
    """Copies the libraries into the package: of the build, or of the source tree if it is editable."""

    def run(self) -> None:
        """Build the libraries first, then the Python files."""
        packages = ROOT if self.editable_mode else Path(self.build_lib)
        for built in build_libraries():
            target = packages / "trim_kernels" / "lib" / built.name
            target.parent.mkdir(parents=True, exist_ok=True)
            # A rename, so that a process that has the old library mapped keeps it.
            shutil.copy(built, target.with_suffix(".new"))
            target.with_suffix(".new").replace(target)
        super().run()


class WithLibrary(Distribution):  # type: ignore[misc]
    """A distribution with a compiled part belongs to its platform; without one it runs anywhere."""

    def has_ext_modules(self) -> bool:
        """Whether there is a compiler for one of the libraries."""
        return compiler() is not None or nvcc() is not None


class AnyPythonWheel(bdist_wheel):  # type: ignore[misc]
    """One wheel for every Python 3: ctypes needs no Python ABI."""

    def get_tag(self) -> tuple[str, str, str]:
        """py3-none-<platform>, or py3-none-any."""
        return "py3", "none", super().get_tag()[2]


setup(distclass=WithLibrary, cmdclass={"build_py": BuildWithLibrary, "bdist_wheel": AnyPythonWheel})
