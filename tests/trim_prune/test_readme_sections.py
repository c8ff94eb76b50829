"""Commands and snippets of two sections of the README run in their order, on a tiny model in place of the reader's."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


def blocks(section):
    text = README.read_text(encoding="utf-8").split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.findall(r"^```(sh|python)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("section", ["Masks, packed checkpoints, training", "Inside other pruners"])
def test_what_a_section_says_runs(section, llama_folder, text, tmp_path, monkeypatch, invoke):
    shutil.copytree(llama_folder, tmp_path / "path/to/model")
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names = {}
    assert blocks(section)
    for language, block in blocks(section):
        if language == "python":
            exec(block, names)
            continue
        for command in block.splitlines():
            words = shlex.split(command.replace("--samples 128", "--samples 4 --seqlen 16"), comments=True)
            code, _, errors = invoke(*words[1:])
            assert code == 0, errors
