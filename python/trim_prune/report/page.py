"""report.html: one file with everything in it. Needs jinja2 and matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from .. import __version__
from . import plots
from .evaluated import evaluated_tables, perplexities
from .run import Linear, Run
from .structured_page import structured_values
from .structured_words import structured_honest, structured_words
from .words import duration, honest_words, peak, recipe_words, size

ERROR_NOTE = "energy of the change over that of the output, {}"
ERROR_INPUTS = {"gram": "over all calibration tokens", "search_inputs": "over the vectors that the row search saw"}


def report_page(run: Run, derived: Mapping[str, Any]) -> str:
    """The page of one run, of either kind."""
    facts = run.facts
    words, honest = (structured_words, structured_honest) if run.structured else (recipe_words, honest_words)
    values = structured_values(run, derived, safe) if run.structured else _values(run, derived)
    return render(
        "structured.html" if run.structured else "report.html",
        run=run,
        words=words(facts),
        recipe_yaml=yaml.safe_dump(facts["recipe"], sort_keys=False, allow_unicode=True).strip(),
        honest=honest(facts, derived["bytes"]),
        evaluations=evaluated_tables(run.evaluations),
        phases=safe(plots.phase_plot(facts["seconds"])),
        total_time=duration(sum(facts["seconds"].values())),
        **_memory(facts),
        **values,
    )


def _values(run: Run, derived: Mapping[str, Any]) -> dict[str, Any]:
    facts = run.facts
    searched = [linear for linear in run.linears if linear.get("baseline_quality") is not None]
    return {
        "sparsity": facts["sparsity"],
        "cards": _cards(run),
        "plots": _plots(run, derived, searched),
        "sparsity_note": "all linears of a block alike"
        if plots.alike(derived)
        else "each kind of linear, and the whole block",
        "error_note": ERROR_NOTE.format(ERROR_INPUTS.get(facts["output_error_inputs"])),
        "quality_words": _quality_words(searched),
        "quality_note": f"{facts['recipe'].get('trim', {}).get('layer_metric', 'quality')}, mean over linears",
        "fallback_of": "linear",
        "fallbacks": [[linear["name"], "; ".join(linear["steps"])] for linear in run.linears if linear["steps"]],
        "linear_columns": LINEAR_COLUMNS,
        "linear_rows": [_linear_row(linear) for linear in run.linears],
    }


def render(template: str, **values: Any) -> str:
    """A page from a template of this package; values are escaped, figures are not."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("trim_prune.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(template).render(version=__version__, **values)


def safe(svg: str) -> Any:
    """A figure of ours, which a template takes as it is."""
    from markupsafe import Markup

    return Markup(svg)


def _cards(run: Run) -> list[tuple[str, str, str]]:
    facts, sparsity = run.facts, run.facts["sparsity"]
    dense, pruned = perplexities(run.evaluations)
    before = "dense not measured" if dense is None else f"dense {dense:.2f}"
    return [
        (
            "of the prunable weights",
            f"{sparsity['of_prunable']:.4%}",
            f"{sparsity['pruned']} of {sparsity['prunable_weights']}",
        ),
        (
            "of the parameters without embeddings and head",
            f"{sparsity['of_non_embedding']:.4%}",
            f"of {sparsity['non_embedding_parameters']}",
        ),
        ("of all parameters", f"{sparsity['of_all']:.4%}", f"of {sparsity['all_parameters']}"),
        ("perplexity", "—" if pruned is None else f"{pruned:.2f}", "not measured" if pruned is None else before),
        ("time", duration(sum(facts["seconds"].values())), f"on {facts['machine']['device']}"),
        ("peak memory", peak(facts["memory"]["peak"]), "resident, of the whole process"),
    ]


def _plots(run: Run, derived: Mapping[str, Any], searched: list[Linear]) -> dict[str, Any]:
    uneven = any(linear["row_max"] - linear["row_min"] > 1 for linear in run.linears)
    measured = any(linear.get("output_error") is not None for linear in run.linears)
    drawn, left = plots.row_plots(run, derived) if uneven else ([], 0)
    return {
        "sparsity": safe(plots.sparsity_plot(derived)),
        "error": safe(plots.error_plot(derived)) if measured else None,
        "rows": [(title, safe(svg)) for title, svg in drawn],
        "rows_left": left,
        "quality": safe(plots.quality_plot(derived)) if searched else None,
        "rates": safe(plots.rate_plot(run)) if searched else None,
    }


def _quality_words(searched: list[Linear]) -> str:
    better = sum(linear["learning_rate"] is not None for linear in searched)
    return (
        f"The search found better rows than equal ones in {better} of {len(searched)} linears, by the quality of their "
        "output on the vectors that it saw."
    )


def _memory(facts: Mapping[str, Any]) -> dict[str, Any]:
    memory = facts["memory"]
    places = list(memory["peak"])
    rows = [
        [phase, *(size(found[place]) if place in found else "no higher" for place in places)]
        for phase, found in memory["by_phase"].items()
    ]
    note = "the height to which each phase raised it; phases that stayed below what was in use before are left out"
    return {
        "memory_note": note,
        "memory_columns": [("phase", False), *((place, True) for place in places)],
        "memory_rows": [*rows, ["in all", *(size(memory["peak"][place]) for place in places)]],
    }


LINEAR_COLUMNS = [
    ("linear", False),
    ("shape", True),
    ("pruned", True),
    ("sparsity", True),
    ("per row", True),
    ("quality", True),
    ("rate", True),
    ("output error", True),
    ("time, s", True),
]


def _linear_row(linear: Linear) -> list[str]:
    before, after, rate = linear["baseline_quality"], linear["quality"], linear["learning_rate"]
    return [
        linear["name"],
        " x ".join(str(length) for length in linear["shape"]),
        str(linear["prune_count"]),
        f"{linear['sparsity']:.4%}",
        linear["pattern"] or f"{linear['row_min']} to {linear['row_max']}",
        "—" if before is None or after is None else f"{before:.4f} → {after:.4f}",
        "—" if rate is None else f"{rate:g}",
        "—" if linear["output_error"] is None else f"{linear['output_error']:.4f}",
        f"{linear['seconds']:.2f}",
    ]
