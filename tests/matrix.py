"""Test the architectures with the oldest and the newest transformers that pyproject.toml allows: make test-matrix.

Each has an environment in build/matrix that holds what differs from .venv, transformers and what it pins; all else,
torch before all, is that of .venv. What is given on the command line goes to pytest.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "matrix"
TESTS = [
    f"tests/trim_prune/{name}"
    for name in ("test_architectures.py", "test_experts.py", "test_describe.py", "models", "output", "evaluation")
]
DIFFERENT, SUITED = ("transformers", "peft"), "datasets>=4"
"""datasets has to suit the same huggingface_hub as transformers."""


def oldest(package: str) -> str:
    """The first release that pyproject.toml allows, as pip wants it."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    lines = [line for lines in extras.values() for line in lines if re.match(rf"{package}\b", line)]
    (version,) = {line.partition(">=")[2] for line in lines}
    return f"{package}=={version}" + ".0" * (2 - version.count("."))


def python_of(name: str, packages: list[str]) -> Path:
    """The interpreter of an environment with these packages over those of .venv."""
    folder = FOLDER / name
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=False, symlinks=True)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        shared = folder / "lib" / version / "site-packages" / "shared.pth"
        shared.write_text(sysconfig.get_path("purelib") + "\n")
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, "--upgrade", "--upgrade-strategy", "only-if-needed", *packages], check=True)
    return python


def environment() -> dict[str, str]:
    """Variables with which a command sees the packages of this repository."""
    return os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'python'}"}


def main() -> int:
    failed = []
    for name, packages in {"oldest": [oldest(package) for package in DIFFERENT], "newest": list(DIFFERENT)}.items():
        python = python_of(name, [*packages, SUITED])
        subprocess.run(
            [str(python), "-c", "import transformers; print('transformers', transformers.__version__)"], check=True
        )
        done = subprocess.run(
            [str(python), "-m", "pytest", "-q", *sys.argv[1:], *TESTS], cwd=ROOT, env=environment(), check=False
        )
        failed += [name] if done.returncode else []
    print("failed: " + ", ".join(failed) if failed else "both pass")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
