"""Compiles csrc/cuda for the CPU: the same sources, with the headers of this folder in place of CUDA's."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[2]
INCLUDES = ["tests/cuda_on_cpu", "csrc/cuda", "csrc/common", "csrc/include"]  # ours first
FLAGS = ["-x", "c++", "-std=c++17", "-O1", "-g1", "-fPIC", "-ffp-contract=off", "-fno-strict-aliasing"]
FLAGS += ["-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Wno-unused-function"]
# undefined_behaviour.h has the functions that these call.
FLAGS += ["-fsanitize=alignment,bounds,shift-exponent,integer-divide-by-zero,signed-integer-overflow"]


def build(sources: Iterable[Path], out: Path, *, defines: Iterable[str] = ()) -> Path:
    """A shared library of the sources, made anew only if a source, a header or a flag is.

    Its folder's name has a hash of them all, beside ``out``. Several processes may call at once.

    Raises:
        RuntimeError: with all that the compiler said.
    """
    compiler = shlex.split(os.environ.get("CXX", "g++"))
    includes = [f"-I{ROOT / folder}" for folder in INCLUDES]
    command = [*compiler, *FLAGS, *includes, *(f"-D{define}" for define in defines)]
    headers = sorted(path for folder in INCLUDES for path in (ROOT / folder).rglob("*.*h"))
    common = _hash([" ".join(command).encode(), *(path.read_bytes() for path in headers)])
    objects = {source: f"{source.stem}-{_hash([common.encode(), source.read_bytes()])}.o" for source in sources}
    library = out.parent / f"{out.stem}-{_hash([*(name.encode() for name in objects.values())])}" / out.name
    library.parent.mkdir(parents=True, exist_ok=True)
    with (out.parent / "lock").open("w") as lock, ThreadPoolExecutor(2) as pool:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            paths = [out.parent / name for name in objects.values()]
            list(pool.map(lambda source, path: _make([*command, "-c", source], path), objects, paths))
            _make([*compiler, "-shared", *paths], library)
    return library


def _hash(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:16]


def _make(command: list[str | Path], path: Path) -> None:
    """Run the command for a file, which appears whole or not at all."""
    if path.exists():
        return
    unfinished = path.with_name(f"unfinished-{path.name}")
    result = subprocess.run([*command, "-o", unfinished], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode:
        raise RuntimeError(f"{shlex.join(map(str, command))}\n{result.stdout}")
    unfinished.replace(path)
