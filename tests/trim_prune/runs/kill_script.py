"""Prunes one model again and again in processes of their own, each of which kills itself at a moment drawn at random.

Run by test_kill.py: the packages are imported once, and every process is a fork. Prints one line of JSON: how many were
killed in which part of the work.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
from collections import Counter
from pathlib import Path

import torch
import transformers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast  # noqa: F401 - imported before the forks

from trim_prune import engine, prune, prune_linears
from trim_prune.calibration import statistics
from trim_prune.models import staging
from trim_prune.models.output import Output
from trim_prune.models.shards import Shards
from trim_prune.runs.folder import Run
from trim_prune.runs.journal import Journal

PARTS = {
    "lay out": [(Output, "prepare"), (Shards, "outline")],
    "collect": [(statistics.LinearStatistics, "add"), (engine, "_collect")],
    "search": [(engine, "prune_linears"), (prune_linears, "_decide")],
    "write": [(Shards, "write"), (Shards, "sync"), (Journal, "add"), (Run, "_save"), (Output, "_verify")],
    "rename": [(staging, "_sync"), (staging.Path, "rename")],
}


class Clock:
    """Counts the calls of what does the work, part by part, and dies before or after one of them."""

    def __init__(self, part: str | None = None, die_at: int = 0) -> None:
        self.ticks, self.part, self.die_at = Counter(), part, die_at

    def tick(self, part: str) -> None:
        self.ticks[part] += 1
        if part == self.part and self.ticks[part] == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self) -> None:
        for part, places in PARTS.items():
            for owner, name in places:
                setattr(owner, name, self._ticking(part, getattr(owner, name)))

    def _ticking(self, part, real):
        def call(*args, **kwargs):
            self.tick(part)
            result = real(*args, **kwargs)
            self.tick(part)
            return result

        return call


def main(folder: str, text: str, out: str, recipe: str, kills: str, seed: str) -> None:
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    text, out, values = Path(text).read_text(), Path(out), json.loads(recipe)
    draw = random.Random(int(seed))
    status, told = run(lambda: pruned(Clock(), folder, text, out, values))
    assert status == 0, told
    whole, ticks = contents(out), json.loads(told)
    shutil.rmtree(out)
    killed, finished = Counter(), 0
    while sum(killed.values()) < int(kills):
        part = min(PARTS, key=lambda part: (killed[part], draw.random()))
        at = draw.randint(1, ticks[part])
        status, told = run(lambda part=part, at=at: pruned(Clock(part, at), folder, text, out, values))
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL
            killed[part] += 1
        else:
            assert status == 0, told
        if out.exists():
            finished += 1
            assert contents(out) == whole
            shutil.rmtree(out)
            shutil.rmtree(out.with_name(f"{out.name}.unfinished"), ignore_errors=True)
    print(json.dumps({"killed": killed, "finished": finished}))


def run(work) -> tuple[int, str]:
    """Do something in a fork; its exit status, and what it told."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            os.write(writing, work().encode())
            os._exit(0)
        except BaseException as error:
            os.write(writing, repr(error).encode()[:4000])
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read().decode()
    return os.waitpid(process, 0)[1], told


def pruned(clock, folder, text, out, recipe) -> str:
    clock.watch()
    prune(folder, recipe, [text], out=out)
    return json.dumps(clock.ticks)


def contents(folder: Path) -> dict[str, bytes]:
    names = {path.name for path in folder.iterdir()} - {
        "run.json",
        "events.jsonl",
        "report.json",
        "report.html",
        "README.md",
    }
    return {name: (folder / name).read_bytes() for name in names}


if __name__ == "__main__":
    main(*sys.argv[1:])
