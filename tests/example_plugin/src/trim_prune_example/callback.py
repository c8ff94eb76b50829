"""A callback: a table of the linears beside the model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trim_prune import Callback, register_callback


@register_callback("example-table")
class Table(Callback):
    def __init__(self) -> None:
        self.lines = ["name,block,rows,columns,pruned,seconds"]

    def on_linear(self, facts: Mapping[str, Any]) -> None:
        rows, columns = facts["shape"]
        cells = (facts["name"], facts["block"], rows, columns, facts["prune_count"], f"{facts['seconds']:.3f}")
        self.lines.append(",".join(map(str, cells)))

    def on_save(self, facts: Mapping[str, Any]) -> None:
        (Path(facts["folder"]) / "linears.csv").write_text("\n".join(self.lines) + "\n", encoding="utf-8")
