"""Run something beside llm-compressor: its tests (make test-llmcompressor), or python -m benchmarks.llm_compressor.

It wants an older transformers than .venv has, so it has an environment over that of .venv, as those of matrix.py; the
release is that of constraints.txt. What is given on the command line goes to Python.
"""

from __future__ import annotations

import subprocess
import sys

from matrix import ROOT, environment, python_of

TESTS = ["-m", "pytest", "-q", "tests/trim_prune/integrations/test_llmcompressor.py"]


def release() -> str:
    """As pip wants it."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return next(line for line in lines if line.startswith("llmcompressor=="))


if __name__ == "__main__":
    python = python_of("llmcompressor", [release()])
    sys.exit(subprocess.run([python, *(sys.argv[1:] or TESTS)], cwd=ROOT, env=environment(), check=False).returncode)
