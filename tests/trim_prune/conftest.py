from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_models import FAMILIES, make_model, make_tokenizer, save_model

# Nothing here may touch the network; a name that is not a folder fails at once instead of after retries.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


@pytest.fixture(autouse=True)
def one_thread():
    """The models are tiny: more threads only wait for each other, the more so beside other workers."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def cache_folder(monkeypatch, tmp_path):
    """What is kept between runs is kept within a test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "trim-prune"


@pytest.fixture(autouse=True)
def no_pages(request, monkeypatch):
    """A page takes a second to draw: none is, but for a test that asks for ``pages``."""
    if "pages" not in request.fixturenames:
        monkeypatch.setattr("trim_prune.report.page.report_page", lambda run, derived: "not drawn")


@pytest.fixture
def pages():
    """Ask for it to have reports drawn."""


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="session")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="session")
def text():
    """A few thousand bytes of unlike words: every window of it is different."""
    generator = torch.Generator().manual_seed(7)
    letters = torch.randint(97, 123, (6000,), generator=generator).tolist()
    gaps = set(torch.randint(0, 6000, (1000,), generator=generator).tolist())
    return "".join(" " if index in gaps else chr(letter) for index, letter in enumerate(letters))


@pytest.fixture(scope="session")
def text_file(text, tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def llama_folder(tokenizer, tmp_path_factory):
    """A saved tiny Llama; tests must not change it."""
    return save_model(tmp_path_factory.mktemp("models") / "llama", make_model("llama"), tokenizer)


@pytest.fixture(scope="session")
def trim_prune_command():
    """Run ``trim-prune`` in a process of its own."""

    def run(*arguments: object, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "trim_prune", *map(str, arguments)]
        # Wide, so that rich does not break the lines that are looked for.
        environment = os.environ | {"COLUMNS": "200", "NO_COLOR": "1"} | (environment or {})
        return subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, check=False)

    return run


@pytest.fixture
def invoke(monkeypatch, capfd):
    """Run the command line in this process: exit code, standard output, standard error."""
    from trim_prune.cli import main

    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["trim-prune", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        captured = capfd.readouterr()
        return exit_.value.code or 0, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def content():
    """The files of an output folder, without what tells of times."""
    telling_times = {
        "run.json",
        "events.jsonl",
        "report.json",
        "report.html",
        "README.md",
        "search.jsonl",
        "search.svg",
    }

    def read(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in telling_times}

    return read


@pytest.fixture
def leftovers():
    """What a folder holds besides the named entries."""

    def list_other(folder: Path, *expected: str) -> list[str]:
        return sorted(path.name for path in folder.iterdir() if path.name not in expected)

    return list_other
