"""An earlier run of the same model, whose first blocks another run takes over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ..errors import TrimPruneError
from ..formats.masks import MASK_FILE
from ..models.shards import Shards, weight_files
from ..run_facts import complete_result, read_facts
from ..runfile import RUN_FILE
from .journal import JOURNAL_FILE, read_entries, unfinished


@dataclass(frozen=True)
class Earlier:
    """The blocks before ``block`` of a run that ended in ``folder``, or stopped on the way there.

    ``results``: of their linears, as plain values.
    """

    folder: Path
    block: int
    shards: Shards
    masks: Shards
    results: Sequence[Mapping[str, Any]]

    @property
    def fields(self) -> dict[str, Any]:
        """For the fingerprint of the run that takes them over."""
        return {"earlier.folder": str(self.folder), "earlier.block": self.block, "earlier.results": self.results}


def open_earlier(folder: Path, block: int) -> Earlier:
    """Find what the run left.

    Raises:
        TrimPruneError: it left nothing, or fewer blocks than are wanted.
    """
    folder = folder.absolute()
    try:
        if (folder / RUN_FILE).is_file():
            model, noted = folder, folder / RUN_FILE
            results = _linears(read_facts(folder), folder)
        else:
            model, noted = unfinished(folder) / "model", unfinished(folder) / JOURNAL_FILE
            results = [result for entry in read_entries(noted) for result in entry.get("results", [])]
        results = [complete_result(result, noted) for result in results]
        shards, masks = Shards(model, weight_files(model)), Shards(model, [MASK_FILE])
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise TrimPruneError(
            "no earlier run to go on from",
            where=str(folder),
            expected=f"the --out of a run that is finished ({RUN_FILE}, {MASK_FILE}) or unfinished",
            got=f"{type(error).__name__}: {error}",
        ) from error
    done = 1 + max((result["block"] for result in results), default=-1)
    if not 1 <= block <= done:
        raise TrimPruneError(
            "the earlier run does not have the blocks before that one",
            where=str(folder),
            expected=f"from_block from 1 to {done}",
            got=str(block),
        )
    return Earlier(folder, block, shards, masks, [result for result in results if result["block"] < block])


def _linears(facts: Mapping[str, Any], folder: Path) -> list[dict[str, Any]]:
    if "linears" not in facts:
        raise TrimPruneError(
            "the earlier run took whole heads and channels",
            where=str(folder),
            expected="a run that pruned single weights of the same model",
        )
    return [{key: value for key, value in linear.items() if key != "sparsity"} for linear in facts["linears"]]
