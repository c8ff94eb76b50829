"""Whether a fresh process makes of a written folder the model that was in memory.

Run as python -m trim_prune.structured.check FOLDER DTYPE THREADS FILE: it loads the folder, computes the logits of
the tokens in FILE, and writes them beside it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import TrimPruneError
from ..models.device import evaluation_mode
from ..models.load import DTYPES, auto_class, load_model, read_config
from .plan import count_parameters
from .results import Check
from .save import is_ragged

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 5e-2}
"""Share of the largest logit by which logits may differ; a model that is not the same differs by far more."""
LINES = 6
"""Of what the process says when it fails."""


@torch.no_grad()
def check_written(model: Any, tokens: Tensor, folder: Path) -> Check:
    """Load the folder in a process of its own, and compare logits and the count of parameters.

    Raises:
        TrimPruneError: it does not load there, or is not the same model.
    """
    with evaluation_mode(model):
        logits = model(input_ids=tokens.to(next(model.parameters()).device), use_cache=False).logits.cpu()
    dtype = next((name for name, type_ in DTYPES.items() if type_ == model.dtype), "auto")
    tolerance = TOLERANCE.get(model.dtype, TOLERANCE[torch.float32])
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "tokens.safetensors"
        save_file({"tokens": tokens.contiguous()}, file)
        arguments = [str(folder), dtype, str(torch.get_num_threads()), str(file)]
        done = subprocess.run(
            [sys.executable, "-m", __name__, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        if done.returncode != 0:
            raise _other("a model", "\n".join(done.stderr.strip().splitlines()[-LINES:]))
        found = json.loads(done.stdout.splitlines()[-1])
        other = load_file(_beside(file))["logits"]
    difference = float((other.float() - logits.float()).abs().max() / logits.float().abs().max())
    if found["parameters"] != count_parameters(model):
        raise _other(f"{count_parameters(model)} parameters", str(found["parameters"]))
    if not difference <= tolerance:
        raise _other(f"logits within {tolerance} of the largest", f"{difference:.3g}")
    return Check(found["loaded_by"], found["parameters"], difference)


def _beside(file: Path) -> Path:
    return file.with_name("logits.safetensors")


def _other(expected: str, got: str) -> TrimPruneError:
    return TrimPruneError(
        "a fresh process does not make of the written folder the model that was computed",
        expected=expected,
        got=got,
        fix="check the disk and the installed transformers; the output folder was not created",
    )


@torch.no_grad()
def main(folder: str, dtype: str, threads: str, file: str) -> None:
    """What the fresh process does."""
    torch.set_num_threads(int(threads))
    if is_ragged(Path(folder)):
        loaded_by, model = "trim_prune.load", load_model(folder, dtype=dtype, device="cpu").model
    else:
        kind = auto_class(read_config(Path(folder), folder, trust_remote_code=False))
        loaded_by = f"transformers.{kind.__name__}"
        model = kind.from_pretrained(folder, dtype=DTYPES[dtype], use_safetensors=True).eval()
    logits = model(input_ids=load_file(file)["tokens"], use_cache=False).logits
    save_file({"logits": logits.contiguous()}, _beside(Path(file)))
    print(json.dumps({"loaded_by": loaded_by, "parameters": count_parameters(model)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
