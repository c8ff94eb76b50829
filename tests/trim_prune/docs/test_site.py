"""The site is built, and whatever mkdocs would warn of is an error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="pip install '.[docs]'")
pytest.importorskip("mkdocstrings", reason="pip install '.[docs]'")

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


def test_every_page_is_there(site):
    pages = {path.relative_to(ROOT / "docs").with_suffix("") for path in (ROOT / "docs").rglob("*.md")}
    for page in pages:
        assert (site / ("" if page.name == "index" else page) / "index.html").exists()


@pytest.mark.parametrize("page", ["reference/trim_kernels", "reference/trim_prune", "methods/layers", "plugins"])
def test_docstrings_are_in_it_and_no_role_of_sphinx_is_left(site, page):
    html = (site / page / "index.html").read_text(encoding="utf-8")
    assert "doc-heading" in html
    assert not any(f":{role}:" in html for role in ("func", "meth", "class"))


def test_every_public_name_has_its_place(site):
    import trim_kernels
    import trim_prune

    html = (site / "reference/trim_kernels/index.html").read_text(encoding="utf-8")
    assert [name for name in trim_kernels.__all__ if f'id="trim_kernels.{name}' not in html] == ["__version__"]
    # Those of the engine stand on the page that they belong to.
    html = "".join(page.read_text(encoding="utf-8") for page in site.rglob("index.html"))
    assert [name for name in trim_prune.__all__ if f'id="trim_prune.{name}"' not in html] == ["__version__"]


def test_nothing_is_fetched_when_a_page_is_read(site):
    html = (site / "index.html").read_text(encoding="utf-8")
    assert 'src="http' not in html
    assert not [line for line in html.splitlines() if "<link" in line and "http" in line and "canonical" not in line]
