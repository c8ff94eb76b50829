"""What trim-prune prune prints at the end of a structured prune."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from ..structured import StructuredResult
from ..structured.parts import UNITS
from ..structured.results import PartResult


def print_structured(console: Console, result: StructuredResult) -> None:
    """Parameters, sizes of blocks, what the repair did, speed, and what a fresh process found."""
    parameters, speed, check = result.parameters, result.speed, result.check
    table = Table("parameters", "count", "share", box=None, pad_edge=False)
    table.add_row("dense", str(parameters.dense), "")
    if parameters.target is not None:
        table.add_row("asked to stay", str(parameters.target), f"{parameters.target / parameters.dense:.6f}")
    kept = "not zero" if result.recipe.mode == "masked" else "pruned"
    table.add_row(kept, str(parameters.kept), f"{parameters.share:.6f}")
    console.print(table)
    lines = []
    for kind, unit in UNITS.items():
        if parts := [part for part in result.parts if part.kind == kind]:
            lines.append(f"{kind}: {_sizes(parts)} {unit} stay in {len(parts)} blocks; {_errors(parts)}")
    lines.append(
        f"tokens per second, decoding on {speed.device}: {speed.dense:.2f} dense, {speed.pruned:.2f} pruned "
        f"({speed.pruned / speed.dense:.2f} times)"
    )
    if check is not None:
        lines.append(
            f"loaded again by {check.loaded_by} in a fresh process: {check.parameters} parameters, logits equal within "
            f"{check.difference:.1e} of the largest"
        )
    lines.append("seconds  " + "  ".join(f"{name} {value:.1f}" for name, value in result.timings.items()))
    lines.append(f"written to {result.out}")
    for line in lines:
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def _sizes(parts: Sequence[PartResult]) -> str:
    kept, whole = ([len(part.kept) for part in parts], [part.units for part in parts])
    return f"{_range(kept)} of {_range(whole)}"


def _range(counts: Sequence[int]) -> str:
    least, most = min(counts), max(counts)
    return str(least) if least == most else f"{least} to {most}"


def _errors(parts: Sequence[PartResult]) -> str:
    measured = [(part.error, part.repaired_error) for part in parts if part.error is not None]
    if not measured:
        return "no repair"
    before = sum(error for error, _ in measured) / len(measured)
    after = sum(error for _, error in measured if error is not None) / len(measured)
    return f"output error {before:.4f}, after repair ({parts[0].repair}) {after:.4f}"
