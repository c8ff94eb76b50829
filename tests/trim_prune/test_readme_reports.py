"""The commands of the README's sections on reports and evaluation run as they stand there."""

from __future__ import annotations

import json
import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest
from tiny_models import make_model, save_model

from trim_prune import prune

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def commands(section):
    body = re.search(rf"^## {section}\n(.*?)^## ", README, flags=re.DOTALL | re.MULTILINE)[1]
    return [line for block in re.findall(r"```sh\n(.*?)```", body, flags=re.DOTALL) for line in block.splitlines()]


COMMANDS = [*commands("Reports"), *commands("Evaluation")]


@pytest.fixture
def folders(tokenizer, text, tmp_path, monkeypatch):
    """What the commands name, in the folder that they run in."""
    monkeypatch.chdir(tmp_path)
    Path("path/to").mkdir(parents=True)
    model = save_model(Path("path/to/model"), make_model("llama", max_position_embeddings=512), tokenizer)
    base = {"sparsity": 0.5, "samples": 2, "seqlen": 16}
    prune(model, base | {"preset": "wanda"}, [text], out="wanda")
    prune(model, base, [text], out="pruned")
    Path("held-out.txt").write_text(text[:1500], encoding="utf-8")
    Path("tasks/piqa").mkdir(parents=True)
    document = {"goal": "boil water", "sol1": "heat it", "sol2": "freeze it", "label": 0}
    Path("tasks/piqa/validation.jsonl").write_text(json.dumps(document) + "\n", encoding="utf-8")
    return tmp_path


def test_both_sections_have_commands():
    assert len(COMMANDS) == 5


@pytest.mark.filterwarnings("ignore")  # of what the harness imports
@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_runs(command, folders, invoke):
    if "--tasks" in command and find_spec("lm_eval") is None:
        pytest.skip("no lm-eval: pip install 'trim-kernels[eval]'")
    program, *arguments = shlex.split(command)
    assert program == "trim-prune"
    code, printed, errors = invoke(*arguments)
    assert code == 0, errors
    assert printed
    if "--out" in arguments:
        assert Path("compare.html").is_file()
    if arguments[0] == "evaluate":
        assert json.loads(Path("pruned/run.json").read_text())["evaluations"]
