"""report.json: what a report tells beyond run.json, found in the files of the model."""

from __future__ import annotations

import json
from typing import Any

from .files import file_sizes
from .rows import BINS, row_histograms
from .run import Run, kind_of, mean_of, share
from .structured import derive_structured

DERIVED_FILE = "report.json"
DERIVED_VERSION = 1


def derive(run: Run) -> dict[str, Any]:
    """As plain values: sparsity and means by block and by kind of linear, row histograms, bytes of the files.

    Of a structured run, see :func:`derive_structured`.
    """
    if run.structured:
        return {"version": DERIVED_VERSION, **derive_structured(run)}
    kinds: dict[str, list[dict[str, Any]]] = {}
    for linear in run.linears:
        kinds.setdefault(kind_of(linear), []).append(linear)
    return {
        "version": DERIVED_VERSION,
        "blocks": [
            {
                "block": number,
                "sparsity": share(linears),
                **{key: mean_of(linears, key) for key in ("baseline_quality", "quality", "output_error")},
            }
            for number, linears in run.blocks()
        ],
        "kinds": {
            kind: {
                "sparsity": share(linears),
                "blocks": [linear["block"] for linear in linears],
                "sparsities": [linear["sparsity"] for linear in linears],
                "output_errors": [linear.get("output_error") for linear in linears],
            }
            for kind, linears in kinds.items()
        },
        "row_bins": BINS,
        "row_histograms": row_histograms(run.folder, run.linears),
        "bytes": file_sizes(run.folder),
    }


def derived_json(derived: dict[str, Any]) -> str:
    """One line for each entry, whose numbers would otherwise take one each."""

    def lines(value: Any, depth: int) -> str:
        if depth == 0 or not isinstance(value, dict):
            return json.dumps(value, allow_nan=False)
        inner = ",\n".join(
            f"{'  ' * (3 - depth)}{json.dumps(key)}: {lines(item, depth - 1)}" for key, item in value.items()
        )
        return "{\n" + inner + "\n" + "  " * (2 - depth) + "}"

    return lines(derived, 2) + "\n"
