"""The snippets of docs/formats.md run one after the other, on a tiny model in place of the reader's."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
from tiny_models import make_model

DOCUMENT = Path(__file__).parents[3] / "docs" / "formats.md"


def test_the_snippets_run(llama_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(llama_folder, "path/to/model")
    names = {}
    for snippet in re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL):
        exec(snippet, names)
    assert np.array_equal(names["kept"], np.ones(make_model("llama").model.layers[0].mlp.up_proj.weight.shape))
