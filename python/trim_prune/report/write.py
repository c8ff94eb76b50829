"""Write report.json, report.html and the model card of a pruned folder."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from ..errors import TrimPruneError
from ..files import write_atomically
from .card import write_card
from .derived import DERIVED_FILE, derive, derived_json
from .run import read_run

REPORT_FILE = "report.html"
INSTALL = "pip install 'trim-kernels[report]'"


def missing_packages() -> list[str]:
    """What a page needs and is not installed."""
    return [package for package in ("jinja2", "matplotlib") if find_spec(package) is None]


def require_report() -> None:
    """Raise a TrimPruneError that names what is missing for a page."""
    if missing := missing_packages():
        raise TrimPruneError(f"a page needs {' and '.join(missing)}", fix=INSTALL)


def write_report(folder: Path, *, name: str | None = None) -> bool:
    """Write all three from run.json and the masks; returns whether the card is ours, and so was written.

    ``name``: of the model, where the folder does not have its final name yet. The page is left out where its packages
    are not installed.
    """
    run = read_run(folder) if name is None else read_run(folder, name)
    derived = derive(run)
    write_atomically(folder / DERIVED_FILE, derived_json(derived))
    if not missing_packages():
        from .page import report_page

        write_atomically(folder / REPORT_FILE, report_page(run, derived))
    return write_card(run, derived)


def try_report(folder: Path, name: str, warn: Callable[[str], None]) -> None:
    """As :func:`write_report`; a failure becomes a warning, for the model is worth more than what is said of it."""
    try:
        write_report(folder, name=name)
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        warn(f"no report was written: {type(error).__name__}: {reason}; trim-prune report makes it again")
