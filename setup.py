"""Builds csrc with ninja into trim_kernels/lib; everything else is in pyproject.toml.

Needs no torch. Without a C++ compiler (``CXX=none`` plays that) the package installs all the same and runs on its
plain-torch references.
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
BUILD = ROOT / "build" / "native"
CSRC = Path("..", "..", "csrc")  # from BUILD: ninja would split an absolute path at its spaces
LIBRARY = f"libtrim_kernels_cpu{'.dylib' if sys.platform == 'darwin' else '.so'}"

FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-ffp-contract=fast", "-pthread"]
INCLUDES = [f"-I{CSRC / folder}" for folder in ("include", "common", "cpu")]
# The standard library's templates ignore -fvisibility=hidden.
EXPORTS = [] if sys.platform == "darwin" else [f"-Wl,--version-script={CSRC / 'cpu' / 'exports.map'}"]
ONCE = ["dispatch", "parallel", "row_metrics", "row_rounding", "row_search"]
PER_INSTRUCTION_SET = ["row_select", "row_order", "row_quality", "row_outputs"]
X86_INSTRUCTION_SETS = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx2", "-mfma", "-mf16c"],
}


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


def build_native() -> Path | None:
    """The built library, or None without a compiler."""
    cxx = compiler()
    if cxx is None:
        print("trim-kernels: no C++ compiler found; installing without native kernels", file=sys.stderr)
        return None
    import ninja

    BUILD.mkdir(parents=True, exist_ok=True)
    (BUILD / "build.ninja").write_text(ninja_file(cxx), encoding="utf-8")
    try:
        subprocess.run([Path(ninja.BIN_DIR) / "ninja", "-C", BUILD], check=True)
    except subprocess.CalledProcessError:
        raise SystemExit(
            f"trim-kernels: {cxx} could not compile csrc (its messages are above); choose another compiler with CXX, "
            "or CXX=none to install without native kernels"
        ) from None
    return BUILD / LIBRARY


class BuildWithLibrary(build_py):  # type: ignore[misc]
    """Copies the library into the package: of the build, or of the source tree if it is editable."""

    def run(self) -> None:
        """Build the library first, then the Python files."""
        built = build_native()
        if built is not None:
            packages = ROOT if self.editable_mode else Path(self.build_lib)
            target = packages / "trim_kernels" / "lib" / LIBRARY
            target.parent.mkdir(parents=True, exist_ok=True)
            # A rename, so that a process that has the old library mapped keeps it.
            shutil.copy(built, target.with_suffix(".new"))
            target.with_suffix(".new").replace(target)
        super().run()


class WithLibrary(Distribution):  # type: ignore[misc]
    """A distribution with a compiled part belongs to its platform; without one it runs anywhere."""

    def has_ext_modules(self) -> bool:
        """Whether there is a compiler for the library."""
        return compiler() is not None


class AnyPythonWheel(bdist_wheel):  # type: ignore[misc]
    """One wheel for every Python 3: ctypes needs no Python ABI."""

    def get_tag(self) -> tuple[str, str, str]:
        """py3-none-<platform>, or py3-none-any."""
        return "py3", "none", super().get_tag()[2]


setup(distclass=WithLibrary, cmdclass={"build_py": BuildWithLibrary, "bdist_wheel": AnyPythonWheel})
