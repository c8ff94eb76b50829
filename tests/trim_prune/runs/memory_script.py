"""Prunes a model folder under a limit of memory by one recipe after the other, and prints what each took.

A process of the tests of memory. A line of JSON for each recipe: the largest growth of private memory (bytes), and what
had grown by the end of each block.
"""

from __future__ import annotations

import json
import resource
import sys
import threading
from pathlib import Path

import torch
import transformers

import trim_prune
import trim_prune.report.page


def private(field: str) -> int:
    """Bytes of this process: RssAnon, what it holds beside mapped files; VmData, what it may hold."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def main(warm: str, folder: str, text: str, out: str, recipes: str, limit: str) -> None:
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    # To draw a page takes a second.
    trim_prune.report.page.report_page = lambda run, derived: "not drawn"
    chosen = json.loads(recipes)
    for values in chosen:
        # Everything is imported and every pool of memory begun before it counts.
        trim_prune.prune(warm, values, text, out=f"{warm}-pruned", overwrite=True)
    resource.setrlimit(resource.RLIMIT_DATA, (private("VmData") + int(limit),) * 2)
    for values in chosen:
        measure(folder, values, text, out)


def measure(folder: str, values: dict[str, object], text: str, out: str) -> None:
    before, blocks, peak, done = private("RssAnon"), [], [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.001):
            peak[0] = max(peak[0], private("RssAnon") - before)

    def note(event: trim_prune.Event) -> None:
        if event.kind == "block":
            blocks.append(private("RssAnon") - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        trim_prune.prune(folder, values, text, out=out if out != "nowhere" else None, overwrite=True, on_event=note)
    finally:
        done.set()
        watcher.join()
    print(json.dumps({"peak": peak[0], "blocks": blocks}))


if __name__ == "__main__":
    main(*sys.argv[1:])
