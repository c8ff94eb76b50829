"""Every command and every snippet of the README and the site runs, on a tiny model in place of the reader's."""

from __future__ import annotations

import re
import shlex
import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml

from trim_prune import Recipe
from trim_prune.budgets.layers import LAYER_BUDGETS
from trim_prune.budgets.rows import ROW_BUDGETS
from trim_prune.scores import SCORES
from trim_prune.solvers import SOLVERS

ROOT = Path(__file__).parents[3]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ELSEWHERE = {
    "make demo": "tests/trim_prune/test_demo.py",
    "make test": ".ci/run",
    "pip install '.[prune]'": "tests/trim_kernels/test_packaging.py",
    "pip install '.[permute]'": "pyproject.toml",
}
"""Commands that are not run here, and where what they do is."""
SMALLER = [
    (r"--samples \d+", "--samples 4"),
    (r"--seqlen \d+", "--seqlen 16"),
    (r'"samples": \d+', '"samples": 4'),
]


@dataclass(frozen=True)
class Snippet:
    """A fenced block of a document."""

    document: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def snippets(*languages):
    found = []
    for document in DOCUMENTS:
        source = document.read_text(encoding="utf-8")
        for match in re.finditer(r"^```(\w*)\n(.*?)^```$", source, re.MULTILINE | re.DOTALL):
            line = source.count("\n", 0, match.start()) + 2
            snippet = Snippet(str(document.relative_to(ROOT)), line, match[1], match[2])
            if snippet.language in languages:
                found.append(snippet)
    return found


def smaller(text):
    for pattern, replacement in SMALLER:
        text = re.sub(pattern, replacement, text)
    return text


@pytest.fixture
def place(tmp_path, monkeypatch, llama_folder, text):
    """A folder with what the snippets name."""
    shutil.copytree(llama_folder, tmp_path / "path/to/model")
    (tmp_path / "text.txt").write_text(2 * text, encoding="utf-8")  # MSP wants more
    (tmp_path / "held-out.txt").write_text(text[::-1], encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text("sparsity: 0.5\nsamples: 4\nseqlen: 16\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for registry in (SCORES, ROW_BUDGETS, LAYER_BUDGETS, SOLVERS):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    return tmp_path


def made_before():
    """What the README's example of the kernels takes for granted."""
    generator = torch.Generator().manual_seed(0)
    weight, inputs = torch.randn(16, 24, generator=generator), torch.randn(24, 8, generator=generator)
    x = torch.randn(40, 24, generator=generator)
    names = {"weight": weight, "inputs": inputs, "x": x, "column_norms": x.norm(dim=0), "real": torch.ones(40).bool()}
    whole_gram = x.t() @ x
    energy, gram = torch.zeros(24, dtype=torch.float64), torch.zeros(24, 24)
    hessian = whole_gram + torch.eye(24)
    return (
        names
        | {"energy": energy, "gram": gram, "whole_gram": whole_gram, "hessian": hessian}
        | {
            "first": 4,
            "last": 20,
            "total": 16 * 12,
        }
    )


@pytest.mark.parametrize("document", sorted({snippet.document for snippet in snippets("python")}))
def test_python(document, place, invoke):
    if document == "docs/index.md":
        # Its first snippet loads what its first command wrote.
        _run(
            "trim-prune prune path/to/model --preset wanda --sparsity 0.5 --data text.txt --samples 4 --out pruned",
            invoke,
        )
    names = made_before()
    for snippet in snippets("python"):
        if snippet.document == document:
            exec(compile(smaller(snippet.text), str(snippet), "exec"), names)


@pytest.mark.parametrize("snippet", snippets("sh"), ids=str)
def test_commands(snippet, place, invoke):
    for command in snippet.text.replace("\\\n", " ").splitlines():
        command = command.split("  #")[0].strip()
        if command in ELSEWHERE:
            assert (ROOT / ELSEWHERE[command]).exists()
        else:
            _run(command, invoke)


def _run(command, invoke):
    words = shlex.split(smaller(command), comments=True)
    assert words[0] == "trim-prune", f"{command}: nothing runs it"
    if "prune" in words and not {"--samples", "--recipe"} & set(words):
        words += ["--samples", "4", "--seqlen", "16"]
    out = words[words.index("--out") + 1] if "--out" in words else None
    if out and Path(out).exists():
        words.append("--overwrite")
    code, _, errors = invoke(*words[1:])
    assert code == 0, errors


@pytest.mark.parametrize("snippet", snippets("yaml"), ids=str)
def test_recipes(snippet):
    values = yaml.safe_load(snippet.text)
    assert Recipe.build(values).sparsity == values.get("sparsity", 0.5)


@pytest.mark.parametrize("snippet", snippets("toml"), ids=str)
def test_tables(snippet):
    assert "trim_prune.plugins" in tomllib.loads(snippet.text)["project"]["entry-points"]


def test_no_snippet_is_left_out():
    assert snippets("") == []
    languages = set(
        re.findall(r"^```(\w+)$", "\n".join(d.read_text(encoding="utf-8") for d in DOCUMENTS), re.MULTILINE)
    )
    assert languages <= {"python", "sh", "yaml", "toml"}
