"""What ranks can ask of one another, over gloo."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_two_three_and_five_ranks_tell_one_another_everything():
    script = Path(__file__).with_name("messages_script.py")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
