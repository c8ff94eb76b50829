"""Every command and every snippet of the README and the site runs, on a tiny model in place of the reader's."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import tomllib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from tiny_models import make_model, save_model

from trim_prune import prune
from trim_prune.budgets.layers import LAYER_BUDGETS
from trim_prune.budgets.rows import ROW_BUDGETS
from trim_prune.callbacks import CALLBACKS
from trim_prune.recipes import build_recipe
from trim_prune.scores import SCORES
from trim_prune.solvers import SOLVERS

ROOT = Path(__file__).parents[3]
DOCUMENTS = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]
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
    (r'out="pruned"', 'out="pruned", overwrite=True'),
]


@dataclass(frozen=True)
class Snippet:
    """A fenced block of a document."""

    place: str
    language: str
    text: str


def snippets(document):
    source = (ROOT / document).read_text(encoding="utf-8")
    return [
        Snippet(f"{document}:{source.count(chr(10), 0, match.start()) + 2}", match[1], match[2])
        for match in re.finditer(r"^```(\w*)\n(.*?)^```$", source, re.MULTILINE | re.DOTALL)
    ]


def smaller(text):
    for pattern, replacement in SMALLER:
        text = re.sub(pattern, replacement, text)
    return text


@pytest.fixture(scope="module")
def folders(tokenizer, text, tmp_path_factory):
    """What the snippets name: a model, texts, a recipe, two prunes of the model, a task."""
    place = tmp_path_factory.mktemp("place")
    model = save_model(place / "path/to/model", make_model("llama", max_position_embeddings=512), tokenizer)
    for name in ("pruned", "wanda"):
        prune(model, {"preset": "wanda", "sparsity": 0.5, "samples": 2, "seqlen": 16}, [text], out=place / name)
    (place / "text.txt").write_text(2 * text, encoding="utf-8")  # MSP wants more
    (place / "held-out.txt").write_text(text[:1500], encoding="utf-8")
    (place / "recipe.yaml").write_text("sparsity: 0.5\nsamples: 4\nseqlen: 16\n", encoding="utf-8")
    (place / "tasks/piqa").mkdir(parents=True)
    document = {"goal": "boil water", "sol1": "heat it", "sol2": "freeze it", "label": 0}
    (place / "tasks/piqa/validation.jsonl").write_text(json.dumps(document) + "\n", encoding="utf-8")
    return place


@pytest.fixture
def place(folders, tmp_path, monkeypatch):
    shutil.copytree(folders, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    for registry in (SCORES, ROW_BUDGETS, LAYER_BUDGETS, SOLVERS, CALLBACKS):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    return tmp_path / "place"


def made_before():
    """What the README's example of the kernels takes for granted."""
    generator = torch.Generator().manual_seed(0)
    weight, inputs = torch.randn(16, 24, generator=generator), torch.randn(24, 8, generator=generator)
    x = torch.randn(40, 24, generator=generator)
    whole_gram = x.t() @ x
    return {
        "weight": weight,
        "inputs": inputs,
        "x": x,
        "column_norms": x.norm(dim=0),
        "scores": weight.abs(),
        "counts": torch.full((16,), 12, dtype=torch.int32),
        "real": torch.ones(40).bool(),
        "whole_gram": whole_gram,
        "energy": torch.zeros(24, dtype=torch.float64),
        "gram": torch.zeros(24, 24),
        "hessian": whole_gram + torch.eye(24),
        "first": 4,
        "last": 20,
        "total": 16 * 12,
    }


@pytest.mark.filterwarnings("ignore")  # of what the harness of tasks and torch's distributed part import
@pytest.mark.parametrize("document", [document for document in DOCUMENTS if snippets(document)])
def test_a_document_runs_from_its_beginning_to_its_end(document, place, invoke):
    names = made_before()
    for snippet in snippets(document):
        if snippet.language == "python":
            exec(compile(smaller(snippet.text), snippet.place, "exec"), names)
        elif snippet.language == "sh":
            for command in snippet.text.replace("\\\n", " ").splitlines():
                _run(command, invoke)
        elif snippet.language == "yaml":
            values = yaml.safe_load(snippet.text)
            assert build_recipe(values).model_dump().keys() >= values.keys() - {"table"}
        else:
            assert snippet.language == "toml", f"{snippet.place}: nothing runs it"
            assert "trim_prune.plugins" in tomllib.loads(snippet.text)["project"]["entry-points"]


def _run(command, invoke):
    words = shlex.split(smaller(command), comments=True)
    plain = shlex.join(words)
    if plain in ELSEWHERE:
        assert (ROOT / ELSEWHERE[plain]).exists()
        return
    if "--tasks" in words and find_spec("lm_eval") is None:
        return
    if words[0] == "torchrun":
        # As one process; that several do the same is tested in tests/trim_prune/team.
        words = ["trim-prune", *words[words.index("trim_prune") + 1 :]]
    assert words[0] == "trim-prune", f"{command}: nothing runs it"
    if words[1] == "prune" and not {"--samples", "--recipe"} & set(words):
        words += ["--samples", "4", "--seqlen", "16"]
    if "--out" in words and Path(words[words.index("--out") + 1]).exists():
        words.append("--overwrite")
    code, _, errors = invoke(*words[1:])
    assert code == 0, f"{command}\n{errors}"
