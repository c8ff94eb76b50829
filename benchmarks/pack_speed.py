"""How fast a pruned checkpoint is packed, from files to files: dense bytes a second.

    python -m benchmarks.pack_speed [--gigabytes 1] [--sparsity 0.7] [--rounds 3] [--folder DIR]

Makes a folder of bfloat16 matrices of a 7B model's shapes with their masks, packs and unpacks it, and prints the best
round of each: wall seconds, CPU seconds of all threads, and dense bytes over both. The files are read from the page
cache, where they lie after they were made, and written to DIR (default: the temporary folder), which should not be
slower than what is measured. Other work on the machine takes from the wall figure; the load is printed beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.tables import columns
from trim_prune.formats.convert import pack_model, unpack_model
from trim_prune.formats.masks import MASK_FILE, masks_of, save_masks

SHAPES = ((4096, 4096), (11008, 4096), (4096, 11008))
HEADINGS = ("", "wall s", "GB/s", "CPU s", "GB/s of CPU time")


def make_folder(folder: Path, size: int, sparsity: float) -> int:
    """A folder with at least that many bytes of pruned weights; returns how many there are."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    weights: dict[str, Tensor] = {}
    kept: dict[str, Tensor] = {}
    made = 0
    while made < size:
        rows, width = SHAPES[len(weights) % len(SHAPES)]
        name = f"model.layers.{len(weights)}.linear.weight"
        kept[name] = torch.rand(rows, width, generator=generator) >= sparsity
        weights[name] = torch.randn(rows, width, generator=generator).to(torch.bfloat16).masked_fill_(~kept[name], 0)
        made += weights[name].nbytes
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    save_masks(masks_of(kept, "here"), folder / MASK_FILE)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}), encoding="utf-8")
    return made


def best(work: Callable[[Path], object], out: Path, rounds: int) -> tuple[float, float]:
    """Wall and CPU seconds of the round with the least wall time."""
    found = []
    for _ in range(rounds):
        shutil.rmtree(out, ignore_errors=True)
        wall, cpu = time.perf_counter(), time.process_time()
        work(out)
        found.append((time.perf_counter() - wall, time.process_time() - cpu))
    return min(found)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line for packing and one for unpacking."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pack_speed", description="Speed of packing.")
    parser.add_argument("--gigabytes", type=float, default=1.0, help="of dense weights")
    parser.add_argument("--sparsity", type=float, default=0.7)
    parser.add_argument("--rounds", type=int, default=3, help="the best of so many counts")
    parser.add_argument("--folder", type=Path, help="where files are made (default: the temporary folder)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        dense, packed, again = (Path(place) / name for name in ("dense", "packed", "again"))
        size = make_folder(dense, int(options.gigabytes * 1e9), options.sparsity)
        times = {
            "pack": best(lambda out: pack_model(dense, out), packed, options.rounds),
            "unpack": best(lambda out: unpack_model(packed, out), again, options.rounds),
        }
        share = (packed / "packed-model.safetensors").stat().st_size / size
    lines: list[tuple[str, ...]] = [HEADINGS]
    for name, taken in times.items():
        lines.append((name, *(text for seconds in taken for text in (f"{seconds:.2f}", f"{size / seconds / 1e9:.2f}"))))
    print(columns(lines))
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(
        f"{size / 1e9:.2f} GB dense, {share:.3f} of it packed; {torch.get_num_threads()} threads; load of the machine "
        f"over 1, 5 and 15 minutes: {load}"
    )


if __name__ == "__main__":
    main()
