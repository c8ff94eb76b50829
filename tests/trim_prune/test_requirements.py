from __future__ import annotations

import subprocess
import sys

import pytest

from trim_prune.requirements import PACKAGES, require


def test_every_missing_package_is_named_with_the_command_that_installs_it():
    message = r"trim_prune needs no_such_a, no_such_b: pip install 'trim-kernels\[prune\]'"
    with pytest.raises(ModuleNotFoundError, match=message) as error:
        require(["yaml", "no_such_a", "no_such_b"])
    assert error.value.name == "no_such_a"


def test_what_is_installed_is_enough():
    require(PACKAGES)


BLOCKED = """
import sys
from importlib.machinery import PathFinder
class Missing(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name == "pydantic" else PathFinder.find_spec(name, path, target)
sys.meta_path = [Missing if finder is PathFinder else finder for finder in sys.meta_path]
import trim_prune
"""
BROKEN = """
import sys
sys.modules["trim_prune.timing"] = None
import trim_prune
"""


@pytest.mark.parametrize(
    ("code", "message"),
    [(BLOCKED, "trim_prune needs pydantic: pip install"), (BROKEN, "import of trim_prune.timing halted")],
    ids=["a package is missing", "a module of ours is broken"],
)
def test_importing_says_what_is_wrong(code, message):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1]
